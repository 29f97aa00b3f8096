"""The coordinator as nodes, CLI and console use it: one store, and what is agreed on over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from node.coordination.base import Store
from node.coordination.leases import Leases
from node.coordination.plan import Capacity, ShardId
from node.coordination.records import NodeRecord, ShardNodes, TaskRecord
from node.coordination.registry import Nodes
from node.coordination.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node plans from, as seen at one moment; every part of it is watched."""

    nodes: dict[str, NodeRecord]
    draining: frozenset[str]
    tasks: dict[str, TaskRecord]
    holders: dict[ShardId, str | None]
    nodes_of: dict[ShardId, ShardNodes] = field(default_factory=dict)  # of the shards of source clusters

    @property
    def capacities(self) -> dict[str, Capacity]:
        """The living nodes as `plan.assign` wants them."""
        return {name: Capacity(record.max_shards, name in self.draining) for name, record in self.nodes.items()}

    @property
    def wanted(self) -> list[ShardId]:
        """Shards that some node has to hold: those of tasks that run or pause (a paused task goes on capturing)."""
        return [shard for shard in self.holders if self.tasks[shard.task].desired != "stopped"]

    @property
    def held(self) -> dict[ShardId, str]:
        """Who holds what now."""
        return {shard: node for shard, node in self.holders.items() if node is not None}


class Coordinator:
    """Nodes, tasks and leases of one datacenter. Blocking and thread-safe, like its store (see `base`)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes = Nodes(store)
        self.tasks = Tasks(store)
        self.leases = Leases(store)

    def __enter__(self) -> Coordinator:
        self.store.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def facts(self) -> Facts:
        """Read and watch all that the plan depends on. Listeners of the store are told when any of it may differ."""
        tasks = self.tasks.all()
        shards = [shard for task in tasks for shard in self.tasks.shard_ids(task)]
        return Facts(
            nodes=self.nodes.living(),
            draining=self.nodes.draining(),
            tasks=tasks,
            holders={shard: self.leases.holder(shard) for shard in shards},
            nodes_of={shard: self.tasks.nodes_of(shard) for shard in shards if tasks[shard.task].of_cluster},
        )
