"""The laws of the plan (issue: at most ⌈shards/nodes⌉; little movement; same facts, same plan)."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from node.coordination.plan import Capacity, ShardId, assign

NAMES = st.integers(0, 30).map(lambda n: f"node-{n}")
SHARDS = st.sets(st.builds(ShardId, st.integers(0, 20).map(lambda n: f"task-{n}"), st.sampled_from("012")), max_size=40)
AMPLE = st.sets(NAMES, min_size=1, max_size=8).map(lambda names: {name: Capacity(1000) for name in names})
ANY = st.dictionaries(NAMES, st.builds(Capacity, st.integers(0, 12), st.booleans()), max_size=8)


@st.composite
def facts(
    draw: st.DrawFn, nodes: st.SearchStrategy[dict[str, Capacity]]
) -> tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]]:
    shards, fleet = draw(SHARDS), draw(nodes)
    holders = draw(st.dictionaries(st.sampled_from(sorted(shards)), NAMES)) if shards else {}
    return shards, fleet, holders


def settled(shards: set[ShardId], fleet: dict[str, Capacity], holders: dict[ShardId, str]) -> dict[ShardId, str]:
    return {shard: node for shard, node in assign(shards, fleet, holders).items() if node is not None}


def load_of(placement: dict[ShardId, str]) -> Counter[str]:
    return Counter(placement.values())


@given(facts(AMPLE))
def test_no_node_has_more_than_its_share(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]],
) -> None:
    shards, fleet, holders = given_facts
    placement = settled(shards, fleet, holders)
    assert placement.keys() == shards
    bound = ceil(len(shards) / len(fleet))
    assert all(bound - 1 <= load_of(placement)[name] <= bound for name in fleet) or not shards


@given(facts(ANY))
def test_capacity_and_draining_are_kept_and_no_room_is_wasted(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]],
) -> None:
    shards, fleet, holders = given_facts
    placement = settled(shards, fleet, holders)
    room = {name: 0 if node.draining else node.max_shards for name, node in fleet.items()}
    assert len(placement) == min(len(shards), sum(room.values()))
    assert all(count <= room[name] for name, count in load_of(placement).items())


@given(facts(ANY))
def test_planning_again_from_the_plan_changes_nothing(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]],
) -> None:
    shards, fleet, holders = given_facts
    placement = settled(shards, fleet, holders)
    assert settled(shards, fleet, placement) == placement


@given(facts(AMPLE), st.data())
def test_a_node_that_leaves_moves_only_its_own_shards(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]], data: st.DataObject
) -> None:
    shards, fleet, holders = given_facts
    before = settled(shards, fleet, holders)
    leaver = data.draw(st.sampled_from(sorted(fleet)))
    rest = {name: node for name, node in fleet.items() if name != leaver}
    for after_fleet in (rest, rest | {leaver: Capacity(1000, draining=True)}):
        after = settled(shards, after_fleet, before)
        assert all(after.get(shard) == node for shard, node in before.items() if node != leaver)
        assert leaver not in after.values()


@given(facts(AMPLE), NAMES)
def test_a_node_that_joins_moves_only_what_balance_needs_and_only_to_itself(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]], joiner: str
) -> None:
    shards, fleet, holders = given_facts
    fleet.pop(joiner, None)
    before = settled(shards, fleet, holders)
    after = settled(shards, fleet | {joiner: Capacity(1000)}, before)
    moved = {shard for shard in before if before[shard] != after[shard]}
    assert all(after[shard] == joiner for shard in moved)
    share = len(shards) / (len(fleet) + 1)
    excess = sum(max(0, count - ceil(share)) for count in load_of(before).values())
    assert len(moved) <= max(excess, int(share))


@given(facts(ANY), st.randoms(use_true_random=False))
def test_same_facts_in_any_order_give_the_same_plan(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]], rng: random.Random
) -> None:
    shards, fleet, holders = given_facts
    order = sorted(shards)
    rng.shuffle(order)
    names, held = list(fleet), list(holders.items())
    rng.shuffle(names)
    rng.shuffle(held)
    assert assign(order, {name: fleet[name] for name in names}, dict(held)) == assign(shards, fleet, holders)


@given(facts(ANY))
def test_nodes_acting_one_after_another_reach_the_plan(
    given_facts: tuple[set[ShardId], dict[str, Capacity], dict[ShardId, str]],
) -> None:
    """Nodes act one by one on what they see meanwhile: whoever is first, all end at a stable placement."""
    shards, fleet, holders = given_facts
    held = {shard: node for shard, node in holders.items() if node in fleet}
    for _ in range(4 * len(shards) + 4):
        plan = assign(shards, fleet, held)
        give = [shard for shard in sorted(held) if plan[shard] not in (None, held[shard])]
        take = [shard for shard in sorted(shards) if shard not in held and plan[shard] is not None]
        if give:
            del held[give[0]]
        elif take:
            node = plan[take[0]]
            assert node is not None
            held[take[0]] = node
        else:
            break
    else:
        raise AssertionError("the nodes never settle")
    assert len(settled(shards, fleet, held)) <= len(held) or not fleet
