"""A datacenter whose server is a Redis Cluster: three masters, a replica each, reached without doors.

A cluster tells its clients the addresses of its nodes, so no proxy can stand before it. What can happen to it: planned
and unplanned failovers, slots that move with their keys, nodes that stand still, die and come back.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import redis

from tests.chaos.harness.datacenter import SETTINGS, Datacenter, script_of
from tests.support.cluster import Cluster, Node
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Wire

MASTERS = 3
MOVED = 40  # slots at a time
NOT_NOW = (OSError, redis.RedisError, hiredis.ReplyError, AssertionError, StopIteration)


class ClusterWriters:
    """Commands of all kinds without a model, in the form of `Writers`: only that both sides end equal can be said."""

    def __init__(self, name: str, cluster: Cluster, rate: float) -> None:
        self._load = ClusterLoad(cluster, rate=rate, prefix=f"{name}:")

    @property
    def acknowledged(self) -> int:
        return self._load.acknowledged

    def start(self) -> None:
        self._load.__enter__()

    def stop(self) -> None:
        self._load.stop()

    def pause(self) -> None:
        """Nothing to do: a cluster's own planned failover waits for what is on its way."""

    def resume(self) -> None:
        """Nothing to do."""

    def rebased(self) -> None:
        """Nothing to do."""

    def wrong(self, server: Server, lossy: bool) -> list[str]:
        return []


class ClusterDatacenter(Datacenter):
    """See the top of this file. ``master``: the node that the next fault is for."""

    shards = MASTERS

    def __init__(self, name: str, directory: Path, version: str, seed: str) -> None:
        self._chance = random.Random(f"cluster/{seed}/{name}")
        self._away: list[Node] = []  # killed
        settings: dict[str, Any] = {**SETTINGS, "repl_backlog_size": "16mb"}
        self.cluster = Cluster.start(MASTERS, 1, version, **settings)
        super().__init__(name, directory, version, replica=True)

    def _begin(self, replica: bool) -> None:
        self.master = self.cluster.nodes[0]
        self.replica = None

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def clock_can_jump(self) -> bool:
        return False

    def aim(self) -> bool:
        """Choose the node that a fault is for; false while the cluster is not whole."""
        if self._away or not all(node.running for node in self.cluster.nodes):
            return False
        with contextlib.suppress(*NOT_NOW):
            masters = self.cluster.masters
            if len(masters) == MASTERS and all(node.state_ok() for node in self.cluster.nodes):
                self.master = self._chance.choice(masters)
                return all(self.cluster.replicas_of(one) for one in masters)
        return False

    def can_fail_over(self) -> bool:
        return True

    def fail_over(self, *, planned: bool) -> None:
        old = self.master
        assert isinstance(old, Node)
        if not planned:
            self.lossy = True
            self._away.append(old)
        self.cluster.failover(old, lossy=not planned)

    def follow_again(self) -> None:
        self.come_back()
        self.cluster.await_replicas()

    def come_back(self) -> None:
        """Start again what was killed, and what `kill` of a fault has killed; it may be a replica by now."""
        self._away.clear()
        for node in self.cluster.nodes:
            if not node.running:
                node.run()
        self.cluster.await_ok()

    def move_slots(self, chance: random.Random) -> None:
        giver, taker = chance.sample(self.cluster.masters, 2)
        self.cluster.move_slots(chance.sample(giver.serves(), MOVED), taker)

    def prefill(self, databases: tuple[int, ...]) -> None:
        seed(self.cluster)

    def fill(self, number: int, size: int, count: int) -> None:
        value = random.Random(number).randbytes(size)
        with contextlib.suppress(*NOT_NOW):
            for n in range(count):
                self.cluster.ask("SET", f"{self.name}:filler:{n % 20}", value)

    def block(self, rounds: int) -> threading.Thread:
        command = script_of(self.name, rounds)

        def run() -> None:
            with contextlib.suppress(*NOT_NOW), Wire(self.cluster.owner(str(command[3])), timeout=60) as wire:
                wire.call([command])

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def forget_scripts(self) -> None:
        keys = [f"{{{self.name}:script}}:{part}" for part in ("n", "list")]
        with Wire(self.cluster.owner(keys[0])) as wire:
            wire.ask("DEL", *keys)

    def links_connected(self) -> list[dict[str, str]]:
        """None: whose they are cannot be told from the replicas' own, which move with every failover."""
        return []

    def settle(self) -> None:
        """Whole again, replicas too: an election may be under way."""
        wait_until(lambda: self.aim(), 120, f"{self.name}'s cluster is whole")

    @contextlib.contextmanager
    def content(self) -> Iterator[Server]:
        with self.cluster.gathered() as copy:
            if copy.at_least((7, 0), (7, 2)):
                with Wire(self.cluster.masters[0]) as one, Wire(copy) as other:  # each master has all functions
                    other.ask("FUNCTION", "RESTORE", one.ask("FUNCTION", "DUMP"))
            yield copy

    def servers(self) -> list[Server]:
        return list(self.cluster.nodes)

    def close(self) -> None:
        self.cluster.close()
