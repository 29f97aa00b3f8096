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
    """``members``: node ids at the last look. ``missing``: looks in a row at which the cluster knew none of them."""

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
        """Take a topology up; true when a shard is new or the nodes of one are others."""
        before = {name: record.members for name, record in self.shards.items()}
        met: set[str] = set()
        for shard in topology.shards:
            if shard.master is None:
                continue
            record = self._record(shard, met)
            met.add(record.name)
            record.members = frozenset(one.id for one in shard.members)
        present = {one.id for shard in topology.shards for one in shard.members}
        for name, record in self.shards.items():
            record.missing = 0 if name in met or record.members & present else record.missing + 1
        return before != {name: record.members for name, record in self.shards.items()}

    def _record(self, shard: Shard, met: set[str]) -> ShardRecord:
        """The shard that this master leads: one of its nodes, while no other of them leads it; else a new one."""
        assert shard.master is not None
        for record in self.shards.values():
            if shard.master.id in record.members and record.name not in met:
                return record
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
