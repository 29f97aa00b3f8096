"""A link: one shard's pipeline, source → target, from the first connection to the last commit.

Keeps the two halves going independently: `Capture` follows the source, `Replay` opens one fenced session at the target
after the other, each starting from the checkpoint that it finds there. Nothing is remembered that the target's
checkpoint and the state directory do not say, so a crash anywhere is a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time

from canal.capture import Capture, CaptureOptions
from canal.errors import CanalError
from canal.journal.lock import StateLock
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.heartbeat import Heartbeat
from sync.horizon import Horizon
from sync.letters import WaitingCount
from sync.linkstate import LinkState
from sync.moves import follow_moves
from sync.replay import Replay
from sync.status import LinkStatus
from sync.target.fence import Fenced
from sync.throttle import Throttle, ThrottleOptions
from sync.transform import Transform
from sync.verify.mapping import TaskMapping
from sync.verify.sampler import Sampler
from sync.watch import SourceWatch

__all__ = ["Fenced", "Link"]

log = logging.getLogger(__name__)

_TICK_S = 0.1
_RETIRE_S = 3600.0


class Link:
    """``await run()`` until `stop` or an error that needs a person; ``status`` is updated all the while."""

    def __init__(self, config: LinkConfig, status: LinkStatus | None = None) -> None:
        self.config = config
        self.status = status or LinkStatus(config.task, config.shard, config.source_dc, config.target_dc)
        self._wake = asyncio.Event()
        self._stop_by: float | None = None
        self._paused = False
        self._retiring = False
        self._throttle = Throttle(self.status, config.throttle)
        self._capture: Capture | None = None
        self._replay: Replay | None = None

    # --- outside ---

    async def run(self) -> None:
        """Keep the target in step. Raises `CanalError` for what needs a person; returns after `stop`."""
        status = self.status
        lock = StateLock(self.config.state_dir)
        try:
            lock.acquire()
            await self._run()
            status.state = "stopped"
        except CanalError as error:
            status.failed(error)
            status.state, status.detail = "failed", str(error)
            status.fenced = isinstance(error, Fenced)
            raise
        finally:
            status.source_connected = status.target_connected = False
            lock.release()

    def stop(self, deadline_s: float = 10.0) -> None:
        """Leave the source, apply what has been received, commit; `run` returns within about ``deadline_s``."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + deadline_s
            if self._replay is not None:
                self._replay.stop_by = self._stop_by
            if self._capture is not None:
                self._capture.stop()
            self._wake.set()

    def retire(self) -> None:
        """The source is no more: apply what came of it, let others have its slots, and end."""
        if not self._retiring:
            self._retiring = True
            self.stop(_RETIRE_S)

    def pause(self) -> None:
        """Stop replay, not capture; the journal grows meanwhile."""
        self._paused = self.status.paused = True
        if self._replay is not None:
            self._replay.pause(True)

    def resume(self) -> None:
        """Replay again."""
        self._paused = self.status.paused = False
        if self._replay is not None:
            self._replay.pause(False)

    def throttle(self, options: ThrottleOptions) -> None:
        """Other limits of replay, from now on."""
        self._throttle.set(options)
        self._wake.set()

    @property
    def conflicts(self) -> Conflicts | None:
        """What is known of concurrent writes; None one way, and before the stream is followed."""
        return None if self._replay is None else self._replay.conflicts

    # --- the whole life ---

    async def _run(self) -> None:
        config = self.config
        self.state = LinkState.load(config.state_dir)
        if config.uid:
            self.state.uid = config.uid
        self.state.save(config.state_dir)
        watch = SourceWatch(config, lambda: self._replay.sent_to() if self._replay is not None else 0)
        capture = self._capture = watch.capture = self._new_capture(watch)
        replay = self._replay = Replay(config, self.status, capture, self.state, watch, self._wake)
        replay.stop_by = self._stop_by
        replay.sessions.throttle = self._throttle
        replay.pause(self._paused)
        for note in capture.open():
            log.warning("journal: %s", note)
        if capture.can_begin:
            capture.begin()
        try:
            await self._both_halves(capture, replay)
            if self._retiring and replay.slots is not None:
                await replay.slots.retire()
        finally:
            capture.stop()
            await capture.close()
            self._show(capture, replay)
            self.status.dead_letters_waiting = WaitingCount(self.config.state_dir).value()

    def _new_capture(self, watch: SourceWatch) -> Capture:
        journal = self.config.journal
        options = CaptureOptions(
            journal.segment_bytes,
            journal.fsync,
            journal.max_bytes,
            journal.retain_bytes,
            journal.retain_seconds,
            journal.tail_bytes,
        )
        return Capture(
            self.config.source,
            self.config.state_dir,
            options,
            self._wake.set,
            fail_fast=not self.state.worked,
            locate=watch.before_psync,
            on_full_resync=self._full_resync,
        )

    async def _both_halves(self, capture: Capture, replay: Replay) -> None:
        """Capture and replay side by side; the first error of either ends both, and so does the deadline of `stop`."""
        replaying = asyncio.create_task(replay.run(), name="replay")
        following = asyncio.create_task(self._follow(capture), name="capture")
        ticking = asyncio.create_task(self._ticker(capture, replay), name="ticker")
        beside = self._beside(replay)
        horizon = Horizon(self.config, self.status, lambda: capture.journal.size)
        looking = asyncio.create_task(horizon.run(), name="horizon")
        keeping = asyncio.create_task(_keep_slots(replay), name="slots")
        moving = asyncio.create_task(follow_moves(self.config, capture, replay), name="moves")
        try:
            while not replaying.done():
                await asyncio.wait({replaying, following, ticking}, timeout=1.0, return_when="FIRST_COMPLETED")
                for task in (following, ticking):
                    if task.done() and (error := task.exception()) is not None:
                        raise error
                if self._stop_by is not None and time.monotonic() > self._stop_by:
                    log.warning("not all was applied within the time to stop: it stays in the journal")
                    return
                if following.done() and not replaying.done():
                    await asyncio.wait({replaying, ticking}, timeout=1.0, return_when="FIRST_COMPLETED")
            replaying.result()
        finally:
            await _end(replaying, following, ticking, looking, moving, keeping, *beside)

    def _beside(self, replay: Replay) -> list[asyncio.Task[None]]:
        """What looks on, where it is asked for: nothing waits for it."""
        tasks = []
        slots = None if replay.slots is None else replay.slots.owns
        if self.config.verify_rate > 0:
            mapping = TaskMapping(Transform(self.config.transform))
            sampler = replay.sessions.sampler = Sampler(self.config, self.status, mapping, slots)
            tasks.append(asyncio.create_task(sampler.run(), name="sampler"))
        if replay.reunion is not None:
            tasks.append(asyncio.create_task(replay.reunion.run(), name="reunion"))
        if replay.dirty is not None:
            tasks.append(asyncio.create_task(replay.dirty.run(), name="dirty keys"))
        if replay.rollback is not None:
            tasks.append(asyncio.create_task(replay.rollback.run(), name="rollback"))
        if self.config.heartbeat:
            heartbeat = replay.sessions.heartbeat = Heartbeat(self.config, self.status, slots)
            tasks.append(asyncio.create_task(heartbeat.run(), name="heartbeat"))
        return tasks

    async def _follow(self, capture: Capture) -> None:
        await capture.begun.wait()
        await capture.run()

    async def _ticker(self, capture: Capture, replay: Replay) -> None:
        """Status from capture, and a regular wake-up for what goes by time."""
        letters = WaitingCount(self.config.state_dir)
        while True:
            self._show(capture, replay)
            self.status.dead_letters_waiting = letters.value()
            self._wake.set()
            await asyncio.sleep(_TICK_S)

    def _show(self, capture: Capture, replay: Replay) -> None:
        status, seen, journal = self.status, capture.status, capture.journal
        status.source_connected = seen.connected
        status.source_offset = seen.offset
        status.received_ms = seen.received_ms
        status.last_heard = seen.last_heard
        status.replid = journal.replids[-1][0] if journal.positioned else None
        status.journaled_offset = journal.durable_end
        status.journal_start = journal.start
        status.journal_bytes = journal.size
        status.journal_full = seen.full
        status.partial_resyncs = seen.partial_resyncs
        status.source_reconnects = seen.reconnects
        status.fsyncs, status.fsync_seconds = journal.syncs.count, journal.syncs.seconds
        status.snapshot.bytes_received, status.snapshot.bytes_total = seen.rdb_received, seen.rdb_total
        if seen.error is not None and not seen.connected:
            status.last_error = seen.error
        if seen.connected and not self.state.worked and replay.checked:
            self.state.worked = True
            self.state.save(self.config.state_dir)

    def _full_resync(self, reason: str) -> None:
        status = self.status
        status.full_resyncs += 1
        status.full_resync_reasons[reason] = status.full_resync_reasons.get(reason, 0) + 1
        self.state.full_resyncs += 1
        self.state.save(self.config.state_dir)


async def _keep_slots(replay: Replay) -> None:
    """Slots of a source cluster that move; nothing to do for other sources."""
    if replay.slots is not None:
        await replay.slots.run()


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel them until they have ended: redis-py swallows a cancellation that meets its connection attempt."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=2.0)
    await asyncio.gather(*tasks, return_exceptions=True)
