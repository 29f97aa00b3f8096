"""Replay: one fenced session at the target after the other, each from the checkpoint that it finds there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Container
from dataclasses import replace

from canal.backoff import Backoff
from canal.capture import Capture
from canal.endpoint import Endpoint
from canal.errors import CanalError, PeerError, ProtocolError, RdbError, Unreachable, Unready
from canal.journal.chunk import JournalDamaged, SpoolAborted
from canal.position import Position
from sync.adjust import make_rules
from sync.batch import Batch
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.dirty import DirtyKeys
from sync.failover import Fork
from sync.firstlook import first_look, own
from sync.linkstate import LinkState
from sync.preflight import kind, refuse_same_stream
from sync.refetch import Place, same_place
from sync.resync import apply_snapshot, is_first
from sync.reunion import Reunion
from sync.rollback import Rollback
from sync.routes import leave_route
from sync.session import Session, Superseded
from sync.sessions import Sessions
from sync.status import LinkStatus
from sync.streaming import Streaming
from sync.tag import Checkpoint, checkpoint_key
from sync.takeup import gone_back, read_waiting, take_up_requests, take_up_waiting
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence
from sync.target.cluster.parts import fence_target
from sync.target.cluster.rewinding import furthest, rewind
from sync.target.connection import Connection, connect
from sync.target.duplicates import claim_source
from sync.target.fence import Fence, read_checkpoint, server_info
from sync.target.transaction import BatchRefused
from sync.watch import SourceWatch
from sync.windowfile import Boundary

log = logging.getLogger(__name__)


class Replay:
    """Runs until ``stop_by`` is set and everything received is applied, or an error needs a person."""

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        state: LinkState,
        watch: SourceWatch,
        wake: asyncio.Event,
    ) -> None:
        self.checked = False  # both servers were looked at, and may be linked
        self.stop_by: float | None = None  # time.monotonic()
        self._config = config
        self._status = status
        self._capture = capture
        self._state = state
        self._watch = watch
        self._wake = wake
        self.sessions = Sessions(config, status, capture, state, watch, wake)
        self.slots = self.sessions.slots
        self._converge = self.sessions.converge
        self._deadlines = self.sessions.deadlines
        self._troubles = self.sessions.troubles
        self._backoff = Backoff()
        self._paused = False
        self._session: Session | None = None
        self._conn: Connection | None = None
        self._again = asyncio.Event()  # an attempt is worth while now
        self._found_at = 0  # newest position found in the target's checkpoint
        self._asked_always = False
        self.reunion: Reunion | None = None
        self.dirty: DirtyKeys | None = None
        self.rollback: Rollback | None = None
        self._known: Position | None = None  # two ways: committed at the target, and read back
        clustered = config.source.clustered or config.target.clustered
        if self._converge is not None and config.snapshot.existing == "home" and not clustered:
            reunion = self.reunion = Reunion(config, status, self._converge.homes)
            self._converge.lacking = lambda: reunion.due
            dirty = self.dirty = DirtyKeys(
                config, status, capture, self._expired, self._learn_deadlines, self._seen_there
            )
            dirty.due, reunion.dirty = self._converge.lacking, dirty
            self.rollback = Rollback(config, status, self.reunion, self._converge.echoes)
        self._key = checkpoint_key(config.task, config.shard)
        self._word = secrets.token_hex(8)  # of this writer alone

    def _expired(self, place: Place, at_ms: int, end: int) -> bool:
        """Had the key's deadline passed at the source, as far as deadlines are known, when its delete was sent?"""
        return self._deadlines is not None and self._deadlines.keys.passed(place, at_ms, end)

    def _seen_there(self) -> int:
        """How much of the source's stream the target has, by what was committed there, or by its own tags.

        What it then wrote is written over that, so it lacks nothing.
        """
        found, session = self.conflicts, self._session
        seen = -1 if found is None else found.seen_by(self._config.target_dc, self._config.source_dc)
        committed = self._known if session is None else Position(session.last_replid, session.committed)
        covered = committed is not None and self._capture.journal.covers(committed)
        return max(seen, committed.offset) if committed is not None and covered else seen

    async def _learn_deadlines(self) -> None:
        """Before a session does: the target may be away for long."""
        if self._deadlines is not None:
            await self._deadlines.learn_keys(self._config.source)

    def pause(self, paused: bool) -> None:
        """Stop replay, or go on; capture is not concerned."""
        self._paused = paused
        if self._session is not None:
            self._session.paused = paused
        self._wake.set()

    def moved(self, to: Endpoint) -> None:
        """The target is another server now: leave the old one, and do not wait before the next attempt."""
        self._backoff.reset()
        self._again.set()
        if self._conn is not None and self._conn.endpoint != to:
            self._conn.close(Unreachable(f"the target is {to.label} now"))

    @property
    def conflicts(self) -> Conflicts | None:
        """Of the session under way, or the last one."""
        return None if self._converge is None else self._converge.conflicts

    def sent_to(self) -> int:
        """The newest offset that may have been applied."""
        sent = 0 if self._session is None else self._session.writer.sent_to
        return max(self._status.applied_offset, sent, self._found_at)

    async def run(self) -> None:
        """One session after the other until stopped. Raises `CanalError` for what needs a person."""
        beside = self._converge or self.sessions.kept
        echoing = asyncio.create_task(beside.run()) if beside is not None else None
        try:
            while not await self._guarded_session():
                if self._past_deadline():
                    return
        finally:
            if self._converge is not None:
                self._converge.close()
            if echoing is not None:
                echoing.cancel()
                await asyncio.gather(echoing, return_exceptions=True)

    async def _guarded_session(self) -> bool:
        """A session, with its errors dealt with. True when there is nothing left to do."""
        try:
            return await self._one_session()
        except BatchRefused as error:
            log.warning("%s; looking for the command", error)
            end = self._session.refusals.refused(error) if self._session is not None else None
            if end is not None:
                raise end from None
            return False
        except (SpoolAborted, Superseded) as error:
            log.info("%s", error)
            return False
        except JournalDamaged as error:
            self._status.failed(error)
            self._capture.damaged(error.start)
            return False
        except PeerError as error:
            if not self._retries(error):
                raise
            self._lost(error)
            if self._session is not None and self._session.batches:
                self._backoff.reset()
        finally:
            self._drop_session()
        await self._rest()
        return False

    def _retries(self, error: PeerError) -> bool:
        """At first contact a target that cannot be reached is a mistake of the caller; later it is an outage."""
        if isinstance(error, RdbError | ProtocolError):
            return False
        if self._state.worked:
            return True
        return error.transient and (self.checked or isinstance(error, Unready))

    async def _rest(self) -> None:
        delay = self._backoff.next()
        log.info("%s; next attempt in %.1f s", self._status.last_error, delay)
        if self.stop_by is not None:
            delay = min(delay, max(0.0, self.stop_by - time.monotonic()))
        self._again.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._again.wait()

    def _past_deadline(self) -> bool:
        return self.stop_by is not None and time.monotonic() >= self.stop_by

    def _drop_session(self) -> None:
        self._status.target_connected = False
        session = self._session
        if session is not None:
            if session.batches:
                self._known = Position(session.last_replid, session.committed)
            session.writer.close()
            self._session = None

    def _lost(self, error: CanalError) -> None:
        """Count an outage; give a unit up that breaks the connection each time."""
        status, session = self._status, self._session
        status.failed(error)
        status.state = "connecting"
        if session is None:
            return
        status.target_reconnects += 1
        flights = session.writer.in_flight
        batch = self._troubles.lost(error, session.committed, flights[0].batch if flights else None)
        if batch is not None:
            why = f"the connection was lost {self._troubles.losses} times when this unit was sent: {error}"
            end = session.refusals.poisonous(batch, why)
            if end is not None:
                raise end

    # --- one session ---

    async def _one_session(self) -> bool:
        """Connect, fence, and replay until something ends it. True when the link is done."""
        config, status = self._config, self._status
        conn = self._conn = await connect(config.target)
        try:
            transform = self.sessions.transform
            await first_look(config, conn, self._state.uid, self._watch, transform, self.slots, checked=self.checked)
            self.checked = True
            new = not status.epoch and (config.epoch_unused or not config.epoch)
            fenced = await fence_target(
                conn, config.task, config.shard, await self._epoch(conn), unused=self._word if new else ""
            )
            await leave_route(config, conn)
            status.target_connected = True
            status.epoch = fenced.checkpoint.epoch
            self._troubles.met(fenced.info.run_id)
            checkpoint = own(fenced.checkpoint, self._state.uid)
            if checkpoint.position is not None:
                position = checkpoint.position
                self._found_at = furthest(fenced) if isinstance(fenced, ClusterFence) else position.offset
            return await self._work(conn, fenced, checkpoint)
        finally:
            conn.close()

    async def _epoch(self, conn: Connection) -> int:
        """This process's epoch: the coordinator's, or one more than any seen by the state directory or the target."""
        if self._config.epoch:
            return self._config.epoch
        if not self._status.epoch:
            stored = await read_checkpoint(conn, self._key)
            self._state.epoch = max(self._state.epoch, stored.epoch) + 1
            self._state.save(self._config.state_dir)
        return self._state.epoch

    async def _work(self, conn: Connection, fenced: Fence, checkpoint: Checkpoint) -> bool:
        """Replay on a fenced connection, as the capture's plan says."""
        config, status, capture = self._config, self._status, self._capture
        fork = Fork.load(config.state_dir)
        if fork is not None and isinstance(conn, ClusterConnection) and isinstance(fenced, ClusterFence):
            where = fork.position, fork.db
            fenced = await rewind(conn, fenced, config.task, config.shard, where, fork.places, self.sessions.at_target)
            checkpoint = own(fenced.checkpoint, self._state.uid)
            self._found_at = furthest(fenced)
            Fork.forget(config.state_dir)
            fork = None
        if self.rollback is not None:
            await self.rollback.judge_target(conn, checkpoint.position, self._known)
            self._known = None if fork is not None else checkpoint.position
            if fork is not None:
                fork = await self.rollback.judge_fork(conn, fork, checkpoint.position)
        if fork is not None:
            checkpoint = gone_back(checkpoint, fork)
        wanted, joins = checkpoint, False
        if config.snapshot.mode == "always" and not self._asked_always:
            self._asked_always = True
            capture.full_resync("asked for")
            wanted = replace(checkpoint, position=None, snapshot=False)
        elif config.snapshot.mode == "never" and checkpoint.position is None:
            joins = await self._joined(conn)
            wanted = checkpoint = replace(checkpoint, position=capture.joined, db=0, snapshot=False)
        plan = await self._planned(conn, wanted, self._earlier(wanted))
        if plan is None:
            return True
        start = checkpoint.position if plan == "stream" else capture.spool.position
        assert start is not None
        generation = capture.generation
        # asked anew: a server takes another replication id when its first replica comes
        refuse_same_stream(config, server_info(await conn.call(b"INFO")), start)
        await claim_source(
            conn, self._key, fenced.checkpoint.position, [replid for replid, _ in capture.journal.replids]
        )
        barren = plan == "snapshot" and await self._brings_nothing(conn, checkpoint)
        waiting = await read_waiting(config, conn, fenced)
        session = self._session = await self.sessions.open(conn, fenced, start, generation)
        session.paused = self._paused
        target = kind(fenced.info)
        deadlines = self._deadlines
        fields = None if deadlines is None else deadlines.fields_between(self._watch.kind, target)
        offset, db = start.offset, checkpoint.db if plan == "stream" else 0
        had: Container[Place] | None = None
        if plan == "snapshot":
            status.state = "snapshot"
            self._known = None
            had = await apply_snapshot(
                self.sessions, session, start, checkpoint, target, fields, self.reunion, barren=barren
            )
        elif joins:
            await session.submit(Batch(offset, db))
            await session.drain()
        status.state, status.detail = "streaming", ""
        status.applied_offset = offset
        self._watch.note_boundary(offset, db)
        transform = self.sessions.transform
        at_target = same_place if transform.identity else self.sessions.at_target
        if await take_up_waiting(session, waiting, fork, target, at_target):
            assert fork is not None
            self._found_at = fork.position.offset
        await take_up_requests(session, offset, db)
        if deadlines is not None:
            await deadlines.learn(config.source, self._watch.clock_offset_ms, fields)
        expiry = None if deadlines is None else deadlines.keys
        rules = make_rules(config, self._watch.kind, target, transform, expiry, fields)
        if self._converge is not None:
            seen = checkpoint.seen if checkpoint.origin == config.source_dc else ""
            if plan == "snapshot":
                seen = self._converge.snapshot_seen
            if barren or (self.reunion is not None and self.reunion.due):
                had = frozenset()  # nothing was set back: what differs is found by comparing, here and there
            rules.watch = await self._converge.open(
                *(capture, rules, start, db, seen, plan == "snapshot", self._wake, checkpoint.past, had),
                reached=self._found_at if isinstance(fenced, ClusterFence) and plan == "stream" else 0,
            )
        await Streaming(session, rules, offset, db).run(lambda: self.stop_by is not None)
        return self.stop_by is not None

    def _earlier(self, checkpoint: Checkpoint) -> Position | None:
        """Two ways, on a node that lacks the journal: from where its stretch not yet seen by all can still be had."""
        past, source = Boundary.parse(checkpoint.past), self._watch.source
        if past is None or source is None or checkpoint.position is None or checkpoint.snapshot:
            return None
        at = past.place
        before = at.replid == checkpoint.position.replid and at.offset < checkpoint.position.offset
        return at if before and source.can_serve(at) else None

    async def _planned(self, conn: Connection, checkpoint: Checkpoint, earlier: Position | None) -> str | None:
        """Wait until capture can serve the checkpoint; None when the link is to stop."""
        while True:
            plan = self._capture.plan(checkpoint.position, checkpoint.snapshot, earlier)
            if plan != "wait" and not self._paused:
                return plan
            if self.stop_by is not None:
                return None
            if plan == "wait":
                self._status.state = "connecting"
            await self._change(conn)

    async def _change(self, conn: Connection) -> None:
        if conn.broken is not None:
            raise conn.broken
        self._wake.clear()
        await self._wake.wait()

    async def _joined(self, conn: Connection) -> bool:
        """Both sides are known equal: follow the source from where it is now. False when the link is to stop before."""
        self._capture.join()
        while self._capture.joined is None and self.stop_by is None:
            await self._change(conn)
        return self._capture.joined is not None

    async def _brings_nothing(self, conn: Connection, checkpoint: Checkpoint) -> bool:
        """Two ways, before a snapshot is applied: is it one of a source that was rolled back?"""
        if self.rollback is None or is_first(checkpoint):
            return False
        return await self.rollback.judge_snapshot(conn, checkpoint)
