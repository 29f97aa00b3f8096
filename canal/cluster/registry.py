"""Which shards a source cluster has, from one look to the next: names that stay through failovers. No I/O.

A shard is named after the node that was its master when it was first seen. It is the same shard as long as one of the
nodes that belonged to it at the last look is its master.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from canal.cluster.topology import Shard, Topology

NAME_CHARS = 12  # of a node id: 48 bits


@dataclass(slots=True)
class ShardRecord:
    """``members``: node ids at the last look. ``missing``: looks in a row at which none of them was without a master
    that is not another shard's.
    """

    name: str
    members: frozenset[str]
    missing: int = 0


@dataclass(slots=True)
class Registry:
    """All shards of a cluster by name."""

    shards: dict[str, ShardRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, members: Mapping[str, frozenset[str]]) -> Registry:
        """From what was remembered: node ids by shard."""
        return cls({name: ShardRecord(name, ids) for name, ids in members.items()})

    def look(self, topology: Topology) -> bool:
        """Take a topology up; true when a shard is new or the nodes of one are others.

        A shard whose nodes all follow masters of other shards is as gone as one whose nodes nobody knows: its last
        slot was moved away, and its nodes went with it. While its nodes have no master it is not.
        """
        before = {name: record.members for name, record in self.shards.items()}
        met: set[str] = set()
        unled: set[str] = set()
        for shard in sorted(topology.shards, key=lambda one: -one.slot_count):
            ids = frozenset(one.id for one in shard.members)
            if shard.master is None:
                unled |= ids
                continue
            record = self._record(shard, before, met)
            if record is None:
                continue
            record.members = ids if record.name not in met else record.members | {shard.master.id}
            met.add(record.name)
        for name, record in self.shards.items():
            record.missing = 0 if name in met or record.members & unled else record.missing + 1
        return before != {name: record.members for name, record in self.shards.items()}

    def _record(self, shard: Shard, before: Mapping[str, frozenset[str]], met: set[str]) -> ShardRecord | None:
        """The shard that this master leads: one of its nodes, while no other of them leads it; else a new one.

        A master that has just lost its shard to a replica stands beside it for some time, without slots and dead: it
        belongs there still. A newcomer without slots is nobody's shard yet (None): it may be about to become a replica.
        """
        assert shard.master is not None
        mine = [record for name, record in self.shards.items() if shard.master.id in before.get(name, ())]
        for record in mine:
            if record.name not in met:
                return record
        if not shard.slots:
            return mine[0] if mine else None
        name = shard.master.id[:NAME_CHARS]
        while name in self.shards:
            name += "x"
        return self.shards.setdefault(name, ShardRecord(name, frozenset()))

    def gone(self, looks: int) -> list[str]:
        """Shards of which the cluster has known no node for so many looks."""
        return [name for name, record in self.shards.items() if record.missing >= looks]

    def drop(self, name: str) -> None:
        """Forget a shard that has ended."""
        self.shards.pop(name, None)
