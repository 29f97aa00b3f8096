"""What a run is about: datacenters, a direction between each pair that the topology names, nodes on ZooKeeper.

    one-way    a → b      two nodes at a; both servers have a replica to fail over to
    two-way    a ⇄ b      two nodes at a, one at b; both servers have a replica
    mesh       a, b, c    each to each: six tasks, a node in each datacenter
    from-cluster, to-cluster    one way, with a Redis Cluster as source or as target

Each direction reaches both of its servers through doors of its own, but for clusters; each datacenter's nodes reach
ZooKeeper through one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.coordination.coordinator import Coordinator
from node.coordination.zookeeper import ZooKeeperOptions, ZooKeeperStore
from tests.chaos.harness.clusters import ClusterDatacenter, ClusterWriters
from tests.chaos.harness.datacenter import Datacenter
from tests.chaos.harness.writers import DATABASES, Writers
from tests.support.nodes import NodeProcess, Site
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.zookeeper import ZooKeeper

TOPOLOGIES = ("one-way", "two-way", "mesh", "from-cluster", "to-cluster")
CLUSTERS = {"from-cluster": "a", "to-cluster": "b"}
TWO_WAY = ("two-way", "mesh")
MARK = "REDIS_CANAL_CHAOS_RUN"
KEPT = (".log", ".json", ".jsonl", ".yaml", ".aof")
RESYNCS = {"one-way": "ab", "two-way": "a", "from-cluster": "ab", "to-cluster": "ab"}
"""By topology: datacenters whose outgoing links may be lost beyond their backlog.

Two ways one only: where both links were lost nobody knows who wrote last, and of two states the home's wins
(docs/architecture/two-way.md). The others have a backlog that a slow machine does not outrun either.
"""
STATE_MB = 96  # of a node's state directory, where we may mount one of its own


@dataclass(frozen=True)
class Door:
    """A proxy in front of one server for one direction."""

    name: str
    proxy: Proxy
    datacenter: Datacenter
    side: str  # "source" or "target"


@dataclass(frozen=True)
class Direction:
    """One task."""

    task: str
    source: Datacenter
    target: Datacenter
    doors: tuple[Door, ...]

    @property
    def source_door(self) -> Door | None:
        return next((door for door in self.doors if door.side == "source"), None)

    def url(self, side: str) -> str:
        """Of the door, where there is one."""
        datacenter = self.source if side == "source" else self.target
        door = next((door for door in self.doors if door.side == side), None)
        if door is not None:
            return door.proxy.url
        assert isinstance(datacenter, ClusterDatacenter)
        return datacenter.url


class World:
    """See the top of this file. Use it as a context: everything ends with it, whatever state it is in."""

    def __init__(self, topology: str, directory: Path, seed: str, rate: float, *, same_keys: bool = False) -> None:
        self.topology = topology
        self.directory = directory
        self.seed = seed
        self.mark = uuid.uuid4().hex
        self.stack = ExitStack()
        chance = random.Random(f"world/{seed}")
        self.version = chance.choice(("7.0", "7.0", "6.2", "8.2", "valkey-9.1"))
        self._chance = chance
        self.two_way = topology in TWO_WAY
        names = ("a", "b", "c") if topology == "mesh" else ("a", "b")
        with contextlib.ExitStack() as undo:
            undo.push(self._leave)
            self._build(names, rate, "same" if same_keys else "")
            undo.pop_all()

    def _build(self, names: tuple[str, ...], rate: float, shared: str) -> None:
        self.zookeeper = self.stack.enter_context(ZooKeeper.start(self.directory / "zk"))
        self.datacenters: dict[str, Datacenter] = {}
        for name in names:
            self.datacenters[name] = made = self._datacenter(name)
            self.stack.callback(made.close)
            made.on_moved = self._moved
            if isinstance(made, ClusterDatacenter):
                made.writers = ClusterWriters(name, made.cluster, rate)
                continue
            databases = DATABASES if self.topology not in CLUSTERS else (0,)
            made.writers = Writers(
                name,
                lambda d=made: d.master,  # type: ignore[misc]
                self.seed,
                rate,
                shared,
                databases=databases,
            )
        pairs = [("a", "b")] if not self.two_way else list(itertools.permutations(names, 2))
        self.directions = [self._direction(self.datacenters[x], self.datacenters[y]) for x, y in pairs]
        self.zookeeper_doors: dict[str, Proxy] = {}
        self.sites: dict[str, Site] = {}
        self.nodes: list[NodeProcess] = []
        self.mounted = False
        for name in dict.fromkeys(direction.source.name for direction in self.directions):
            self._site(name, 2 if name == "a" and self.topology != "mesh" else 1)

    def _datacenter(self, name: str) -> Datacenter:
        directory = self.directory / name
        if name == CLUSTERS.get(self.topology):
            return ClusterDatacenter(name, directory, self.version, self.seed)
        backlog = "1mb" if self.may_resync(name) else "64mb"
        return Datacenter(name, directory, self.version, replica=self.topology != "mesh", backlog=backlog)

    def _direction(self, source: Datacenter, target: Datacenter) -> Direction:
        task = f"{source.name}-{target.name}"
        doors = [
            Door(f"{task}/{side}", self.stack.enter_context(Proxy(dc.master.address)), dc, side)
            for side, dc in (("source", source), ("target", target))
            if not isinstance(dc, ClusterDatacenter)
        ]
        return Direction(task, source, target, tuple(doors))

    def _site(self, name: str, nodes: int) -> None:
        door = self.stack.enter_context(Proxy(("127.0.0.1", self.zookeeper.port)))
        self.zookeeper_doors[name] = door
        directory = self.directory / f"site-{name}"
        directory.mkdir()
        site = Site(directory, f'zookeeper: {{hosts: "127.0.0.1:{door.port}", chroot: "/{name}"}}')
        self.stack.callback(self._close_site, site)
        self.sites[name] = site
        for number in range(nodes):
            self._mount(directory / f"{name}{number}")
            node = site.node(f"{name}{number}")
            node.configure(datacenter=name)
            node.environ[MARK] = self.mark
            self.nodes.append(node.start(wait=False))

    def _mount(self, directory: Path) -> None:
        """A small file system for the state of one node, so that it can be filled. Needs the right to mount."""
        directory.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={STATE_MB}m,mode=0700", "redis-canal-chaos", directory],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            self.mounted = True
            self.stack.callback(lambda: subprocess.run(["umount", "-l", directory], check=False))

    def _close_site(self, site: Site) -> None:
        for node in site.nodes:
            node.close()
            node.site.directory.mkdir(exist_ok=True)

    # --- life

    def start(self) -> None:
        """Create the tasks; returns when all of them stream."""
        for node in self.nodes:
            node.wait_ready(240)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self._create, self.directions))
        wait_until(lambda: self.states_are("streaming"), 240, "all tasks stream", every=0.2)

    def _create(self, direction: Direction) -> None:
        chance = random.Random(f"task/{self.seed}/{direction.task}")
        file = self.directory / f"{direction.task}.task.yaml"
        lines = [
            f"task: {direction.task}",
            f"source: {{datacenter: {direction.source.name}, url: '{direction.url('source')}'}}",
            f"target: {{datacenter: {direction.target.name}, url: '{direction.url('target')}'}}",
            f"journal: {{segment_bytes: {chance.choice(('256KiB', '2MiB', '64MiB'))}, "
            f"tail_bytes: {chance.choice(('64KiB', '1MiB', '8MiB'))}, retain_bytes: 4MiB, retain_seconds: 5, "
            f"fsync: '{chance.choice(('always', 'everysec', 'no'))}'}}",
            f"writer: {chance.choice(('auto', 'gated', 'guarded'))}",
            f"batch_commands: {chance.choice((1, 20, 1000))}",
        ]
        if self.two_way:
            lines.append(f"two_way: {{peer: {direction.target.name}-{direction.source.name}}}")
            others = sorted(set(self.datacenters) - {direction.source.name, direction.target.name})
            lines.append(f"direct: [{', '.join(others)}]")
        else:
            lines.append("snapshot: {stale_keys: delete}")
        file.write_text("\n".join(lines) + "\n")
        for _ in range(10):
            done = self.sites[direction.source.name].cli("task", "create", "-f", str(file), "--start", check=False)
            if done.returncode != 4:  # of a slow machine: the session at ZooKeeper ended in between
                break
        if "exists already" in done.stderr:
            done = self.sites[direction.source.name].cli("task", "start", direction.task, check=False)
        assert done.returncode == 0, f"task {direction.task} was not created: {done.stderr}"

    def may_resync(self, name: str) -> bool:
        """May the links out of this datacenter be lost beyond its backlog?"""
        return name in RESYNCS.get(self.topology, "")

    def _moved(self, datacenter: Datacenter) -> None:
        for door in self.doors():
            if door.datacenter is datacenter:
                door.proxy.target = datacenter.master.address
                door.proxy.cut("rst")

    def doors(self) -> list[Door]:
        return [door for direction in self.directions for door in direction.doors]

    @contextlib.contextmanager
    def coordinator(self, name: str) -> Iterator[Coordinator]:
        """The coordinator of a datacenter, past the door. Raises CanalError while ZooKeeper is away."""
        options = ZooKeeperOptions(self.zookeeper.hosts, chroot=f"/{name}", timeout_s=4.0)
        with Coordinator(ZooKeeperStore(options)) as coordinator:
            yield coordinator

    def shards(self) -> list[dict[str, Any]]:
        """What the nodes tell of the shards that they hold."""
        return [shard for node in self.nodes for shard in node.status().get("shards", [])]

    @property
    def lag_bytes(self) -> int:
        """Of all links, by the nodes' own account."""
        return sum(shard.get("lag_bytes") or 0 for shard in self.shards())

    def resynced(self) -> bool:
        """Has any link been lost beyond its source's backlog? As the logs have it."""
        found = re.compile(r"full resync at (?!.*: first contact)")
        return any(found.search(node.log()) for node in self.nodes)

    def states_are(self, state: str) -> bool:
        """Is this the state of all shards of all tasks?"""
        shards = self.shards()
        there = Counter(shard["task"] for shard in shards)
        return all(shard["state"] == shard.get("link_state") == state for shard in shards) and all(
            there[direction.task] == direction.source.shards for direction in self.directions
        )

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self, *_: object) -> None:
        for datacenter in getattr(self, "datacenters", {}).values():
            for server in datacenter.servers():
                if server.running:
                    server.resume()
        self.stack.close()
        for part in ("zk",):
            shutil.rmtree(self.directory / part, ignore_errors=True)

    def keep(self, directory: Path) -> None:
        """Copy what tells how it came to this: logs, small state files, append-only files."""
        for file in sorted(self.directory.rglob("*")):
            if file.suffix in KEPT and file.is_file():
                to = directory / file.relative_to(self.directory)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)

    def family(self) -> list[int]:
        """Every process that a node of this run has started and that lives."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found
