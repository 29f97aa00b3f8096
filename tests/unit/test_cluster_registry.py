"""Shards of a source cluster from one look to the next, and the map of their slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.cluster import slot_of
from canal.cluster.registry import Registry
from canal.cluster.shards import View, shard_endpoint, take_up
from canal.cluster.topology import Member, Shard, Topology
from canal.errors import StateError
from canal.url import parse_url
from sync.config import LinkConfig
from sync.placing import TransformOptions
from sync.rules import Adjusted, Dropped, Rules
from sync.slotmap import SlotMap, parse_ranges, ranges
from sync.slots import SlotKeeper
from sync.status import LinkStatus
from sync.transform import Transform


def shard(master: str | None, *replicas: str, slots: tuple[int, int] | None = (0, 1)) -> Shard:
    nodes = [Member(name * 40, "h", 1) for name in replicas]
    led = None if master is None else Member(master * 40, "h", 1)
    return Shard(led, tuple(nodes), () if slots is None else (slots,))


def topology(*shards: Shard) -> Topology:
    return Topology(shards)


def names(registry: Registry) -> set[str]:
    return set(registry.shards)


def test_a_failover_keeps_the_name_and_the_next_one_does_too() -> None:
    registry = Registry()
    assert registry.look(topology(shard("a", "b"), shard("c")))
    assert names(registry) == {"a" * 12, "c" * 12}
    assert registry.look(topology(shard("b", "d"), shard("c")))  # a is gone, d has come
    assert not registry.look(topology(shard("d", "b"), shard("c")))
    assert names(registry) == {"a" * 12, "c" * 12}
    assert not registry.look(topology(shard("d", "b"), shard("c")))


def test_a_replica_that_has_gone_over_to_another_master_takes_no_name_with_it() -> None:
    registry = Registry()
    registry.look(topology(shard("a", "b"), shard("c")))
    registry.look(topology(shard("a"), shard("c", "b")))
    registry.look(topology(shard("a"), shard("b", "c")))
    assert registry.shards["c" * 12].members == {"b" * 40, "c" * 40}
    assert names(registry) == {"a" * 12, "c" * 12}


def test_a_shard_without_master_is_not_gone_but_one_of_unknown_nodes_is() -> None:
    registry = Registry()
    registry.look(topology(shard("a", "b"), shard("c")))
    for _ in range(9):
        registry.look(topology(shard(None, "b"), shard("c")))
    assert registry.gone(1) == []
    for _ in range(3):
        registry.look(topology(shard("c")))
    assert registry.gone(3) == ["a" * 12] and registry.gone(4) == []
    registry.look(topology(shard("b"), shard("c")))
    assert registry.gone(1) == []


def test_a_dead_master_beside_its_heir_is_no_shard_of_its_own() -> None:
    """Right after a takeover CLUSTER SHARDS still calls the old master one, without slots."""
    registry = Registry()
    registry.look(topology(shard("a", "b"), shard("c")))
    for _ in range(3):
        registry.look(topology(shard("a", slots=None), shard("b"), shard("c")))
        assert names(registry) == {"a" * 12, "c" * 12}
        registry = Registry.of({name: one.members for name, one in registry.shards.items()})  # a restart
    registry.look(topology(shard("b", "a"), shard("c")))
    registry.look(topology(shard("a", "b"), shard("c")))
    assert names(registry) == {"a" * 12, "c" * 12} and not registry.gone(1)


def test_a_master_that_left_its_shard_and_got_slots_is_a_new_one() -> None:
    registry = Registry()
    registry.look(topology(shard("a", "b"), shard("c")))
    registry.look(topology(shard("a", slots=None), shard("b"), shard("c")))
    registry.look(topology(shard("a", slots=(5, 6)), shard("b", slots=(7, 99)), shard("c")))
    assert len(registry.shards) == 3
    assert registry.shards["a" * 12].members == {"b" * 40}


def test_a_shard_whose_nodes_all_follow_another_master_is_gone() -> None:
    """What a master does that lost its last slot, with cluster-allow-replica-migration."""
    registry = Registry()
    registry.look(topology(shard("a", "b"), shard("c")))
    for _ in range(3):
        registry.look(topology(shard("c", "a", "b")))
    assert registry.gone(3) == ["a" * 12]


def test_a_new_master_is_a_shard_once_it_has_slots() -> None:
    """Before that it may be about to become a replica."""
    registry = Registry()
    assert registry.look(topology(shard("a"), shard("n", slots=None)))
    assert names(registry) == {"a" * 12}
    assert registry.look(topology(shard("a"), shard("n")))
    assert names(registry) == {"a" * 12, "n" * 12}
    assert not registry.look(topology(shard("a"), shard("n", slots=None)))  # and stays one without any


def test_a_shard_whose_nodes_follow_another_master_has_none() -> None:
    """Following the node that was its master would bring the other shard's stream."""
    endpoint = shard_endpoint(parse_url("redis+cluster://127.0.0.1:7"), "gone", ["a" * 40])
    assert take_up(endpoint, View(topology(shard("a", "b"), shard("c")), True, 1.0)).master is not None
    dead = take_up(endpoint, View(topology(shard(None, "b"), shard("c")), True, 2.0))
    assert dead.master is not None  # it may come back, or its replica take over
    assert take_up(endpoint, View(topology(shard("c", "a", "b")), False, 3.0)).master is not None
    assert take_up(endpoint, View(topology(shard("c", "a", "b")), True, 4.0)).master is None


@given(st.frozensets(st.integers(0, 16383), max_size=200))
def test_ranges_come_back(slots: frozenset[int]) -> None:
    assert parse_ranges(ranges(slots)) == slots


def test_ranges_are_short() -> None:
    assert ranges(range(16384)) == "0-16383"
    assert ranges([1, 2, 3, 7]) == "1-3,7"


@pytest.mark.parametrize("text", ["x", "1-", "5-x", "0-16384", "-1"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(StateError):
        parse_ranges(text)


def test_others() -> None:
    there = SlotMap(b"k", "u", b"1", {"a": frozenset({1, 2}), "b": frozenset({3})})
    assert there.others("a") == {3} and there.others("c") == {1, 2, 3}


def keeper(owned: str) -> SlotKeeper:
    cluster = parse_url("redis+cluster://127.0.0.1:1")
    config = LinkConfig("t", shard_endpoint(cluster, "me", ["id"]), parse_url("redis://h"), Path("x"), shard="me")
    made = SlotKeeper(config, LinkStatus("t", "me", "a", "b"), Transform(TransformOptions()), lambda: None)
    made.owned = parse_ranges(owned)
    return made


def adjusted(made: SlotKeeper, *argv: bytes) -> Adjusted:
    rules = Rules("a", frozenset(), {}, adjust=lambda db, argv, received_ms, end: [(db, argv)])
    made.govern(rules)
    return rules.adjust(0, list(argv), 0, 1)


def test_a_key_that_is_moved_in_gives_its_slot_up_in_the_same_transaction() -> None:
    made = keeper("0-16383")
    slot = slot_of(b"k")
    restore = (b"RESTORE-ASKING", b"k", b"0", b"payload")
    commands = adjusted(made, *restore)
    assert isinstance(commands, list)
    left = next(argv for _, argv in commands if b"shard:me" in argv)
    assert slot not in parse_ranges(left[3].decode()) and len(parse_ranges(left[3].decode())) == 16383
    assert next(argv for _, argv in commands if b"dirty:me" in argv)[3] == b"%d" % slot
    assert commands[-1] == (0, list(restore))
    assert slot not in made.mine
    assert adjusted(made, *restore) == [(0, list(restore))]  # once is enough


def test_a_flush_gives_all_slots_up_and_what_servers_say_of_slots_is_no_data() -> None:
    made = keeper("0-99")
    commands = adjusted(made, b"FLUSHALL")
    assert isinstance(commands, list)
    assert [argv[2:] for _, argv in commands[:2]] == [[b"shard:me", b""], [b"dirty:me", b"0-99"]]
    assert adjusted(made, b"CLUSTER", b"SETSLOT", b"1", b"NODE", b"x") == Dropped("cluster")


def test_tokens_are_answered_by_all_others() -> None:
    both = {"a": frozenset[int](), "b": frozenset[int](), "c": frozenset[int]()}
    there = SlotMap(b"k", "u", b"1", both, {}, {"a": "t", "gone": "x"}, {"b/a": "t"})
    assert not there.answered("a")
    assert there.unanswered("b") == {} and there.unanswered("c") == {"a": "t"}
    assert SlotMap(b"k", "u", b"1", both, {}, {"a": "t"}, {"b/a": "t", "c/a": "t"}).answered("a")
