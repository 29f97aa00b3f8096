"""All datacenters of console.yaml: follows their coordinators, asks their nodes, and makes what the page shows.

Coordinators are read when they tell of a change, nodes every second: what is wanted and who holds what comes from the
former, figures from the latter. What no node tells live is read from the coordinator every few seconds. A coordinator
or node that cannot be reached takes nothing else with it: its part says so, and shows what was last known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from canal.errors import CanalError, Refused, Unreachable
from console.web.fetch import fetch_json
from console.web.history import History, Rates
from console.web.hub import Hub
from console.web.view import Json, Place, datacenter_document, node_document, shard_brief, shard_document, task_document
from node.config.models import ConsoleConfig, Coordination
from node.config.secrets import asking
from node.connect import open_coordinator
from node.coordination.base import Event
from node.coordination.coordinator import Coordinator
from node.coordination.records import ShardView, TaskRecord, check_name
from node.coordination.tasks import NotFound

log = logging.getLogger(__name__)
T = TypeVar("T")

READ_EVERY_S: Final = 3.0  # what no node tells live
READ_ALL_EVERY_S: Final = 15.0  # everything, though no event said that it changed
ASK_EVERY_S: Final = 1.0
DEBOUNCE_S: Final = 0.1
SESSION_S: Final = 10.0


@dataclass(slots=True)
class Site:
    """One coordinator, and the datacenters of console.yaml that name it."""

    names: list[str]
    coordination: Coordination
    addresses: dict[str, str]  # of nodes, where the registered one cannot be used
    place: Place
    coordinator: Coordinator | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sites:
    """``run`` follows everything until it is cancelled; the rest may be called meanwhile, on the same loop."""

    def __init__(self, config: ConsoleConfig) -> None:
        self.config = config
        self.hub = Hub()
        self.history = History()
        self.sites = _sites_of(config)
        self.statuses: dict[tuple[int, str], Any] = {}  # (site, node) -> its /status, or why there is none
        self._shards: dict[tuple[int, str, str, str], Json] = {}  # (site, node, task, shard) -> its live figures
        self.tasks: dict[str, Json] = {}  # by uid
        self.nodes: dict[str, Json] = {}  # by datacenter/name
        self._rates = Rates()
        self._cpu: dict[str, tuple[float, float, float | None]] = {}
        self.tls = None if config.node_credentials is None else asking(config.node_credentials, config.credentials)
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="console")

    async def call(self, function: Callable[..., T], *args: Any, **more: Any) -> T:
        """Run what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **more))

    # ---- following ----

    async def run(self) -> None:
        """Follow coordinators and nodes."""
        work = [self._follow(site) for site in self.sites] + [self._ask()]
        try:
            await asyncio.gather(*work)
        finally:
            self.hub.close()
            for site in self.sites:
                if site.coordinator is not None:
                    site.coordinator.store.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, site: Site) -> None:
        loop = asyncio.get_running_loop()

        def heard(_event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(site.wake.set)

        told = True
        while True:
            if told or site.place.trouble or time.time() - site.place.read > READ_ALL_EVERY_S:
                await self.read(site, heard)
                self.publish()
            elif await self._read_dim(site):
                self.publish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_S):
                    await site.wake.wait()
                await asyncio.sleep(DEBOUNCE_S)
            told = site.wake.is_set()
            site.wake.clear()

    async def _read_dim(self, site: Site) -> bool:
        """Read again what was recorded of tasks whose nodes do not tell live figures; False when there are none.

        Positions are written without an event, and those of all shards would be most of what there is to read.
        """
        index = self.sites.index(site)
        shards = site.place.shards
        dim = [task for task, views in shards.items() if any(self._live(index, view) is None for view in views)]
        coordinator = site.coordinator
        if not dim or coordinator is None:
            return False
        async with site.reading:
            try:
                found = await self.call(lambda: {task: coordinator.tasks.shards(task) for task in dim})
            except CanalError as error:
                site.place = replace(site.place, trouble=str(error))
            else:
                site.place = replace(site.place, shards={**site.place.shards, **found})
        return True

    async def read(self, site: Site, heard: Callable[[Event], None] | None = None) -> None:
        """Read all records of a coordinator; connects first where there is no connection."""
        async with site.reading:
            try:
                if site.coordinator is None:
                    site.coordinator = await self.call(self._open, site, heard)
                site.place = await self.call(_read, site, site.coordinator)
            except CanalError as error:
                if site.place.trouble != str(error):
                    log.warning("datacenter %s: %s", ", ".join(site.names), error)
                site.place = replace(site.place, trouble=str(error))
            except Exception:
                log.exception("datacenter %s: a fault of this program", ", ".join(site.names))
                site.place = replace(site.place, trouble="a fault of the console; its log says more")

    def _open(self, site: Site, heard: Callable[[Event], None] | None) -> Coordinator:
        embedded = site.coordination.embedded
        if embedded is not None and not embedded.path.exists():
            raise Unreachable(f"there is no coordinator at {embedded.path} yet: start a node first")
        coordinator = open_coordinator(site.coordination, self.config.credentials, SESSION_S)
        if heard is not None:
            coordinator.store.subscribe(heard)
        try:
            coordinator.store.start()
        except BaseException:
            coordinator.store.close()
            raise
        return coordinator

    async def _ask(self) -> None:
        """Ask every living node for its figures, once a second."""
        while True:
            began = time.monotonic()
            try:
                await self.ask_nodes()
                self.publish(sample=True)
            except Exception:
                log.exception("a fault of this program")
            await asyncio.sleep(max(0.1, ASK_EVERY_S - (time.monotonic() - began)))

    async def ask_nodes(self) -> None:
        """One round of questions to all nodes."""
        keys, asked = [], []
        for index, site in enumerate(self.sites):
            for name, record in (site.place.facts.nodes if site.place.facts else {}).items():
                address = site.addresses.get(name) or record.http
                keys.append((index, name))
                asked.append(self._status(address))
        self.statuses = dict(zip(keys, await asyncio.gather(*asked), strict=True))
        self._shards = {
            (index, name, str(shard.get("task")), str(shard.get("shard"))): shard
            for (index, name), status in self.statuses.items()
            if isinstance(status, dict)
            for shard in status.get("shards", [])
        }

    async def _status(self, address: str) -> Any:
        if not address:
            return "has no HTTP address"
        try:
            found = await self.call(fetch_json, address, "/status", tls=self.tls)
        except Unreachable as error:
            return str(error)
        return found if isinstance(found, dict) else f"{address}/status is not a node's"

    # ---- what is shown ----

    def publish(self, *, sample: bool = False) -> None:
        """Make all documents anew and tell the watchers; ``sample``: add to the history."""
        now = time.time()
        tasks, nodes = self._task_documents(now, sample), self._node_documents()
        if sample:
            for uid, task in tasks.items():
                self.history.add(uid, now, task)
            if all(not site.place.trouble for site in self.sites):
                self.history.keep(tasks)
        self.tasks, self.nodes = tasks, nodes
        self.hub.publish({"datacenters": self.datacenters(tasks, nodes), "tasks": tasks, "nodes": nodes})

    def datacenters(self, tasks: dict[str, Json], nodes: dict[str, Json]) -> dict[str, Json]:
        """Those of console.yaml, and those that tasks name."""
        places = {name: site.place for site in self.sites for name in site.names}
        named = {task[side]["datacenter"] for task in tasks.values() for side in ("source", "target")}
        names = [*self.config.datacenters, *sorted(n for n in named if n and n not in places)]
        return {name: datacenter_document(name, places.get(name), nodes.values(), tasks.values()) for name in names}

    def _task_documents(self, now: float, sample: bool) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for index, site in enumerate(self.sites):
            for record in (site.place.facts.tasks if site.place.facts else {}).values():
                shards = [
                    shard_brief(view, self._live(index, view), self._rate(index, record, view, now, sample))
                    for view in site.place.shards.get(record.task, [])
                ]
                found[record.uid] = task_document(record, shards, site.names[0])
        return dict(sorted(found.items(), key=lambda item: str(item[1]["task"])))

    def _rate(
        self, index: int, record: TaskRecord, view: ShardView, now: float, sample: bool
    ) -> tuple[float | None, float | None]:
        """Commands and bytes a second of a shard; ``sample``: look at its counters too."""
        key = f"{record.uid}/{view.id.shard}"
        if sample:
            self._rates.rate(key, now, self._live(index, view))
        return self._rates.last(key)

    def _live(self, index: int, view: ShardView) -> Json | None:
        return self._shards.get((index, view.holder or "", view.id.task, view.id.shard))

    def _node_documents(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for index, site in enumerate(self.sites):
            facts = site.place.facts
            if facts is None:
                continue
            for name in sorted({*facts.nodes, *facts.draining}):
                document = node_document(facts.nodes.get(name), name, facts, self.statuses.get((index, name)))
                document["datacenter"] = document["datacenter"] or site.names[0]
                document["cpu"] = self._cpu_of(f"{index}/{name}", document.pop("cpu_seconds"))
                found[f"{document['datacenter']}/{name}"] = document
        return found

    def _cpu_of(self, key: str, seconds: float | None) -> float | None:
        """Cores used since the last look, None while unknown."""
        now, before = time.monotonic(), self._cpu.get(key)
        if seconds is None:
            self._cpu.pop(key, None)
            return None
        if before is None:
            self._cpu[key] = (now, seconds, None)
            return None
        if now - before[0] < ASK_EVERY_S * 0.8:
            return before[2]
        cores = round(max(0.0, (seconds - before[1]) / (now - before[0])), 3)
        self._cpu[key] = (now, seconds, cores)
        return cores

    def detail(self, site: Site, record: TaskRecord, views: list[ShardView]) -> Json:
        """One task with its shards, from records just read."""
        index = self.sites.index(site)
        now = time.time()
        shards = [
            shard_document(view, self._live(index, view), self._rate(index, record, view, now, False)) for view in views
        ]
        return {**task_document(record, shards, site.names[0]), "shard_list": shards}

    # ---- finding ----

    def home_of(self, datacenter: str) -> tuple[Site, Coordinator]:
        """The coordinator of a datacenter. Raises `NotFound`, or `Unreachable` while it cannot be used."""
        for site in self.sites:
            if datacenter in site.names:
                if site.coordinator is None:
                    raise Unreachable(f"datacenter {datacenter}: {site.place.trouble}")
                return site, site.coordinator
        names = ", ".join(sorted(self.config.datacenters))
        raise NotFound(f"there is no datacenter {datacenter!r} in console.yaml; it has {names}")

    def find_task(self, task: str, datacenter: str | None = None) -> tuple[Site, Coordinator, TaskRecord]:
        """Where a task is kept; blocking. Raises `NotFound`, `Refused` when two datacenters have one of that name."""
        check_name("task", task)
        sites = [self.home_of(datacenter)[0]] if datacenter else self.sites
        found, silent = [], []
        for site in sites:
            if site.coordinator is None:
                silent += site.names
                continue
            with contextlib.suppress(NotFound):
                found.append((site, site.coordinator, site.coordinator.tasks.get(task)))
        if len({record.uid for _, _, record in found}) > 1:
            names = ", ".join(site.names[0] for site, _, _ in found)
            raise Refused(f"several datacenters have a task {task!r} ({names}); add ?datacenter=NAME")
        if found:
            return found[0]
        if silent:
            raise Unreachable(f"no task {task!r} is known, and {', '.join(silent)} cannot be asked")
        raise NotFound(f"there is no task {task!r}")


def _sites_of(config: ConsoleConfig) -> list[Site]:
    """One site for each different coordinator: datacenters that share one (on one machine) are one site."""
    sites: list[Site] = []
    for name, datacenter in config.datacenters.items():
        same = next((site for site in sites if site.coordination == datacenter.coordination), None)
        if same is not None:
            same.names.append(name)
            same.addresses.update(datacenter.nodes)
            continue
        zookeeper, embedded = datacenter.coordination.zookeeper, datacenter.coordination.embedded
        where = f"{zookeeper.hosts}{zookeeper.chroot}" if zookeeper else str(embedded.path if embedded else "")
        sites.append(Site([name], datacenter.coordination, dict(datacenter.nodes), Place(where)))
    return sites


def _read(site: Site, coordinator: Coordinator) -> Place:
    connection = coordinator.store.connection
    if connection == "lost":
        coordinator.store.start()
    facts = coordinator.facts()
    shards = {name: coordinator.tasks.shards(name) for name in facts.tasks}
    return Place(site.place.name, facts, shards, "", time.time())
