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
from canal.commands import ServerKind
from canal.endpoint import Endpoint
from canal.errors import AuthError, CanalError, PeerError, ProtocolError, RdbError, StateError, Unreachable, Unready
from canal.journal.chunk import JournalDamaged, SpoolAborted
from canal.position import Position
from sync.adjust import make_rules
from sync.batch import Batch
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.converge import Converge
from sync.deadletter import DeadLetters
from sync.deadline_rules import DeadlineRules
from sync.dirty import DirtyKeys
from sync.failover import Fork
from sync.heartbeat import Heartbeat
from sync.held import held_key, read_held
from sync.kept import Kept
from sync.linkstate import LinkState
from sync.order import Order
from sync.preflight import (
    kind,
    refuse_cluster,
    refuse_databases,
    refuse_evictions,
    refuse_same,
    refuse_same_stream,
    refuse_strangers,
    source_databases,
    source_info,
)
from sync.refetch import Place, Refetch, from_member, refetch_key, same_place, unit_of
from sync.render import Form
from sync.restore import target_of
from sync.reunion import Leaves, Reunion
from sync.rewrite import Payloads
from sync.rollback import Rollback
from sync.routes import leave_route, refuse_doubled
from sync.rules import Dropped
from sync.session import Session, Superseded
from sync.slots import SlotKeeper
from sync.snapshot import Contact, SnapshotRun
from sync.status import LinkStatus
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence
from sync.target.cluster.parts import ClusterParts, fence_target
from sync.target.cluster.rewinding import furthest, rewind
from sync.target.cluster.writer import ClusterWriter, open_writer
from sync.target.connection import Connection, connect
from sync.target.duplicates import claim_source, refuse_duplicate
from sync.target.fence import Fence, databases, may_join, read_checkpoint, server_info
from sync.target.standalone import BatchRefused, guard
from sync.throttle import Throttle
from sync.transform import Transform
from sync.troubles import Troubles
from sync.ttl import TtlMemory
from sync.verify.sampler import Sampler
from sync.watch import SourceWatch
from sync.windowfile import Boundary

log = logging.getLogger(__name__)

_NEAR_S = 0.002
"""Round trips up to this let gated writing keep a target busy; above it guarded batches are pipelined."""


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
        self._dead = DeadLetters(config.state_dir)
        self._transform = Transform(config.transform, status.filtered)
        self._troubles = Troubles()
        self._backoff = Backoff()
        self._paused = False
        self.throttle = Throttle(status, config.throttle)
        self.sampler: Sampler | None = None
        self.heartbeat: Heartbeat | None = None
        self._session: Session | None = None
        self._conn: Connection | None = None
        self._again = asyncio.Event()  # an attempt is worth while now
        self._members: list[bytes] = []  # of the set of keys that wait to be fetched
        self._found_at = 0  # newest position found in the target's checkpoint
        self._asked_always = False
        self._held_key = held_key(config.task, config.shard) if config.two_way else b""
        self._deadlines = DeadlineRules(config.expiry_max_keys, self._held_key) if config.two_way else None
        group = config.source.group
        shard = group is not None and group.kind == "shard"
        self.slots = SlotKeeper(config, status, self._transform, wake.set) if shard else None
        self._ttl_memory = TtlMemory(seen=state.ttl_seen, note=self._note_ttl)
        settles = config.two_way and config.conflicts == "settle"
        owned = None if self.slots is None else self.slots.owns
        self._converge = Converge(config, status, owned) if settles else None
        self._kept = Kept(config, status) if config.two_way and not settles else None
        if self._converge is not None and self._deadlines is not None:
            self._converge.expiry, self._converge.fields = self._deadlines.keys, self._deadlines.fields
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

    def _note_ttl(self) -> None:
        """Keys with a TTL were met for the first time: a late link of this directory looks at keys from now on."""
        self._state.ttl_seen = True
        try:
            self._state.save(self._config.state_dir)
        except StateError as error:
            log.warning("%s", error)

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
        beside = self._converge or self._kept
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
            await self._first_look(conn)
            new = not status.epoch and (config.epoch_unused or not config.epoch)
            fenced = await fence_target(
                conn, config.task, config.shard, await self._epoch(conn), unused=self._word if new else ""
            )
            await leave_route(config, conn)
            status.target_connected = True
            status.epoch = fenced.checkpoint.epoch
            self._troubles.met(fenced.info.run_id)
            checkpoint = self._own(fenced.checkpoint)
            if checkpoint.position is not None:
                position = checkpoint.position
                self._found_at = furthest(fenced) if isinstance(fenced, ClusterFence) else position.offset
            return await self._work(conn, fenced, checkpoint)
        finally:
            conn.close()

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as far as it is this task's: another uid's position is not ours to go on from."""
        if checkpoint.uid == self._state.uid:
            return checkpoint
        return replace(checkpoint, position=None, snapshot=False, progress=0)

    async def _epoch(self, conn: Connection) -> int:
        """This process's epoch: the coordinator's, or one more than any seen by the state directory or the target."""
        if self._config.epoch:
            return self._config.epoch
        if not self._status.epoch:
            stored = await read_checkpoint(conn, self._key)
            self._state.epoch = max(self._state.epoch, stored.epoch) + 1
            self._state.save(self._config.state_dir)
        return self._state.epoch

    async def _first_look(self, conn: Connection) -> None:
        """Before anything is written: is this the right target?"""
        config = self._config
        target = server_info(await conn.call(b"INFO"))
        refuse_cluster(config, target)
        source = None if self.checked else await source_info(config)
        if source is not None:
            self._watch.learn(source)
            refuse_same(config, source, target)
            await refuse_duplicate(conn, self._key, {source.replid})
        if not self.checked:
            refuse_evictions(config, source, target)
            if not self._transform.identity and (count := await source_databases(config)) is not None:
                self._transform.placing.source_has(count)  # FLUSHALL of a filtered link names them
            if target.cluster:
                await refuse_databases(config, self._transform.placing)
            await refuse_doubled(config, conn)
        # each time: a target that lost its checkpoint and holds data is not the one that it was
        mine = self._own(await read_checkpoint(conn, self._key))
        if self.slots is not None:
            await self.slots.first(conn, self._state.uid)
        else:
            await refuse_strangers(config, conn, mine)
        self.checked = True

    def _guarded(self, fenced: Fence) -> bool:
        """Which of the two writer modes this session uses."""
        mode = self._config.writer
        if not fenced.can_kill and mode == "gated":
            raise AuthError(
                f"target {self._config.target.label}: the user may not CLIENT LIST and CLIENT KILL, which gated "
                "writing needs to be safe: grant +client|list +client|kill +client|setname, or use the guarded writer"
            )
        if mode != "auto":
            return mode == "guarded"
        old = fenced.info.flavor == "redis" and fenced.info.numbers < (6, 2, 0)
        return old or not fenced.can_kill or fenced.rtt > _NEAR_S

    async def _work(self, conn: Connection, fenced: Fence, checkpoint: Checkpoint) -> bool:
        """Replay on a fenced connection, as the capture's plan says."""
        config, status, capture = self._config, self._status, self._capture
        fork = Fork.load(config.state_dir)
        if fork is not None and isinstance(conn, ClusterConnection) and isinstance(fenced, ClusterFence):
            where = fork.position, fork.db
            fenced = await rewind(conn, fenced, config.task, config.shard, where, fork.places, self._at_target)
            checkpoint = self._own(fenced.checkpoint)
            self._found_at = furthest(fenced)
            Fork.forget(config.state_dir)
            fork = None
        if self.rollback is not None:
            await self.rollback.judge_target(conn, checkpoint.position, self._known)
            self._known = None if fork is not None else checkpoint.position
            if fork is not None:
                fork = await self.rollback.judge_fork(conn, fork, checkpoint.position)
        if fork is not None:
            checkpoint = self._gone_back(fork, checkpoint)
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
        session = self._session = await self._new_session(conn, fenced, start, generation)
        target = kind(fenced.info)
        deadlines = self._deadlines
        fields = None if deadlines is None else deadlines.fields_between(self._watch.kind, target)
        offset, db = start.offset, checkpoint.db if plan == "stream" else 0
        had: Container[Place] | None = None
        if plan == "snapshot":
            status.state = "snapshot"
            self._known = None
            if deadlines is not None:
                session.deadlines, session.fields = deadlines.keys.deadlines, fields
                deadlines.snapshot_begins()
            if self._converge is not None:
                self._converge.snapshot_seen = ""
            if capture.generation != generation or capture.spool.position != start:
                raise Superseded("the snapshot broke off, or another began, before it could be applied")
            run = self._snapshot_run(session, checkpoint, target, barren)
            if self.reunion is not None and not run.first and not barren:
                run.leaves = await self._begin_reunion(self.reunion, start)
                if capture.generation != generation:
                    raise Superseded("the source began a new snapshot")
            elif self._converge is not None and self.reunion is None and not run.first:
                self._converge.not_compared()
            await run.run()
            run.leaves = None  # millions of keys, maybe
            if capture.generation != generation:  # it was not applied as a whole, and nothing streams yet
                raise Superseded("the source began a new snapshot")
            if self.slots is not None and config.two_way:
                await self.slots.pin()
            had = run.had
            if deadlines is not None:
                deadlines.snapshot_ended(whole=not run.resumed and not barren)
        elif joins:
            await session.submit(Batch(offset, db))
            await session.drain()
        status.state, status.detail = "streaming", ""
        status.applied_offset = offset
        self._watch.note_boundary(offset, db)
        await self._mind_refetch(session, fork, target)
        await self._mind_requests(session, offset, db)
        if deadlines is not None:
            await deadlines.learn(config.source, self._watch.clock_offset_ms, fields)
        expiry = None if deadlines is None else deadlines.keys
        rules = make_rules(config, self._watch.kind, target, self._transform, expiry, fields)
        if self._converge is not None:
            own = checkpoint.seen if checkpoint.origin == config.source_dc else ""
            if plan == "snapshot":
                own = self._converge.snapshot_seen
            if barren or (self.reunion is not None and self.reunion.due):
                had = frozenset()  # nothing was set back: what differs is found by comparing, here and there
            rules.watch = await self._converge.open(
                *(capture, rules, start, db, own, plan == "snapshot", self._wake, checkpoint.past, had),
                reached=self._found_at if isinstance(fenced, ClusterFence) and plan == "stream" else 0,
            )
        await session.stream(rules, offset, db, lambda: self.stop_by is not None)
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

    async def _new_session(self, conn: Connection, fenced: Fence, start: Position, generation: int) -> Session:
        config = self._config
        cluster = ClusterParts.of(config, conn, fenced, start, self._at_target)
        guarded = cluster is not None or self._guarded(fenced)
        self._status.writer = "guarded" if guarded else "gated"
        if cluster is not None:
            self._members = cluster.fence.records.fetches()
        else:
            if guarded:
                await conn.call(b"SCRIPT", b"LOAD", guard(config.two_way)[0])
            self._members = await conn.call(b"SMEMBERS", refetch_key(config.task, config.shard))
        count = await databases(conn)
        if self._held_key and cluster is None and not self._ttl_memory.remembers:
            self._ttl_memory.held = await read_held(conn, self._held_key)
            self._ttl_memory.remembers = True
        elif cluster is not None and self._deadlines is not None:
            self._deadlines.keys.held = b""
        # one way only: two ways, the other link looks at every command here for what it does to its key
        join = cluster is None and not config.two_way and await may_join(conn, self._key)
        form = Form(join=join, compact=config.compact)
        homes = "" if self._converge is None else self._converge.homes.fingerprint
        tagger = Tagger(self._key, self._state.uid, config.source_dc, fenced.checkpoint, homes)
        tagger.slots = None if self.slots is None else self.slots.said
        session = Session(
            config,
            self._status,
            self._capture,
            conn,
            fenced,
            tagger,
            self._wake,
            self._troubles,
            self._watch,
            self._dead,
            guarded,
            start,
            generation,
            form=form,
            cluster=cluster,
        )
        if isinstance(session.writer, ClusterWriter):
            await open_writer(session.writer)
        session.paused = self._paused
        session.databases = count
        session.ttl_memory = self._ttl_memory
        session.throttle = self.throttle
        session.sampler, session.heartbeat = self.sampler, self.heartbeat
        session.converge = self._converge
        session.kept = None if self._kept is None else self._kept.echoer
        session.slots = self.slots
        if self._converge is not None and config.direct:
            wait_s, waits = config.causal_wait_s, self._status.waits_for_others
            session.order = Order(config.target, config.direct, wait_s, self._wake.set, waits)
        return session

    async def _begin_reunion(self, reunion: Reunion, position: Position) -> Leaves | None:
        """On a connection of its own: this one's replies belong to the writer."""
        conn = await connect(self._config.target)
        try:
            return await reunion.begin(conn, position=position)
        finally:
            conn.close()

    async def _brings_nothing(self, conn: Connection, checkpoint: Checkpoint) -> bool:
        """Two ways, before a snapshot is applied: is it one of a source that was rolled back?"""
        first = checkpoint.first if checkpoint.snapshot else checkpoint.position is None
        return self.rollback is not None and not first and await self.rollback.judge_snapshot(conn, checkpoint)

    def _snapshot_run(
        self, session: Session, checkpoint: Checkpoint, target: ServerKind, barren: bool = False
    ) -> SnapshotRun:
        """The application of the spooled snapshot, from where an earlier one got to."""
        resumes = checkpoint.snapshot and checkpoint.position == self._capture.spool.position
        contact = Contact(
            first=checkpoint.first if checkpoint.snapshot else checkpoint.position is None,
            again=checkpoint.snapshot and (checkpoint.again or not resumes),
            resumes=resumes,
            barren=barren,
        )
        return SnapshotRun(session, checkpoint.progress if resumes else 0, contact, target, self._transform)

    # --- keys fetched again ---

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
        name = refetch_key(self._config.task, self._config.shard)
        keys = {from_member(member) for member in self._members}
        at_target = same_place if self._transform.identity else self._at_target
        refetch = session.refetch = Refetch(name, keys, Payloads(target_of(target)), at_target)
        if fork is None:
            return
        if fork.position.offset < session.committed and fork.position.replid == session.last_replid:
            commands = refetch.add(fork.places)
            unit = unit_of(commands, fork.position.offset, fork.db, self._capture.status.received_ms)
            units = [unit] if commands else []
            await session.submit(Batch(fork.position.offset, fork.db, units, unit.count, unit.size))
            await session.drain()
            self._found_at = fork.position.offset
        Fork.forget(self._config.state_dir)

    async def _mind_requests(self, session: Session, offset: int, db: int) -> None:
        """Keys that a person asked for, before anything is replayed: also those whose command stopped the link."""
        places = session.requests.take()
        commands = [] if session.refetch is None else session.refetch.add(places)
        if commands:
            unit = unit_of(commands, offset, db, self._capture.status.received_ms)
            await session.submit(Batch(offset, db, [unit], unit.count, unit.size))
            await session.drain()

    def _at_target(self, place: Place) -> Place | None:
        placed = self._transform.key(*place)
        return None if isinstance(placed, Dropped) else placed
