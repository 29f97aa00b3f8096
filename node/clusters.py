"""Source clusters: which shards a task has follows from what the cluster is, not from what anybody wrote down.

Of the living nodes one looks at a task's cluster (the one that ranks the task highest, as in `plan`; no election, and
two at a time do no harm): it adds a shard for each new master, keeps the node ids by which a shard is known through
failovers, and marks shards whose nodes have left the cluster. Such a shard's holder lets its worker apply the rest and
free its slots, then removes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from canal.cluster.registry import Registry
from canal.cluster.shards import view_of
from canal.errors import CanalError
from node.config.models import NodeConfig
from node.config.secrets import resolve
from node.coordination.coordinator import Coordinator, Facts
from node.coordination.plan import ShardId, rank
from node.coordination.records import ShardNodes, TaskRecord
from node.spec import read_spec

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S: Final = 1.0
GONE_LOOKS: Final = 10


class Host(Protocol):
    """What this needs of its node."""

    config: NodeConfig
    coordinator: Coordinator

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call to the coordinator in a thread."""


class ClusterTasks:
    """``follow`` the facts; looks at the clusters of those tasks that are this node's to look at."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._looking: dict[str, tuple[TaskRecord, asyncio.Task[None]]] = {}
        self._facts: Facts | None = None

    def follow(self, facts: Facts) -> None:
        """Begin and end looking, as the facts say."""
        self._facts = facts
        mine = {name: record for name, record in facts.tasks.items() if self._is_mine(facts, record)}
        for name, (record, task) in list(self._looking.items()):
            if mine.get(name) != record or task.done():
                task.cancel()
                del self._looking[name]
        for name, record in mine.items():
            if name not in self._looking:
                self._looking[name] = (record, asyncio.create_task(self._look(record), name=f"cluster of {name}"))

    async def close(self) -> None:
        """Look no more."""
        tasks = [task for _, task in self._looking.values()]
        self._looking.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_mine(self, facts: Facts, record: TaskRecord) -> bool:
        if not record.of_cluster or record.desired == "stopped":
            return False
        able = [name for name, capacity in facts.capacities.items() if not capacity.draining] or list(facts.nodes)
        return max(able, key=lambda name: (rank(name, ShardId(record.task, "")), name)) == self._host.config.node

    async def _look(self, record: TaskRecord) -> None:
        trouble = ""
        nodes: set[tuple[str, int]] = set()
        registry = Registry()
        while True:
            try:
                endpoint = resolve("source", read_spec(record).source, self._host.config.credentials)
                view = await view_of(endpoint, nodes)
                nodes = {(one.host, one.port) for shard in view.topology.shards for one in shard.members}
                if view.ok:
                    self._take_up(registry, record.task)
                    registry.look(view.topology)
                    await self._write(registry, record.task)
                trouble = ""
            except CanalError as error:
                if str(error) != trouble:
                    log.warning("%s: its source cluster cannot be looked at: %s", record.task, error)
                    await self._say(record.task, f"the source cluster cannot be looked at: {error}")
                trouble = str(error)
            await asyncio.sleep(LOOK_S)

    def _take_up(self, registry: Registry, task: str) -> None:
        """Shards as they are written down; looks that missed one are counted here."""
        assert self._facts is not None
        there = {shard.shard: nodes for shard, nodes in self._facts.nodes_of.items() if shard.task == task}
        fresh = Registry.of({name: frozenset(nodes.members) for name, nodes in there.items()})
        for name, record in fresh.shards.items():
            if name in registry.shards:
                record.missing = registry.shards[name].missing
        registry.shards = fresh.shards

    async def _write(self, registry: Registry, task: str) -> None:
        assert self._facts is not None
        tasks, call = self._host.coordinator.tasks, self._host.call
        gone = set(registry.gone(GONE_LOOKS))
        for name, record in registry.shards.items():
            shard = ShardId(task, name)
            nodes = ShardNodes(tuple(sorted(record.members)), name in gone)
            old = self._facts.nodes_of.get(shard)
            if old is None:
                if await call(tasks.add_shard, shard, nodes):
                    await self._say(task, f"shard {name} is new: the source cluster has another master")
            elif old != nodes:
                await call(tasks.set_nodes, shard, nodes)
                if nodes.gone and not old.gone:
                    await self._say(task, f"shard {name} has left the source cluster")

    async def _say(self, task: str, what: str) -> None:
        log.info("%s: %s", task, what)
        node = self._host.config.node
        await self._host.call(lambda: self._host.coordinator.tasks.record_event(task, what, by=node))
