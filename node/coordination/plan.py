"""Which node should run which shard: a pure function, so that every node comes to the same answer without a leader.

Bounded-load rendezvous hashing that starts from where the shards are now:

1. *Quotas.* A level is raised until all shards fit: with ample room every node gets ⌊shards/nodes⌋ or ⌈shards/nodes⌉,
   a node with a lower capacity gets that, and the others share the rest. Where some nodes may hold one more than
   others, those that hold it already keep it.
2. *Keep.* A node keeps the shards that it holds, up to its quota; what it gives up are those it ranks lowest.
3. *Place.* Every other shard goes to the highest-ranked node with room (rank: a hash of node and shard).

What follows, and tests/property/test_plan_properties.py proves: no node above its bound; a node that leaves moves its
own shards only; a node that joins moves no more than its own quota, and only to itself; planning again from the planned
placement changes nothing; the order in which the facts arrive does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class ShardId(NamedTuple):
    """One shard of one task."""

    task: str
    shard: str

    def __str__(self) -> str:
        return f"{self.task}/{self.shard}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a live node offers: at most ``max_shards``; none at all while ``draining``."""

    max_shards: int = 256
    draining: bool = False


def rank(node: str, shard: ShardId) -> int:
    """How much ``node`` wants ``shard``: 64 bits that depend on the two names only."""
    digest = hashlib.blake2b(f"{node}\0{shard.task}\0{shard.shard}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def assign(
    shards: Iterable[ShardId],
    nodes: Mapping[str, Capacity],
    holders: Mapping[ShardId, str] | None = None,
) -> dict[ShardId, str | None]:
    """Return the node for each shard, or None for a shard that no node has room for.

    ``holders`` is who holds a shard's lease now; holders that are not among ``nodes`` (dead) or that drain count as
    none. The result is a pure function of the three arguments, whatever their order.
    """
    wanted = sorted(set(shards))
    room = {name: nodes[name].max_shards for name in sorted(nodes) if not nodes[name].draining}
    held: dict[str, list[ShardId]] = {name: [] for name in room}
    for shard in wanted:
        holder = (holders or {}).get(shard)
        if holder in held:
            held[holder].append(shard)
    quota = quotas(len(wanted), room, {name: len(own) for name, own in held.items()})
    placed: dict[ShardId, str | None] = dict.fromkeys(wanted)
    for name, own in held.items():
        own.sort(key=lambda shard: (-rank(name, shard), shard))
        for shard in own[: quota[name]]:
            placed[shard] = name
            quota[name] -= 1
    for shard in wanted:
        if placed[shard] is None:
            placed[shard] = _best(shard, quota)
    return placed


def _best(shard: ShardId, free: dict[str, int]) -> str | None:
    """The highest-ranked node with room for ``shard``; takes the room."""
    best = max(
        (name for name, left in free.items() if left > 0), key=lambda name: (rank(name, shard), name), default=None
    )
    if best is not None:
        free[best] -= 1
    return best


def quotas(shards: int, room: Mapping[str, int], load: Mapping[str, int]) -> dict[str, int]:
    """How many shards each node may hold; the sum is ``min(shards, all room)``.

    ``room``: capacity by node. ``load``: how many it holds now, which decides only who of several equal nodes holds
    one more than the others.
    """
    goal = min(shards, sum(room.values()))
    level = _level(goal, room)
    quota = {name: min(limit, level) for name, limit in room.items()}
    extra = goal - sum(quota.values())
    taller = [name for name, limit in room.items() if limit > level]
    taller.sort(key=lambda name: (-min(load.get(name, 0), level + 1), _tie(name)))
    for name in taller[:extra]:
        quota[name] += 1
    return quota


def _level(goal: int, room: Mapping[str, int]) -> int:
    """The highest level L such that filling every node up to ``min(room, L)`` needs no more than ``goal`` shards."""
    left, level = goal, 0
    limits = sorted(room.values())
    for index, limit in enumerate(limits):
        sharing = len(limits) - index
        step = limit - level
        if step * sharing > left:
            return level + left // sharing
        left -= step * sharing
        level = limit
    return level


def _tie(name: str) -> int:
    return rank(name, ShardId("", ""))
