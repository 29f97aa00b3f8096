"""The window of own writes, the keys of runs of commands, and what is given up at the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.keyscan import command_keys
from canal.resp import encode, parse
from sync import window as module
from sync.window import SIMPLE, Window, places_written


def run(*commands: bytes) -> bytes:
    return b"".join(encode(command.split()) for command in commands)


def test_keys_of_a_run_and_where_its_other_commands_begin() -> None:
    raw = run(b"SET a 1", b"SET b 2", b"set c 3", b"MSET d 1 e 2", b"PING", b"SET f 1", b"SETEX g 1 2")
    keys, others = command_keys(raw, {b"SET": 1, b"PING": 1})
    assert keys == [b"a", b"b", b"f"]
    assert [parse(raw, at, len(raw)) for at in others] == [
        ([b"set", b"c", b"3"], others[0] + len(run(b"set c 3"))),
        ([b"MSET", b"d", b"1", b"e", b"2"], others[1] + len(run(b"MSET d 1 e 2"))),
        ([b"PING"], others[2] + len(run(b"PING"))),
        ([b"SETEX", b"g", b"1", b"2"], len(raw)),
    ]


def test_keys_may_hold_anything() -> None:
    odd = [b"", b"\r\n", b"*1\r\n$3\r\nSET\r\n", b"\x00" * 300]
    assert command_keys(b"".join(encode([b"SET", key, key]) for key in odd), {b"SET": 1}) == (odd, [])


def test_names_that_begin_alike_are_told_apart() -> None:
    raw = run(b"SETA x", b"SET y", b"SETA z", b"SETB w")
    assert command_keys(raw, {b"SETA": 1})[0] == [b"x", b"z"]


def test_the_newest_position_of_a_key_is_what_counts() -> None:
    window = Window()
    window.note(0, run(b"SET a 1", b"SET b 1"), 10)
    window.note(0, run(b"SET a 2", b"RENAME c d"), 20)
    window.note(1, run(b"SET a 1"), 30)
    window.touch((0, b"e"), 40)
    assert [window.get((0, key)) for key in (b"a", b"b", b"c", b"d", b"e", b"f")] == [20, 10, 20, 20, 40, -1]
    assert window.get((1, b"a")) == 30 and window.get((2, b"a")) == -1
    assert window.last == 40
    assert sorted(window.after(20)) == [(0, b"e"), (1, b"a")]
    assert window.among(0, [b"x", b"a", b"d"]) == [b"a", b"d"] and window.among(7, [b"a"]) == []


def test_what_everybody_has_seen_goes() -> None:
    window = Window()
    window.note(0, run(b"SET a 1"), 10)
    window.note(0, run(b"SET b 1"), 20)
    assert window.waiting_bytes > 0
    window.expire(10)
    assert window.get((0, b"a")) == -1, "never looked into"
    assert window.get((0, b"b")) == 20
    window.expire(19)
    assert len(window) == 1
    window.expire(20)
    assert len(window) == 0 and window.waiting_bytes == 0 and window.floor == -1


def test_beyond_the_bound_the_oldest_lie_below_the_floor() -> None:
    window = Window(max_keys=80)
    for number in range(200):
        window.touch((0, b"k%d" % number), number)
        window.note(0, run(b"SET other 1"), number)
    assert len(window) <= 80 + 10
    assert window.given_up > 0
    assert window.get((0, b"k199")) == 199
    kept = [number for number in range(200) if window.get((0, b"k%d" % number)) >= 0]
    assert kept[0] <= window.floor + 1, "everything after the floor is known"


def test_beyond_the_exact_ones_keys_are_known_by_their_hashes() -> None:
    window = Window(max_keys=500, exact=80)
    for number in range(300):
        window.touch((number % 2, b"k%d" % number), number)
    assert window.floor == -1 and window.given_up == 0
    for number in range(300):
        assert window.get((number % 2, b"k%d" % number)) >= number
        assert window.get((1 - number % 2, b"k%d" % number)) == -1
    assert window.get((1, b"k299")) == 299
    names = [b"k%d" % number for number in range(0, 300, 2)]
    assert set(window.among(0, [*names, b"never"])) == set(names)
    window.expire(200)
    assert window.get((0, b"k0")) == -1 and window.get((1, b"k201")) >= 201
    window.expire(299)
    assert len(window) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 30), st.sampled_from(["touch", "note", "seen"])), max_size=300
    ),
    st.integers(8, 40),
    st.integers(0, 80),
)
def test_no_write_that_is_not_seen_is_ever_forgotten(steps: list[tuple[int, int, str]], exact: int, more: int) -> None:
    window, written, seen = Window(max_keys=exact + more, exact=exact), dict[tuple[int, bytes], int](), 0
    for position, (db, number, what) in enumerate(steps, 1):
        key = b"k%d" % number
        if what == "touch":
            window.touch((db, key), position)
        elif what == "note":
            window.note(db, run(b"SET %b 1" % key), position)
        else:
            seen = max(seen, position - 5 * number)
            window.expire(seen)
            continue
        written[db, key] = position
    for (db, key), position in written.items():
        if position > max(seen, window.floor):
            assert window.get((db, key)) >= position
            assert window.among(db, [key])
    assert len(window) <= exact + more + 2 * (exact // 8 + 1) + window.waiting_bytes


def test_every_key_was_written_by_a_flush() -> None:
    window = Window(floor=5)
    window.touch((0, b"k"), 10)
    window.all_written(30)
    assert (window.floor, window.last) == (30, 30)
    window.all_written(20)
    assert window.floor == 30


def test_runs_are_looked_into_before_they_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING_BYTES", 1000)
    window = Window()
    for number in range(100):
        window.note(0, run(b"SET k%d 1" % number), number)
        assert window.waiting_bytes <= 1100
    assert len(window) > 50


@pytest.mark.parametrize(
    ("command", "places"),
    [
        (b"SET k 1", [(3, b"k")]),
        (b"RENAME a b", [(3, b"a"), (3, b"b")]),
        (b"MOVE k 5", [(3, b"k"), (5, b"k")]),
        (b"COPY a b DB 7", [(7, b"b")]),
        (b"module.write k v", [(3, b"k")]),
        (b"module.write", []),
    ],
)
def test_places_that_a_command_writes(command: bytes, places: list[tuple[int, bytes]]) -> None:
    assert places_written(3, command.split()) == places


def test_of_simple_commands_the_first_argument_is_all_there_is() -> None:
    for name in SIMPLE:
        assert places_written(0, [name, b"k", b"x", b"y", b"z"]) == [(0, b"k")], name
