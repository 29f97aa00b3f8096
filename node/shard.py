"""One shard in a node's care, from its lease to giving the lease back: starts the worker, and starts it again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from canal.backoff import Backoff
from canal.errors import CanalError, Unreachable
from node import frames
from node.config.models import NodeConfig
from node.coordination.base import SessionLost
from node.coordination.coordinator import Coordinator
from node.coordination.leases import Lease, Progress
from node.coordination.plan import ShardId
from node.coordination.records import ShardNodes, TaskRecord
from node.coordination.state import Known, ShardState, Stale, moved, new_run
from node.forkserver import Child, ForkServer
from node.progress import differs, movable, record_of, urgent
from node.spec import to_link_config
from node.worker import start_message, status_of
from sync.config import LinkConfig
from sync.status import LinkStatus

log = logging.getLogger(__name__)
T = TypeVar("T")

Leaving = Literal["", "retire", "stop", "hand over", "shutdown", "lost"]
STOP_S: dict[str, float] = {"stop": 10.0, "retire": 10.0, "hand over": 1.0, "shutdown": 10.0, "restart": 5.0}
SILENCE_S = 60.0
STEADY_S = 60.0  # after so long in streaming the next crash is not part of the same trouble
HEALTHY_S = 3600.0  # after so long old crashes are forgotten


class Host(Protocol):
    """What a shard needs of its node."""

    config: NodeConfig
    coordinator: Coordinator
    workers: ForkServer
    records: asyncio.Lock  # held while a shard's record is written

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call to the coordinator in a thread."""

    def publish(self) -> None:
        """There is a record to be written at once."""

    def changed(self) -> None:
        """Look at everything again."""

    def line(self, shard: ShardId, record: dict[str, Any]) -> None:
        """A worker's log line."""


@dataclass(slots=True)
class End:
    """How a worker's life ended."""

    kind: Literal["stopped", "failed", "fenced", "crashed"]
    error: str = ""
    transient: bool = False
    epoch: int = 0


class Shard:
    """``await run()`` until the lease has been given back or lost."""

    def __init__(self, host: Host, lease: Lease, record: TaskRecord, nodes: ShardNodes | None = None) -> None:
        self._host = host
        self.id = lease.shard
        self.lease = lease
        self.record = record
        self.nodes = nodes or ShardNodes()
        self._noting: asyncio.Task[None] | None = None
        self.status: LinkStatus | None = None
        self.known = Known()
        self.leaving: Leaving = ""
        self.failed = ""
        self.started = time.time()
        self._changed = asyncio.Event()
        self._child: Child | None = None
        self._config: LinkConfig | None = None
        self._unused = True  # the target has not taken this epoch yet
        self._restart = False
        self._resync = False
        self._confirmed = False
        self._run_pending = False
        self._restarts = 0
        self._restart_reason = ""
        self._healthy_since = 0.0
        self._backoff = Backoff(0.5, 30.0)

    # ---- orders ----

    def follow(self, record: TaskRecord) -> None:
        """The task as it is wanted now."""
        old, self.record = self.record, record
        if _without_throttle(record.spec) != _without_throttle(old.spec) or record.restart != old.restart:
            self.restart()
            return
        if record.spec != old.spec:
            self._tell_throttle()
        if record.desired != old.desired:
            self._tell_pause()
            self._changed.set()
            self._host.publish()

    def restart(self, *, resync: bool = False, confirmed: bool = False) -> None:
        """Start the worker anew, a failed one too; ``resync``: from a new snapshot, which may remove much of the
        target when that is ``confirmed``."""
        self._restart = True
        self._resync = self._resync or resync
        self._confirmed = confirmed
        self._backoff.reset()
        self._changed.set()

    def belongs(self, nodes: ShardNodes) -> None:
        """The nodes of this shard of a source cluster, as they are known now. When these have left the cluster the
        worker applies the rest, and the shard ends.
        """
        left = nodes.gone and not self.nodes.gone
        self.nodes = nodes
        if left:
            self._tell_retire()

    def reload(self) -> None:
        """Credentials may have changed: start anew where that makes a difference."""
        if self.failed or self.link_config() != self._config:
            self.restart()

    def leave(self, why: Leaving) -> None:
        """Stop and give the lease back; ``lost``: it is gone already, so at once and without a word."""
        if not self.leaving or why == "lost":
            self.leaving = why
            self._changed.set()

    @property
    def movable(self) -> bool:
        """True when another node may take over without a full resync."""
        return self._child is None or movable(self.status)

    @property
    def at_work(self) -> bool:
        """True while a worker process runs."""
        return self._child is not None

    @property
    def _lost(self) -> bool:
        return self.leaving == "lost"

    @property
    def _paused(self) -> bool:
        return self.record.desired == "paused"

    # ---- life ----

    async def run(self) -> None:
        """Run workers until told to leave. Never raises a CanalError."""
        while not self.leaving:
            self._changed.clear()
            self._restart = False
            try:
                end = await self._one_life()
            except Stale as error:
                log.warning("%s", error)
                await self._check_lease()
                continue
            except CanalError as error:
                end = End("failed", str(error), error.transient)
            except OSError as error:
                end = End("crashed", f"no worker process could be started: {error}", True)
            await self._after(end)
        await self._give_back()

    async def _one_life(self) -> End:
        """Start a worker and be with it to its end."""
        host = self._host
        await self._new_run()
        self._config = self.link_config()
        config = replace(self._config, epoch_unused=self._unused)
        if self._resync:
            snapshot = replace(config.snapshot, mode="always", confirmed=self._confirmed)
            config = replace(config, snapshot=snapshot)
            self._resync = False
        self.failed = ""
        self.status = None
        child = self._child = await host.workers.spawn()
        try:
            level = logging.getLogger("sync").getEffectiveLevel()
            start = start_message(config, paused=self._paused, log_level=level)
            child.writer.write(frames.encode(start))
            self._tell_retire()
            listening = asyncio.create_task(self._listen(child))
            stopping = asyncio.create_task(self._stop_when_told(child))
            try:
                end = await listening
                async with asyncio.timeout(10):
                    code = await asyncio.shield(child.ended)
            finally:
                stopping.cancel()
                listening.cancel()
                await asyncio.gather(stopping, listening, return_exceptions=True)
            return end or End("crashed", _died(code), True)
        finally:
            child.kill()
            child.writer.close()
            self._child = None

    async def _new_run(self) -> None:
        """Open the next run. While the coordinator is away a shard that is held already starts without: the target
        fences it all the same, and its next record opens the run."""
        try:
            async with self._host.records:
                self.known = await self._host.call(self._begin_run)
            self._run_pending = False
        except SessionLost:
            raise
        except Unreachable:
            if self.known.version < 0:
                raise
            self._run_pending = True

    def _begin_run(self) -> Known:
        return self._host.coordinator.leases.begin_run(self.lease, phase="starting", edit=self._counted)

    def _counted(self, state: ShardState) -> ShardState:
        return replace(
            state,
            restarts=self._restarts,
            restart_reason=self._restart_reason,
            spec_version=self.record.version,
        )

    def link_config(self) -> LinkConfig:
        """The link as the task wants it now, with this node's credentials. Raises ConfigError."""
        config = self._host.config
        return to_link_config(
            self.record,
            self.id.shard,
            credentials=config.credentials,
            state_dir=config.state_dir,
            epoch=self.lease.epoch,
            allow_hooks=config.allow_hooks,
            members=self.nodes.members,
        )

    async def _listen(self, child: Child) -> End | None:
        """Take a worker's messages until its socket closes; None when it ended without a word."""
        end = None
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await frames.read(child.reader)
            except TimeoutError:
                return End("crashed", f"the worker was silent for {SILENCE_S:.0f} s and was killed", True)
            if message is None:
                return end
            if "status" in message:
                self._take(status_of(message))
            elif "log" in message:
                self._host.line(self.id, message["log"])
            elif "end" in message:
                end = End(**message["end"])

    def _take(self, status: LinkStatus) -> None:
        self.status = status
        self._unused = self._unused and not status.epoch
        if status.state == "streaming" and not self._healthy_since:
            self._healthy_since = time.monotonic()
        healthy_s = time.monotonic() - self._healthy_since if self._healthy_since else 0.0
        if healthy_s > STEADY_S:
            self._backoff.reset()
        if healthy_s > HEALTHY_S:
            self._restarts = 0
        if status.slots != self.known.state.slots and self.known.state.slots:
            self._noting = asyncio.create_task(self._event(f"shard {self.id.shard} has the slots {status.slots[:200]}"))
        if urgent(self.known.state, self._record()):
            self._host.publish()

    async def _stop_when_told(self, child: Child) -> None:
        """Stop the worker when the shard is to leave or to start anew."""
        while not (self.leaving or self._restart):
            await self._changed.wait()
            self._changed.clear()
        if self._lost:
            child.kill()
            return
        deadline_s = STOP_S[self.leaving or "restart"]
        if not child.writer.is_closing():
            child.writer.write(frames.encode({"do": "stop", "deadline_s": deadline_s}))
        stop_by = time.monotonic() + deadline_s + 5.0
        while not child.ended.done() and time.monotonic() < stop_by and not self._lost:
            await asyncio.wait({child.ended}, timeout=0.2)
        child.kill()

    def _tell_pause(self) -> None:
        if self._child is not None and not self._child.writer.is_closing():
            self._child.writer.write(frames.encode({"do": "pause" if self._paused else "resume"}))

    def _tell_retire(self) -> None:
        if self.nodes.gone and self._child is not None and not self._child.writer.is_closing():
            self._child.writer.write(frames.encode({"do": "retire"}))

    def _tell_throttle(self) -> None:
        """Other limits need no new worker."""
        try:
            self._config = self.link_config()
        except CanalError as error:
            log.error("%s: throttle not changed: %s", self.id, error)
            return
        if self._child is not None and not self._child.writer.is_closing():
            limits = asdict(self._config.throttle)
            self._child.writer.write(frames.encode({"do": "throttle", "limits": limits}))

    # ---- after a worker ----

    async def _after(self, end: End) -> None:
        """What follows from a worker's end: nothing, a new epoch, a pause before the next try, or failure."""
        self._healthy_since = 0.0
        if end.kind == "stopped" and self.nodes.gone:
            self.leave("retire")
        if self.leaving or self._restart or end.kind == "stopped":
            return
        if end.kind == "fenced":
            await self._rise(end)
            return
        if end.kind == "failed" and not end.transient:
            await self._fail(end.error)
            return
        self._restarts += 1
        self._restart_reason = end.error
        delay = self._backoff.next()
        log.warning("%s: %s; starting again in %.1f s (restart %d)", self.id, end.error, delay, self._restarts)
        await self._note(phase=f"starts again in {delay:.0f} s", error=end.error)
        await self._wait(delay)

    async def _rise(self, end: End) -> None:
        """The target knows a higher epoch. Ours to pass when the lease is still held, else the new owner's."""
        try:
            self.lease = await self._host.call(self._host.coordinator.leases.raise_epoch, self.lease, end.epoch + 1)
            self._unused = True
            log.warning("%s: %s; the lease is held, going on under epoch %d", self.id, end.error, self.lease.epoch)
        except SessionLost:
            log.warning("%s: %s", self.id, end.error)
            self.leave("lost")
            self._host.changed()
        except CanalError as error:
            log.warning("%s: %s; and the coordinator cannot say who owns the shard: %s", self.id, end.error, error)
            await self._wait(self._backoff.next())

    async def _fail(self, error: str) -> None:
        """Stand still until a person or a new configuration changes something."""
        self.failed = error
        log.error("%s failed: %s", self.id, error)
        self._host.line(self.id, {"level": logging.ERROR, "name": "node", "message": error, "at": time.time()})
        await self._note(state="failed", phase="needs a person", error=error)
        await self._event(f"failed: {error}")
        while not (self.leaving or self._restart):
            await self._changed.wait()
            self._changed.clear()

    async def _wait(self, seconds: float) -> None:
        wake_at = time.monotonic() + seconds
        while not (self.leaving or self._restart) and (left := wake_at - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
            self._changed.clear()

    async def _check_lease(self) -> None:
        """After a refused write: go on if the lease is ours, leave if it is not."""
        try:
            held = await self._host.call(self._host.coordinator.leases.holds, self.lease)
        except CanalError as error:
            log.warning("%s: %s", self.id, error)
            await self._wait(self._backoff.next())
            return
        if not held:
            self.leave("lost")
        else:
            await self._wait(self._backoff.next())

    async def _give_back(self) -> None:
        if self._lost:
            return
        words = {
            "retire": "left the source cluster",
            "stop": "stopped",
            "hand over": "moves to another node",
            "shutdown": f"{self.lease.node} was stopped",
        }
        if self.leaving == "stop" or not self.failed:  # elsewhere a failure is to be seen until it is tried again
            await self._note(state="stopped", phase=words[self.leaving])
        try:
            await self._host.call(self._host.coordinator.leases.release, self.lease)
        except CanalError as error:
            log.warning("%s: the lease could not be given back, it will run out: %s", self.id, error)
            return
        if self.leaving == "retire":
            await self._event(f"shard {self.id.shard} has ended: it left the source cluster")
            await self._host.call(self._host.coordinator.tasks.remove_shard, self.id)

    # ---- the record ----

    def _record(self) -> ShardState:
        if self.status is None or self._child is None:
            return self.known.state
        base, now = self.known.state, time.time()
        if self._run_pending:
            base = new_run(base, node=self.lease.node, epoch=self.lease.epoch, now=now)
        return self._counted(record_of(base, self.status, paused=self._paused, now=now))

    def progress(self, *, all_changes: bool) -> Progress | None:
        """What is to be written now, if anything: ``all_changes`` positions too, else only what is urgent."""
        if self.status is None or self._child is None or self.known.version < 0 or self.leaving:
            return None
        new = self._record()
        wanted = differs(self.known.state, new) if all_changes else urgent(self.known.state, new)
        return Progress(self.id, self.known, new) if wanted else None

    def published(self, result: Known | Stale) -> None:
        """The outcome of writing `progress`; a refused write means that somebody else may own the shard."""
        if isinstance(result, Known):
            self.known = result
            self._run_pending = False
            return
        log.warning("%s", result)
        self.restart()

    async def _note(self, *, state: Literal["", "failed", "stopped"] = "", phase: str, error: str = "") -> None:
        """Write the record outside the rounds; a refused or impossible write is only logged."""
        host = self._host
        try:
            async with host.records:
                old = self._record()
                if old.ended and state and old.state != state:
                    old = new_run(old, node=self.lease.node, epoch=self.lease.epoch, now=time.time())
                new = moved(old, state or old.state, now=time.time(), phase=phase, error=error)
                new = self._counted(new)
                if new.run > self.known.state.run + 1:
                    new = replace(new, run=self.known.state.run + 1)
                self.known = await host.call(host.coordinator.leases.write_state, self.id, self.known, new)
                self._run_pending = False
        except CanalError as refused:
            log.warning("%s: its state could not be recorded: %s", self.id, refused)

    async def _event(self, what: str) -> None:
        coordinator = self._host.coordinator
        try:
            await self._host.call(lambda: coordinator.tasks.record_event(self.id.task, what, by=self.lease.node))
        except CanalError as error:
            log.warning("%s: its history could not be written: %s", self.id, error)


def _without_throttle(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "throttle"}


def _died(code: int) -> str:
    return f"the worker was killed by signal {-code}" if code < 0 else f"the worker ended with exit code {code}"
