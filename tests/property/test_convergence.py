"""Whatever is written where, and whenever it arrives: when writers stop, all datacenters hold the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.contend import FULL
from tests.support.datacenters import World
from tests.support.effort import share

EXAMPLES = 1000 if FULL else share(60)
KEYS = [b"a", b"b", b"c"]
key = st.sampled_from(KEYS)
command = st.one_of(
    st.tuples(st.just(b"SET"), key, st.sampled_from([b"1", b"2", b"3"])),
    st.tuples(st.just(b"APPEND"), key, st.sampled_from([b"x", b"y"])),
    st.tuples(st.just(b"DEL"), key),
    st.tuples(st.just(b"COPY"), key, key, st.just(b"REPLACE")),
    st.tuples(st.just(b"RENAME"), key, key),
    st.tuples(st.just(b"LPOP"), key),
    st.tuples(st.just(b"RPOPLPUSH"), key, key),
).map(list)


def steps(names: str) -> Any:
    pairs = [x + y for x in names for y in names if x != y]
    return st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from(names), st.lists(command, min_size=1, max_size=3)),
            st.tuples(st.just("send"), st.sampled_from(pairs), st.sampled_from([1, 40, 1 << 30])),
            st.tuples(st.just("arrive"), st.sampled_from(pairs), st.none()),
        ),
        max_size=25,
    )


def play(world: World, plan: list[tuple[str, str, Any]]) -> None:
    number = 0
    for what, where, more in plan:
        if what == "write":
            number += 1
            tagged = [
                [*argv[:2], argv[2] + b"%d%s" % (number, where.encode())] if argv[0] in (b"SET", b"APPEND") else argv
                for argv in more
            ]
            world.all[where].write(*tagged)
        elif what == "send":
            world.links[where].send(more)
        elif world.links[where].may_arrive:
            world.links[where].arrive()


# What b copied is in dispute, and b, its home, cannot tell: the other write has no effect there, and no tag is due.
WITHOUT_A_TRACE = [
    ("write", "b", [[b"SET", b"a", b"1"]]),
    ("send", "ba", 40),
    ("arrive", "ba", None),
    ("write", "a", [[b"LPOP", b"a"]]),
    ("write", "b", [[b"COPY", b"a", b"b", b"REPLACE"], [b"DEL", b"a"]]),
]


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps("ab"), st.sampled_from(["hash", "a", "b"]))
@example(WITHOUT_A_TRACE, "b")
def test_two_end_equal(plan: list[tuple[str, str, Any]], home: str) -> None:
    world = World("ab", home)
    play(world, plan)
    world.finish()
    first, second = world.states
    assert first == second


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps("abc"), st.sampled_from(["hash", "a"]))
def test_three_in_a_mesh_end_equal(plan: list[tuple[str, str, Any]], home: str) -> None:
    world = World("abc", home)
    play(world, plan)
    world.finish()
    first, second, third = world.states
    assert first == second == third


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps("ab"))
def test_a_key_written_on_one_side_only_is_never_lost(plan: list[tuple[str, str, Any]]) -> None:
    """Local writes in the middle of tagged traffic."""
    world = World("ab")
    play(world, plan)
    for name, one in world.all.items():
        one.write([b"APPEND", b"only " + name.encode(), b"1"])
    play(world, plan)
    for name, one in world.all.items():
        one.write([b"APPEND", b"only " + name.encode(), b"2"])
    world.finish()
    for one in world.all.values():
        assert (one.data[b"only a"], one.data[b"only b"]) == (b"12", b"12")


@pytest.mark.parametrize("home", ["a", "b"])
def test_two_concurrent_writes_do_not_swap(home: str) -> None:
    world = World("ab", home)
    world.all["a"].write([b"SET", b"k", b"from a"])
    world.all["b"].write([b"SET", b"k", b"from b"])
    world.finish()
    assert world.states[0] == world.states[1]
    assert sum(link.conflicts.figures.conflicts for link in world.links.values()) >= 2


def test_without_a_conflict_nothing_is_echoed() -> None:
    world = World("ab")
    for number in range(20):
        world.all["ab"[number % 2]].write([b"SET", b"k", b"%d" % number])
        world.finish()
    assert sum(link.conflicts.figures.conflicts for link in world.links.values()) == 0
    assert b"RESTORE" not in world.all["a"].stream + world.all["b"].stream
    assert world.states == [{b"k": b"19"}] * 2
