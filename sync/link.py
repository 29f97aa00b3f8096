"""A link: one shard's pipeline, source → target, from the first connection to the last commit.

Keeps the two halves going independently: `Capture` follows the source, and this module opens one fenced session at the
target after the other, each starting from the checkpoint that it finds there. Nothing is remembered that the target's
checkpoint and the state directory do not say, so a crash anywhere is a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from canal.backoff import Backoff
from canal.capture import Capture, CaptureOptions
from canal.commands import ServerKind
from canal.endpoint import Endpoint
from canal.errors import AuthError, CanalError, PeerError, ProtocolError, RdbError, Unreachable, Unready
from canal.journal.chunk import JournalDamaged, SpoolAborted
from canal.journal.lock import StateLock
from canal.position import Position
from sync.adjust import make_rules
from sync.batch import Batch, command_at
from sync.config import LinkConfig
from sync.deadletter import DeadLetters
from sync.failover import Fork, Unknowable, written_beyond
from sync.linkstate import LinkState
from sync.preflight import kind, refuse_cluster, refuse_same, refuse_same_stream, refuse_strangers, source_info
from sync.refetch import Place, Refetch, from_member, refetch_key, unit_of
from sync.restore import target_of
from sync.rewrite import Payloads
from sync.session import Session, Superseded, Troubles
from sync.snapshot import SnapshotRun
from sync.status import LinkStatus
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.target.connection import Connection, connect
from sync.target.fence import Fence, Fenced, ServerInfo, fence, read_checkpoint, refuse_duplicate, server_info
from sync.target.standalone import GUARD, BatchRefused
from sync.transform import Transform
from sync.unit import Dropped

log = logging.getLogger(__name__)

_TICK_S = 0.1
_NEAR_S = 0.002
"""Round trips up to this let gated writing keep a target busy; above it guarded batches are pipelined."""
_LOSSES_ALONE = 3
_LOSSES_POISON = 10


class Link:
    """``await run()`` until `stop` or an error that needs a person; ``status`` is updated all the while."""

    def __init__(self, config: LinkConfig, status: LinkStatus | None = None) -> None:
        self.config = config
        self.status = status or LinkStatus(config.task, config.shard, config.source_dc, config.target_dc)
        self._wake = asyncio.Event()
        self._stop_by: float | None = None
        self._troubles = Troubles()
        self._backoff = Backoff()
        self._paused = False
        self._session: Session | None = None
        self._source_kind: ServerKind | None = None
        self._backlog = 1 << 20
        self._checked_servers = False
        self._stop_asked = asyncio.Event()
        self._leave: Callable[[], None] | None = None  # stops reading from the source
        self._transform = Transform(config.transform, self.status.filtered)
        self._boundaries: deque[tuple[int, int]] = deque(maxlen=16384)  # (offset, db) of commits, sparsely
        self._members: list[bytes] = []
        self._found_at = 0  # newest position found in the target's checkpoint

    # --- outside ---

    async def run(self) -> None:
        """Keep the target in step. Raises `CanalError` for what needs a person; returns after `stop`."""
        status = self.status
        lock: StateLock | None = None
        try:
            lock = StateLock(self.config.state_dir)
            lock.acquire()
            await self._run()
            status.state = "stopped"
        except CanalError as error:
            status.failed(error)
            status.state, status.detail = "failed", str(error)
            raise
        finally:
            status.source_connected = status.target_connected = False
            if lock is not None:
                lock.release()

    def stop(self, deadline_s: float = 10.0) -> None:
        """Leave the source, apply what has been received, commit; `run` returns within about ``deadline_s``."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + deadline_s
            self._stop_asked.set()
            if self._leave is not None:
                self._leave()
            self._wake.set()

    def pause(self) -> None:
        """Stop replay, not capture: what is on its way is committed, nothing more is sent until `resume`."""
        self._paused = True
        if self._session is not None:
            self._session.paused = True
        self._wake.set()

    def resume(self) -> None:
        """Replay again."""
        self._paused = False
        if self._session is not None:
            self._session.paused = False
        self._wake.set()

    # --- the whole life ---

    async def _run(self) -> None:
        config = self.config
        self.state = LinkState.load(config.state_dir)
        if config.uid:
            self.state.uid = config.uid
        self.state.save(config.state_dir)
        self.dead = DeadLetters(config.state_dir)
        journal = config.journal
        self.capture = Capture(
            config.source,
            config.state_dir,
            CaptureOptions(
                journal.segment_bytes,
                journal.fsync,
                journal.max_bytes,
                journal.retain_bytes,
                journal.retain_seconds,
                journal.tail_bytes,
            ),
            self._wake.set,
            fail_fast=not self.state.worked,
            locate=self._before_psync,
            on_full_resync=self._full_resync,
        )
        for note in self.capture.open():
            log.warning("journal: %s", note)
        if self.capture.can_begin:
            self.capture.begin()
        self._leave = self.capture.stop
        if self._stopping:
            self._leave()
        try:
            await self._both_halves()
        finally:
            self.capture.stop()
            await self.capture.close()

    async def _both_halves(self) -> None:
        """Capture and replay side by side; the first error of either ends both."""
        replay = asyncio.create_task(self._replay(), name="replay")
        follow = asyncio.create_task(self._follow(), name="capture")
        ticker = asyncio.create_task(self._ticker(), name="ticker")
        deadline = asyncio.create_task(self._deadline(), name="deadline")
        tasks: set[asyncio.Task[None]] = {replay, follow, ticker, deadline}
        waiting: set[asyncio.Task[None]] = {replay, follow, deadline}
        try:
            while not replay.done():
                done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                if follow in done and not replay.done() and (error := follow.exception()) is not None:
                    raise error
                if deadline in done and not replay.done():
                    log.warning("stopped at the deadline: %d bytes remain in the journal", self.status.lag_bytes)
                    return
            replay.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        await self.capture.begun.wait()
        await self.capture.run()

    async def _deadline(self) -> None:
        """Over when a stop has been asked for and its time is up."""
        await self._stop_asked.wait()
        assert self._stop_by is not None
        await asyncio.sleep(self._stop_by - time.monotonic())

    async def _ticker(self) -> None:
        """Status from capture, and a regular wake-up for what goes by time."""
        while True:
            self._show()
            self._wake.set()
            await asyncio.sleep(_TICK_S)

    def _show(self) -> None:
        status, capture = self.status, self.capture
        seen = capture.status
        status.source_connected = seen.connected
        status.source_offset = seen.offset
        status.received_ms = seen.received_ms
        status.last_heard = seen.last_heard
        status.replid = capture.journal.replids[-1][0] if capture.journal.positioned else None
        status.journaled_offset = capture.journal.durable_end
        status.journal_start = capture.journal.start
        status.journal_bytes = capture.journal.size
        status.journal_full = seen.full
        status.partial_resyncs = seen.partial_resyncs
        status.source_reconnects = seen.reconnects
        syncs = capture.journal.syncs
        status.fsyncs, status.fsync_seconds = syncs.count, syncs.seconds
        status.snapshot.bytes_received, status.snapshot.bytes_total = seen.rdb_received, seen.rdb_total
        if seen.error is not None and not seen.connected:
            status.last_error = seen.error
        if seen.connected and not self.state.worked and self._checked_servers:
            self.state.worked = True
            self.state.save(self.config.state_dir)

    def _full_resync(self, reason: str) -> None:
        status = self.status
        status.full_resyncs += 1
        status.full_resync_reasons[reason] = status.full_resync_reasons.get(reason, 0) + 1
        self.state.full_resyncs += 1
        self.state.save(self.config.state_dir)

    async def _before_psync(self) -> Endpoint:
        """A look at the source before each PSYNC: what it is, how large its backlog."""
        found = await source_info(self.config)
        if found is not None:
            self._source_kind = kind(found)
            self._backlog = found.backlog_bytes or self._backlog
            await self._look_for_fork(found)
        return self.config.source

    async def _look_for_fork(self, source: ServerInfo) -> None:
        """Cut the journal where the history of a promoted source parts from what was received; see `sync.failover`."""
        journal = self.capture.journal
        ours = journal.position
        fork = source.second_offset - 1
        if ours is None or source.replid2 != ours.replid or not journal.start <= fork < ours.offset:
            return
        at = Position(ours.replid, fork)
        log.warning("the source failed over: its history parts from ours at %s, %d bytes back", at, ours.offset - fork)
        if self._sent_to() > fork and Fork.load(self.config.state_dir) is None:
            known = [boundary for boundary in self._boundaries if boundary[0] <= fork]
            if not known:
                log.warning("what was replayed beyond the fork is not known any more: a full resync is needed")
                return
            try:
                db, places = await asyncio.to_thread(written_beyond, journal, known[-1], fork)
            except Unknowable as error:
                log.warning("%s: a full resync is needed", error)
                return
            Fork(at, db, places).save(self.config.state_dir)
            log.info("fetching %d keys again that were written beyond the fork", len(places))
        self.capture.cut(fork)

    def _sent_to(self) -> int:
        """The newest offset that may have been applied."""
        session = self._session
        sent = 0 if session is None else session.writer.sent_to
        return max(self.status.applied_offset, sent, self._found_at)

    # --- replay ---

    @property
    def _stopping(self) -> bool:
        return self._stop_by is not None

    async def _replay(self) -> None:
        """One session after the other until stopped."""
        while True:
            try:
                if await self._one_session():
                    return
                continue
            except BatchRefused as error:
                log.warning("%s; looking for the command", error)
                end = self._session.refused(error) if self._session is not None else None
                if end is not None:
                    raise end from None
                continue
            except (SpoolAborted, Superseded) as error:
                log.info("%s", error)
                continue
            except JournalDamaged as error:
                self.status.failed(error)
                self.capture.damaged(error.start)
                continue
            except PeerError as error:
                if not self._retries(error):
                    raise
                self._lost(error)
                if self._session is not None and self._session.batches:
                    self._backoff.reset()
            finally:
                self._drop_session()
            if self._stopping and self._past_deadline():
                return
            delay = self._backoff.next()
            log.info("%s; next attempt in %.1f s", self.status.last_error, delay)
            await self._sleep(delay)

    def _retries(self, error: PeerError) -> bool:
        """At first contact a target that cannot be reached is a mistake of the caller; later it is an outage."""
        if isinstance(error, RdbError | ProtocolError):
            return False
        if self.state.worked:
            return True
        return error.transient and (self._checked_servers or isinstance(error, Unready))

    async def _sleep(self, delay: float) -> None:
        if self._stop_by is not None:
            delay = min(delay, max(0.0, self._stop_by - time.monotonic()))
        await asyncio.sleep(delay)

    def _past_deadline(self) -> bool:
        return self._stop_by is not None and time.monotonic() > self._stop_by

    def _drop_session(self) -> None:
        self.status.target_connected = False
        if self._session is not None:
            self._session.writer.close()
            self._session = None

    def _lost(self, error: CanalError) -> None:
        """Count an outage, and tell a unit that breaks the connection each time from an outage of the line."""
        status, session, troubles = self.status, self._session, self._troubles
        status.failed(error)
        if session is None:
            return
        status.target_reconnects += 1
        flights = session.writer.in_flight
        if not flights or not isinstance(error, Unreachable):
            return
        if troubles.lost_at != session.committed:
            troubles.lost_at, troubles.losses, troubles.restarts = session.committed, 0, 0
        troubles.losses += 1
        if troubles.losses >= _LOSSES_ALONE:
            troubles.single_until = max(troubles.single_until, flights[0].batch.end)
            troubles.snapshot_single = troubles.snapshot_single or flights[0].batch.snapshot
        alone = troubles.losses - _LOSSES_ALONE
        if alone >= _LOSSES_POISON or (alone >= _LOSSES_ALONE and troubles.restarts >= _LOSSES_ALONE):
            batch = flights[0].batch
            found = command_at(batch, 0)
            if found is not None:
                db, argv, end = found
                why = f"the connection was lost {troubles.losses} times when this unit was sent: {error}"
                raise session.give_up(end, db, argv, why)

    async def _one_session(self) -> bool:
        """Connect, fence, and replay until something ends it. True when the link is done."""
        status, config = self.status, self.config
        if status.state not in ("connecting", "streaming", "snapshot"):
            status.state = "connecting"
        conn = await connect(config.target)
        try:
            await self._first_look(conn)
            fenced = await fence(conn, config.task, config.shard, await self._epoch(conn))
            status.target_connected = True
            status.epoch = fenced.checkpoint.epoch
            self._note_restart(fenced)
            checkpoint = self._own(fenced.checkpoint)
            if checkpoint.position is not None:
                self._found_at = checkpoint.position.offset
            return await self._work(conn, fenced, checkpoint)
        finally:
            conn.close()

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as far as it is this task's: another uid's position is not ours to go on from."""
        if checkpoint.uid == self.state.uid:
            return checkpoint
        return replace(checkpoint, position=None, snapshot=False, progress=0)

    async def _epoch(self, conn: Connection) -> int:
        """This process's epoch: the coordinator's, or one more than any seen by the state directory or the target."""
        if self.config.epoch:
            return self.config.epoch
        if not self.status.epoch:
            stored = await read_checkpoint(conn, checkpoint_key(self.config.task, self.config.shard))
            self.state.epoch = max(self.state.epoch, stored.epoch) + 1
            self.state.save(self.config.state_dir)
        return self.state.epoch

    async def _first_look(self, conn: Connection) -> None:
        """Before anything is written: is this the right target?"""
        config = self.config
        target = server_info(await conn.call(b"INFO"))
        refuse_cluster(config, target)
        key = checkpoint_key(config.task, config.shard)
        source = None if self._checked_servers else await source_info(config)
        if source is not None:
            self._source_kind = kind(source)
            refuse_same(config, source, target)
            await refuse_duplicate(conn, key, {source.replid})
        # each time: a target that lost its checkpoint and holds data is not the one that it was
        await refuse_strangers(config, conn, self._own(await read_checkpoint(conn, key)))
        self._checked_servers = True

    def _note_restart(self, fenced: Fence) -> None:
        troubles = self._troubles
        if troubles.run_id and troubles.run_id != fenced.info.run_id and troubles.losses:
            troubles.restarts += 1
        troubles.run_id = fenced.info.run_id

    def _guarded(self, fenced: Fence) -> bool:
        mode = self.config.writer
        if not fenced.can_kill and mode == "gated":
            raise AuthError(
                f"target {self.config.target.label}: the user may not CLIENT LIST and CLIENT KILL, which gated writing "
                "needs to be safe: grant +client|list +client|kill +client|setname, or use the guarded writer"
            )
        if mode != "auto":
            return mode == "guarded"
        old = fenced.info.flavor == "redis" and fenced.info.numbers < (6, 2, 0)
        return old or not fenced.can_kill or fenced.rtt > _NEAR_S

    async def _work(self, conn: Connection, fenced: Fence, checkpoint: Checkpoint) -> bool:
        """Replay on a fenced connection, as the capture's plan says."""
        config, status, capture = self.config, self.status, self.capture
        guarded = self._guarded(fenced)
        status.writer = "guarded" if guarded else "gated"
        if guarded:
            await conn.call(b"SCRIPT", b"LOAD", GUARD)
        if config.snapshot.mode == "always" and not self._asked_always:
            self._asked_always = True
            capture.full_resync("asked for")
            checkpoint = replace(checkpoint, position=None)
        fork = Fork.load(config.state_dir)
        if fork is not None:
            checkpoint = self._gone_back(fork, checkpoint)
        while True:
            plan = capture.plan(checkpoint.position, checkpoint.snapshot)
            if plan != "wait" and not self._paused:
                break
            if self._stopping:
                return True
            if plan == "wait":
                status.state = "connecting"
            await self._pause_for_change(conn)
        position = checkpoint.position if plan == "stream" else capture.spool.position
        assert position is not None
        generation = capture.generation
        replids = {replid for replid, _ in capture.journal.replids}
        refuse_same_stream(config, fenced.info, position)
        key = checkpoint_key(config.task, config.shard)
        await refuse_duplicate(conn, key, replids)
        self._members = await conn.call(b"SMEMBERS", refetch_key(config.task, config.shard))
        tagger = Tagger(key, self.state.uid, config.source_dc, fenced.checkpoint)
        session = Session(
            config,
            status,
            capture,
            conn,
            fenced,
            tagger,
            self._wake,
            self._troubles,
            self._boundaries,
            self.dead,
            guarded,
            position,
            generation,
        )
        session.backlog_bytes = self._backlog
        session.paused = self._paused
        self._session = session
        target = kind(fenced.info)
        if plan == "snapshot":
            status.state = "snapshot"
            resumes = checkpoint.snapshot and checkpoint.position == position
            first = checkpoint.first if checkpoint.snapshot else checkpoint.position is None
            await SnapshotRun(session, checkpoint.progress if resumes else 0, first, target, self._transform).run()
            offset, db = position.offset, 0
        else:
            offset, db = position.offset, checkpoint.db
        status.state, status.detail = "streaming", ""
        status.applied_offset = offset
        session.note_boundary(offset, db)
        await self._mind_refetch(session, fork, target)
        rules = make_rules(config, self._source_kind, target, self._transform)
        await session.stream(rules, offset, db, self._drained)
        return self._stopping

    def _gone_back(self, fork: Fork, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as it will be after the fork of a source failover is dealt with."""
        position = checkpoint.position
        if position is None or checkpoint.snapshot or position.replid != fork.position.replid:
            return checkpoint
        if position.offset <= fork.position.offset:
            return checkpoint
        return replace(checkpoint, position=fork.position, db=fork.db)

    async def _mind_refetch(self, session: Session, fork: Fork | None, target: ServerKind) -> None:
        """Take up the keys that wait to be fetched, those of a fork too, whose checkpoint goes back with them."""
        name = refetch_key(self.config.task, self.config.shard)
        keys = {from_member(member) for member in self._members}
        refetch = session.refetch = Refetch(name, keys, Payloads(target_of(target)), self._at_target)
        if fork is None:
            return
        if fork.position.offset < session.committed and fork.position.replid == session.last_replid:
            commands = refetch.add(fork.places)
            unit = unit_of(commands, fork.position.offset, fork.db, self.capture.status.received_ms)
            batch = Batch(fork.position.offset, fork.db, [unit], unit.count, unit.size)
            await session.submit(batch)
            await session.drain()
            self._found_at = fork.position.offset
        Fork.forget(self.config.state_dir)

    def _at_target(self, place: Place) -> Place | None:
        placed = self._transform.key(*place)
        return None if isinstance(placed, Dropped) else placed

    _asked_always = False

    def _drained(self) -> bool:
        """Asked when nothing is left to do at the moment: is it the end?"""
        return self._stopping

    async def _pause_for_change(self, conn: Connection) -> None:
        if conn.closed is not None:
            raise conn.closed
        self._wake.clear()
        await self._wake.wait()


__all__ = ["Fenced", "Link"]
