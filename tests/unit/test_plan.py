"""Assignments that a person can check by eye; the laws are proven in tests/property/test_plan_properties.py."""

from __future__ import annotations

from collections import Counter

import pytest

from node.coordination.plan import Capacity, ShardId, assign, quotas, rank


def tasks(count: int) -> list[ShardId]:
    return [ShardId(f"task-{n:02}", "0") for n in range(count)]


def nodes(*names: str) -> dict[str, Capacity]:
    return {name: Capacity() for name in names}


def loads(plan: dict[ShardId, str | None]) -> dict[str | None, int]:
    return dict(Counter(plan.values()))


def held(plan: dict[ShardId, str | None]) -> dict[ShardId, str]:
    return {shard: node for shard, node in plan.items() if node is not None}


def test_twelve_tasks_on_three_nodes_are_four_each_then_six_each_then_four_each_again() -> None:
    three = assign(tasks(12), nodes("a", "b", "c"))
    assert loads(three) == {"a": 4, "b": 4, "c": 4}
    two = assign(tasks(12), nodes("a", "b"), held(three))
    assert loads(two) == {"a": 6, "b": 6}
    assert all(two[shard] == node for shard, node in three.items() if node != "c")
    again = assign(tasks(12), nodes("a", "b", "c"), held(two))
    assert loads(again) == {"a": 4, "b": 4, "c": 4}
    assert all(again[shard] in (node, "c") for shard, node in two.items())


def test_a_draining_node_gets_none_and_gives_all() -> None:
    before = assign(tasks(12), nodes("a", "b", "c"))
    after = assign(tasks(12), nodes("a", "b") | {"c": Capacity(draining=True)}, held(before))
    assert loads(after) == {"a": 6, "b": 6}


def test_the_only_node_draining_leaves_shards_without_a_place() -> None:
    assert set(assign(tasks(3), {"a": Capacity(draining=True)}).values()) == {None}
    assert set(assign(tasks(3), {}).values()) == {None}


def test_capacity_bounds_a_node_and_the_others_share_the_rest() -> None:
    plan = assign(tasks(12), {"small": Capacity(max_shards=2), "b": Capacity(), "c": Capacity()})
    assert loads(plan) == {"small": 2, "b": 5, "c": 5}


def test_without_enough_room_the_rest_stays_unplaced() -> None:
    plan = assign(tasks(5), {"a": Capacity(max_shards=1), "b": Capacity(max_shards=2)})
    assert loads(plan) == {"a": 1, "b": 2, None: 2}


def test_a_lease_of_a_dead_node_counts_as_none() -> None:
    plan = assign(tasks(4), nodes("a", "b"), dict.fromkeys(tasks(4), "gone"))
    assert loads(plan) == {"a": 2, "b": 2}


def test_who_holds_one_more_keeps_it() -> None:
    shards = tasks(3)
    for holder, other in (("a", "b"), ("b", "a")):
        now = {shards[0]: holder, shards[1]: holder, shards[2]: other}
        assert assign(shards, nodes("a", "b"), now) == now


def test_rank_depends_on_names_only_and_never_changes() -> None:
    """A change of the hash would move shards between nodes of different versions for ever."""
    assert rank("sh-1", ShardId("sh-bj", "0")) == 759236703628276780
    assert rank("sh-1", ShardId("sh-bj", "1")) != rank("sh-1", ShardId("sh-bj", "0"))
    assert rank("a", ShardId("b", "c")) != rank("a", ShardId("bc", ""))


@pytest.mark.parametrize(
    ("shards", "room", "expected"),
    [
        (0, {"a": 5}, {"a": 0}),
        (7, {"a": 9, "b": 9}, {7}),
        (10, {"a": 1, "b": 3, "c": 100}, {"a": 1, "b": 3, "c": 6}),
        (3, {}, {}),
    ],
)
def test_quotas(shards: int, room: dict[str, int], expected: dict[str, int] | set[int]) -> None:
    got = quotas(shards, room, {})
    if isinstance(expected, dict):
        assert got == expected
    else:
        assert sum(got.values()) in expected and max(got.values()) - min(got.values()) <= 1


def test_a_shard_goes_to_the_node_that_ranks_it_highest() -> None:
    """Nodes of two versions plan beside one another: they must not only agree with themselves."""
    for number in range(50):
        shards = [ShardId(f"task{number}", str(shard)) for shard in range(3)]  # the first has the choice among all
        plan = assign(shards, nodes("a", "b", "c"), {})
        assert plan[shards[0]] == max("abc", key=lambda name: rank(name, shards[0]))


def test_a_node_gives_up_what_it_ranks_lowest() -> None:
    shards = tasks(10)
    plan = assign(shards, nodes("a", "b"), dict.fromkeys(shards, "a"))
    kept = {shard for shard, node in plan.items() if node == "a"}
    assert kept == set(sorted(shards, key=lambda shard: rank("a", shard))[5:])


def test_equal_nodes_take_the_odd_shard_by_rank() -> None:
    for names in (("a", "b"), ("x", "y"), ("n1", "n2"), ("n3", "n4"), ("sh-1", "sh-2")):
        first = min(names, key=lambda name: rank(name, ShardId("", "")))
        assert quotas(3, dict.fromkeys(names, 9), {}) == {name: 2 if name == first else 1 for name in names}


def test_a_node_that_is_full_takes_no_odd_shard() -> None:
    for names in (("a", "b", "c"), ("c", "b", "a")):
        room = {names[0]: 1, names[1]: 9, names[2]: 9}
        assert quotas(4, room, {})[names[0]] == 1
        assert sum(quotas(4, room, {}).values()) == 4


def test_who_holds_more_than_the_odd_shard_has_no_better_claim_to_it_and_who_holds_none_a_worse_one() -> None:
    for names in (("a", "b"), ("b", "a"), ("x", "y"), ("y", "x")):
        first = min(names, key=lambda name: rank(name, ShardId("", "")))
        got = quotas(3, dict.fromkeys(names, 9), {names[0]: 2, names[1]: 3})
        assert got == {name: 2 if name == first else 1 for name in names}
        assert quotas(3, dict.fromkeys(names, 9), {names[0]: 1}) == {names[0]: 2, names[1]: 1}


def test_a_shard_is_written_with_its_task_first_and_a_node_offers_room_for_256() -> None:
    assert str(ShardId("sh-bj", "0")) == "sh-bj/0"
    assert Capacity() == Capacity(256, False)
