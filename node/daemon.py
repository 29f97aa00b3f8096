"""The daemon of a machine: registers, takes the shards that the plan gives it, and gives back what it must.

It looks at everything again whenever something may have changed (`_look`): what is wanted, who lives, who holds what.
From the same facts all nodes make the same plan, and each does its own part of it:

- a shard that the plan gives this node and nobody holds is taken;
- a shard held here whose task is to stop is stopped; one that the plan gives to another node is handed over as soon as
  that costs no full resync; one that nobody has room for stays, also on a draining node.

Losing the coordinator stops nothing that runs: workers are fenced at their targets, so a node cut off writes nothing
once another has taken over. Losing the *session* ends all workers at once, because the leases are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from canal import formats
from canal.backoff import Backoff
from canal.errors import AuthError, CanalError, Refused, Unreachable
from canal.journal.lock import StateLock
from node.clusters import ClusterTasks
from node.config.models import NodeConfig
from node.connect import coordinator_of
from node.coordination.base import Event, SessionLost
from node.coordination.coordinator import Coordinator, Facts
from node.coordination.plan import ShardId, assign
from node.coordination.records import NodeRecord
from node.coordination.registry import boot_id, pid_started
from node.forkserver import ForkServer
from node.jobrunner import JobRunner
from node.jobs import JobQueue
from node.serve import NodeHttp
from node.shard import Leaving, Shard
from node.systemd import Notifier

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_S = 1.0
DEBOUNCE_S = 0.05
LINES_KEPT = 500
NEEDS_RESTART = ("node", "datacenter", "coordination", "state_dir", "http", "lease_timeout_seconds", "max_shards")


class Daemon:
    """``await run()`` until `stop`; ``reload`` reads the configuration again (None: there is no file to read)."""

    def __init__(
        self, config: NodeConfig, *, version: str = "", reload: Callable[[], NodeConfig] | None = None
    ) -> None:
        self.config = config
        self.coordinator: Coordinator = coordinator_of(config)
        self.workers = ForkServer()
        self.records = asyncio.Lock()
        self.shards: dict[ShardId, Shard] = {}
        self.lines: dict[ShardId, deque[dict[str, Any]]] = {}
        self.version = version
        self.facts: Facts | None = None
        self.trouble = "not registered yet"
        self._clusters = ClusterTasks(self)
        self._jobs = JobRunner(self, JobQueue(self.coordinator.store))
        self._reload_config = reload
        self._notifier = Notifier()
        self._wake = asyncio.Event()
        self._publish_now = asyncio.Event()
        self._stopping = False
        self._session_lost = False
        self._running: dict[ShardId, asyncio.Task[None]] = {}
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="coordination")
        self._started = time.time()

    # ---- what shards use of their host ----

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call to the coordinator in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args))

    def publish(self) -> None:
        """There is a record to be written at once."""
        self._publish_now.set()

    def changed(self) -> None:
        """Look at everything again."""
        self._wake.set()

    def line(self, shard: ShardId, record: dict[str, Any]) -> None:
        """A worker's log line: into the log, and kept for ``task logs``."""
        self.lines.setdefault(shard, deque(maxlen=LINES_KEPT)).append(record)
        logger = logging.getLogger(str(record["name"]))
        logger.log(int(record["level"]), "%s: %s", shard, record["message"])

    # ---- life ----

    async def run(self) -> None:
        """Serve until stopped. Raises CanalError when it cannot start: configuration, credentials, name in use."""
        lock = StateLock(self.config.state_dir)
        lock.acquire()
        http = NodeHttp(self)
        loading: asyncio.Task[None] | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            await http.start()
            self._listen_to_coordinator()
            loading = asyncio.create_task(self.workers.start())  # takes a second or two: meanwhile it registers
            await self._connect()
            await loading
            self._notifier.ready(f"node {self.config.node} is registered at {self.coordinator.store.place}")
            tasks = [asyncio.create_task(work()) for work in (self._publisher, self._attend)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._notifier.stopping()
            await self._leave()
            ending = [*tasks, loading] if loading is not None else tasks
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await http.close()
            await self.workers.close()
            await self.call(self.coordinator.store.close)
            self._pool.shutdown(wait=False)
            lock.release()

    def stop(self) -> None:
        """Give everything back and end; asked a second time, at once."""
        if self._stopping:
            self._leave_all("lost")
        self._stopping = True
        self._wake.set()

    def _listen_to_coordinator(self) -> None:
        loop = asyncio.get_running_loop()

        def hear(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._hear, event)

        self.coordinator.store.subscribe(hear)

    def _hear(self, event: Event) -> None:
        if event is Event.LOST:
            self._lost()
        elif event is Event.SUSPENDED:
            self.trouble = f"{self.coordinator.store.place} is not reachable: what runs goes on, nothing new is taken"
            log.warning("%s", self.trouble)
        elif event is Event.CONNECTED and self.facts is not None:
            log.info("connected to %s", self.coordinator.store.place)
        self._wake.set()

    def _lost(self) -> None:
        """The session has ended: every lease is gone, so no worker may go on as if it were held."""
        self._session_lost = True
        self.trouble = f"the session at {self.coordinator.store.place} was lost"
        log.warning("%s: its leases are gone, %d workers are ended", self.trouble, len(self.shards))
        self._leave_all("lost")

    def _leave_all(self, why: Leaving) -> None:
        for shard in self.shards.values():
            shard.leave(why)

    async def _connect(self) -> None:
        """Connect and register; waits for a coordinator that cannot be reached. Raises what needs a person."""
        backoff = Backoff(0.2, 5.0)
        store = self.coordinator.store
        while not self._stopping:
            try:
                self._session_lost = False  # should the new one be lost while we are at it, that has to be seen
                await self.call(store.start)
                await self.call(self._check_formats)
                await self.call(self.coordinator.nodes.register, self._node_record())
                self.trouble = ""
                log.info("node %s is registered at %s", self.config.node, store.place)
                return
            except Unreachable as error:
                self._session_lost = True
                if str(error) != self.trouble:
                    log.warning("%s; waiting for it", error)
                self.trouble = str(error)
                self._notifier.status(self.trouble)
                self._notifier.alive()
                await asyncio.sleep(backoff.next())
            except CanalError:
                self._session_lost = True
                raise

    def _node_record(self) -> NodeRecord:
        config, pid = self.config, os.getpid()
        return NodeRecord(
            node=config.node,
            datacenter=config.datacenter,
            host=os.uname().nodename,
            pid=pid,
            version=self.version,
            http=config.http_address,
            max_shards=config.max_shards,
            started=self._started,
            boot=boot_id(),
            pid_started=pid_started(pid),
            knows=formats.NEWEST,
            writes=formats.written(),
        )

    def _check_formats(self) -> None:
        """Raise `Refused` where a living node could not read what this one is told to write."""
        mine = self.config.node
        for name, node in self.coordinator.nodes.living().items():
            if node.knows < formats.written() and name != mine:
                raise Refused(
                    f"format {formats.written()} is asked for, and node {name} (redis-canal {node.version}) "
                    f"knows up to {node.knows}: upgrade that node first, or leave 'format' out of node.yaml of {mine}"
                )

    async def _attend(self) -> None:
        """Look at everything again whenever something may have changed, and once a second for what goes by time."""
        while not self._stopping:
            try:
                await self._look()
                self._notifier.alive()
            except (Unreachable, SessionLost) as error:
                if not self.trouble:
                    log.warning("%s", error)
                self.trouble = str(error)
                self._notifier.alive()  # workers run; waiting for a coordinator is nothing that a restart would mend
            except (Refused, AuthError) as error:
                if not self.facts:
                    raise
                if str(error) != self.trouble:
                    log.error("%s", error)
                self.trouble = str(error)
            self._notifier.status(self._summary())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
                await asyncio.sleep(DEBOUNCE_S)
            self._wake.clear()

    def _summary(self) -> str:
        failed = sum(1 for shard in self.shards.values() if shard.failed)
        text = f"{len(self.shards)} shards" + (f", {failed} failed" if failed else "")
        return f"{text}; {self.trouble}" if self.trouble else text

    # ---- the plan ----

    async def _look(self) -> None:
        """Bring what runs here in line with what is wanted."""
        if self._session_lost:
            await self._gone()
            await self._connect()
        if self.coordinator.store.connection != "connected":
            return
        facts = self.facts = await self.call(self.coordinator.facts)
        if self.config.node not in facts.nodes:
            await self.call(self.coordinator.nodes.register, self._node_record())
            self._wake.set()
            return
        self.trouble = ""
        plan = assign(facts.wanted, facts.capacities, facts.held)
        self._clusters.follow(facts)
        self._let_go(facts, plan)
        await self._take(facts, plan)
        await self._jobs.look()

    async def _gone(self) -> None:
        """Wait for workers that were told that their lease is lost; they are killed, so this is short."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=10)

    def _let_go(self, facts: Facts, plan: dict[ShardId, str | None]) -> None:
        """Shards held here: follow their tasks, stop what is not wanted, hand over what belongs elsewhere."""
        for shard_id, shard in self.shards.items():
            record = facts.tasks.get(shard_id.task)
            if record is None or record.uid != shard.record.uid or shard_id not in facts.holders:
                shard.leave("lost")
            elif record.desired == "stopped":
                shard.leave("stop")
            elif plan.get(shard_id) not in (None, self.config.node) and shard.movable:
                shard.leave("hand over")
            else:
                shard.follow(record)
                if shard_id in facts.nodes_of:
                    shard.belongs(facts.nodes_of[shard_id])

    async def _take(self, facts: Facts, plan: dict[ShardId, str | None]) -> None:
        """Take the free shards that the plan gives to this node."""
        mine = self.config.node
        for shard_id, node in plan.items():
            if shard_id in self.shards:
                continue
            holder = facts.holders[shard_id]
            if holder == mine:
                await self.call(self.coordinator.leases.drop_own, shard_id)  # of an attempt whose answer never came
            elif node == mine and holder is None:
                await self._acquire(shard_id, facts)

    async def _acquire(self, shard_id: ShardId, facts: Facts) -> None:
        lease = await self.call(self.coordinator.leases.acquire, shard_id, self.config.node)
        if lease is None:
            return
        shard = Shard(self, lease, facts.tasks[shard_id.task], facts.nodes_of.get(shard_id))
        self.shards[shard_id] = shard
        task = asyncio.create_task(shard.run(), name=str(shard_id))
        self._running[shard_id] = task
        task.add_done_callback(lambda done: self._ended(shard, done))
        log.info("%s: taken under epoch %d", shard_id, lease.epoch)

    def _ended(self, shard: Shard, done: asyncio.Task[None]) -> None:
        self.shards.pop(shard.id, None)
        self._running.pop(shard.id, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("%s: a fault of this program", shard.id, exc_info=error)
        log.info("%s: given up (%s)", shard.id, shard.leaving or "a fault of this program")
        self._wake.set()

    # ---- progress ----

    async def _publisher(self) -> None:
        """Write states at once, positions every few seconds."""
        last_round = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                left = last_round + self.config.publish_seconds - time.monotonic()
                async with asyncio.timeout(max(0.0, left)):
                    await self._publish_now.wait()
            self._publish_now.clear()
            due = time.monotonic() - last_round >= self.config.publish_seconds
            if due:
                last_round = time.monotonic()
            if self.coordinator.store.connection == "connected":
                await self._publish(all_changes=due)
            await asyncio.sleep(DEBOUNCE_S)

    async def _publish(self, *, all_changes: bool) -> None:
        async with self.records:
            found = [shard.progress(all_changes=all_changes) for shard in self.shards.values()]
            updates = [progress for progress in found if progress is not None]
            if not updates:
                return
            try:
                results = await self.call(self.coordinator.leases.write_states, updates)
            except CanalError as error:
                log.warning("progress could not be recorded: %s", error)
                return
        for shard_id, result in results.items():
            if (shard := self.shards.get(shard_id)) is not None:
                shard.published(result)

    # ---- configuration and end ----

    def reload(self) -> None:
        """Read the configuration again; a wrong one is refused and the old one stays in force."""
        if self._reload_config is None:
            return
        self._notifier.reloading()
        try:
            new = self._reload_config()
        except CanalError as error:
            for problem in getattr(error, "problems", [str(error)]):
                log.error("configuration not changed: %s", problem)
            self._notifier.ready(self._summary())
            return
        kept = {name: getattr(self.config, name) for name in NEEDS_RESTART}
        for name, value in kept.items():
            if getattr(new, name) != value:
                log.warning("configuration: %s takes effect with the next restart of the node", name)
        old, self.config = self.config, new.model_copy(update=kept)
        if new.log_level != old.log_level:
            for room in ("canal", "sync", "node"):
                logging.getLogger(room).setLevel(new.log_level.upper())
        for shard in self.shards.values():
            shard.reload()
        log.info("configuration read again")
        self._notifier.ready(self._summary())

    async def _leave(self) -> None:
        """Stop all workers and give everything back."""
        await self._jobs.close()
        await self._clusters.close()
        if self._running:
            log.info("stopping %d shards", len(self._running))
        self._leave_all("shutdown")
        while self._running:
            await asyncio.wait(list(self._running.values()), timeout=1.0)
        if self.coordinator.store.connection == "connected":
            with contextlib.suppress(CanalError):
                await self.call(self.coordinator.nodes.unregister, self.config.node)


def run_daemon(daemon: Daemon) -> None:
    """Run a daemon on an event loop of its own, with the signals that belong to it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        loop.add_signal_handler(signal.SIGHUP, daemon.reload)
        await daemon.run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
