"""One fenced connection's life: batches from units to commits, until the connection ends or there is nothing more.

A session never repairs anything: whatever goes wrong ends it, and the link starts the next one from the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from canal.capture import Capture
from canal.errors import CanalError, Unready
from canal.journal.chunk import Chunk
from canal.journal.reader import StreamReader
from canal.position import Position
from sync import crossslot
from sync.batch import Batch, Batcher, command_at, without
from sync.conditional import is_conditional
from sync.config import LinkConfig
from sync.converge import Converge
from sync.deadletter import DeadLetters
from sync.echo import Echoer
from sync.effects import without_effect
from sync.expiry import Deadlines
from sync.fetch import fetch
from sync.fieldexpiry import FieldRule
from sync.heartbeat import Heartbeat
from sync.held import held_key, record
from sync.letters import Requests
from sync.lookahead import Lookahead
from sync.order import Order
from sync.pacing import Pacing
from sync.refetch import Fetched, Refetch, unit_of
from sync.refusals import Refusals
from sync.render import RAW, Failures, Form
from sync.rules import Rules
from sync.slotgate import SlotGate
from sync.slots import SlotKeeper
from sync.status import LinkStatus
from sync.tag import Tagger
from sync.target.cluster.parts import ClusterParts
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import Connection
from sync.target.fence import Fence
from sync.target.standalone import Writer
from sync.throttle import Throttle
from sync.troubles import Troubles
from sync.ttl import TtlGuard, TtlMemory
from sync.unit import Unit, UnitReader
from sync.verify.sampler import Sampler
from sync.watch import SourceWatch

_NEAR_BYTES = 4 << 20
_FETCH_AT_ONCE = 1000
_DENSE_BYTES = 64 << 10
_DENSE_S = 0.02
"""Who has so much to read is behind the source; more must follow soon."""
_WIDE_BYTES = 4 << 20
REPLY_TIMEOUT_S = 60.0
"""A connection on which nothing moves for so long, though work is on its way, is given up."""
_LOOK_S = 0.05
"""How often it is looked whether anything moves: that asks the kernel."""
_BARE_AFTER_BYTES = 1 << 20
_BARE_AFTER_SECONDS = 1.0
_FAILING_ON_PURPOSE = (b"EVAL", b"EVALSHA", b"FCALL")
"""Scripts that servers before 5.0 replicate as they are: one that failed at the source fails again here."""


class Superseded(CanalError):
    """Capture began anew while this session was at work: the next session starts from what there is then."""


class Session:
    """Writes to one connection. ``wake`` is set by capture, the writer and the ticker."""

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        conn: Connection,
        fence: Fence,
        tagger: Tagger,
        wake: asyncio.Event,
        troubles: Troubles,
        watch: SourceWatch,
        dead: DeadLetters,
        guarded: bool,
        start: Position,
        generation: int,
        form: Form = RAW,
        cluster: ClusterParts | None = None,
    ) -> None:
        self.config = config
        self.status = status
        self.capture = capture
        self.wake = wake
        self.troubles = troubles
        self.watch = watch
        self.generation = generation  # of the capture, when it was decided to go on at ``start``
        self.batches = 0  # committed by this session
        self.committed = fence.checkpoint.position.offset if fence.checkpoint.position else 0
        self.last_replid = start.replid
        self.refusals = Refusals(config, status, dead, troubles, lambda: self.last_replid)
        self.fatal: CanalError | None = None
        self.databases = 16  # of the target
        self.paused = False  # nothing new is taken from the journal; what was sent is finished
        at = fence.checkpoint.position
        self.tagger = tagger
        self.writer: Writer | ClusterWriter = (
            cluster.writer(tagger, self.replid_at, self._commit, wake.set, self._without_effect)
            if cluster is not None
            else Writer(
                conn,
                tagger,
                self.replid_at,
                guarded=guarded,
                epoch=fence.checkpoint.epoch,
                stands=(str(at) if at else "", fence.checkpoint.progress),
                pipelined_multi=fence.info.flavor == "valkey" or fence.info.numbers >= (6, 2, 0),
                on_commit=self._commit,
                wake=wake.set,
                rtt_s=fence.rtt,
                form=form,
                judge=self._without_effect if config.two_way else None,
            )
        )
        self.pacing = None if guarded else Pacing(config.batch_commands, config.batch_bytes, fence.rtt)
        self._looked = 0.0
        self._dropped_since = 0.0
        self._dense = 0  # chunks of the stream with much to read after them, one after the other
        self._watching = False
        self.throttle = Throttle(status)
        self.requests = Requests(config.state_dir)
        self.refetch: Refetch | None = None
        self.guard: TtlGuard | None = None
        self.sampler: Sampler | None = None
        self.heartbeat: Heartbeat | None = None
        self.ttl_memory: TtlMemory | None = None  # what guards of earlier sessions left to do
        self._ahead: Lookahead | None = None
        self.fields: FieldRule | None = None  # and those of hash fields
        self.deadlines: Deadlines | None = None  # two ways: those of the snapshot are learned
        self.converge: Converge | None = None  # two ways
        self.order: Order | None = None  # in a mesh
        self._units: UnitReader | None = None
        self._fetching: asyncio.Task[list[Fetched]] | None = None
        self._fetch_not_before = 0.0
        self._settle_not_before = 0.0
        self.slots: SlotKeeper | None = None  # of a shard of a source cluster
        self.kept: Echoer | None = None  # two ways without conflicts: expired keys that live on at the target
        self._gate: SlotGate | None = None
        self._gated: Chunk | None = None  # read, and not yet let through

    def replid_at(self, offset: int) -> str:
        """The replication id under which the source's stream stood at ``offset``."""
        return self.capture.journal.replid_at(offset) or self.last_replid

    # --- the stream ---

    async def stream(self, rules: Rules, offset: int, db: int, stopping: Callable[[], bool]) -> None:
        """Replay from ``offset`` on. Returns when all is applied after ``stopping()``.

        Raises what ended the connection, `Superseded`, or `ReplayError` by policy.
        """
        capture, wake = self.capture, self.wake
        single = self.troubles.single_until > offset
        rules.databases = self.databases
        units = self._units = UnitReader(offset, db, rules)
        expired, found = rules.expired, None if self.converge is None else self.converge.conflicts
        if found is not None and expired is not None:
            found.expired = lambda place, end: expired(place, units.received_ms, end)
        batcher = Batcher(self.config.batch_commands, self.config.batch_bytes)
        self._set_single(rules, batcher, single)
        onto_cluster = isinstance(self.writer, ClusterWriter)
        if self.refetch is not None:
            if onto_cluster:
                crossslot.govern(rules, self.refetch, self._cross_slot)
            self.refetch.govern(rules)
            config = self.config
            if not (config.two_way and onto_cluster):  # what is held off stands in no hash beside its key there
                self.guard = TtlGuard(
                    config.source, config.target, self.refetch, self.ttl_memory, two_way=config.two_way
                )
                self.guard.govern(rules)
                self._ahead = Lookahead(self.guard, units, wake.set)
        if self.heartbeat is not None:
            self.heartbeat.govern(rules)
        beside: list[asyncio.Task[None]] = []
        if self.slots is not None:
            self.slots.govern(rules)
            self._gate = self.slots.gate(wake.set)
            beside += [asyncio.create_task(self._gate.run(), name="slot gate")] if self._gate is not None else []
        reader = capture.reader(offset, wake.set)
        try:
            await self._pump(reader, units, batcher, rules, single, stopping)
        finally:
            reader.close()
            for task in beside:
                task.cancel()
            if self._ahead is not None:
                self._ahead.close()
            if self.order is not None:
                await self.order.close()
            if self.guard is not None:
                self.guard.close()
            if self._fetching is not None:
                self._fetching.cancel()

    async def _pump(
        self,
        reader: StreamReader,
        units: UnitReader,
        batcher: Batcher,
        rules: Rules,
        single: bool,
        stopping: Callable[[], bool],
    ) -> None:
        capture, writer, wake = self.capture, self.writer, self.wake
        onto_cluster = isinstance(writer, ClusterWriter)
        throttle = self.throttle
        halt: CanalError | None = None
        ahead = self._ahead
        while True:
            self._check()
            if self.converge is not None:
                self.converge.tick(capture, self.watch)
                if isinstance(writer, Writer):
                    self.tagger.past = self.converge.past
            if not single:
                self._bound(throttle, rules, batcher)
            # a unit that goes alone really does, so that a connection that breaks names it
            while writer.room and self.fatal is None and (writer.idle or self.committed >= self.troubles.single_until):
                if throttle.on and (batcher.empty or throttle.holds(wake.set)):
                    break
                if halt is None and self._fills(batcher):
                    break
                if self.order is not None and self.order.holds(batcher.next_needs):
                    break
                # what was consumed after a unit that stops the link must not be passed over
                batch = batcher.take(units.position, units.db) if halt is None else batcher.take()
                if batch is None:
                    break
                if throttle.on:
                    throttle.spend(batch.count, batch.size)
                if self.order is not None and self.order.broken:
                    self._goes_ahead(batch)
                self._remember_held(batch)
                writer.submit(batch)
            if single and units.position >= self.troubles.single_until:
                single = False
                self._set_single(rules, batcher, single)
            if self.refetch:
                self._refetch(self.refetch, units, batcher)
            # while keys are being fetched nothing is read: what comes after their offset must not be passed over
            reads = halt is None and self._fetching is None and not self.paused
            few = 4 if batcher.max_bytes <= _WIDE_BYTES else 1
            if reads and batcher.behind < few and not (ahead is not None and ahead.full):
                chunk = self._next(reader)
                if chunk is not None:
                    if onto_cluster:
                        self._look_how_far(capture.journal.end - chunk.offset)
                    if ahead is None or not ahead.takes(chunk):
                        halt = halt or self._feed(units, batcher, chunk)
                    continue
            idle = batcher.empty and writer.idle
            # a stretch of a late link: its keys are looked at while the one before it is on its way
            if ahead is not None and halt is None and batcher.behind < 4 and (chunks := ahead.ready(idle)):
                if ahead.before:
                    batcher.add(self._own_unit(ahead.before, units, chunks[0].received_ms))
                for chunk in chunks:
                    halt = halt or self._feed(units, batcher, chunk)
                continue
            if idle and halt is not None:
                raise halt
            if idle and (ahead is None or not ahead.waiting):
                if self.guard is not None and self._put_right(self.guard, units, batcher):
                    continue
                if self.refetch is not None and self._asked_for(self.refetch, units, batcher):
                    continue
                if self.guard is not None and await self._settle(self.guard, units, batcher):
                    continue
                if self.slots is not None and self.refetch is not None:
                    commands = self.slots.due(self.refetch, self)
                    if commands:
                        batcher.add(self._own_unit(commands, units))
                        continue
                if self._gated is None:
                    self._caught_up(units)
                if self._gated is None and stopping() and (self.paused or reader.offset >= capture.journal.end):
                    self._bare(units, force=units.position > self.committed)
                    if writer.idle:
                        return
                self._bare(units)
            wake.clear()
            await wake.wait()

    def _fills(self, batcher: Batcher) -> bool:
        """Does a batch for a cluster wait till it is large? Where the stream comes faster than it is read here."""
        writer, ahead = self.writer, self._ahead
        if not self._dense or batcher.behind or not isinstance(writer, ClusterWriter):
            return False
        waits = self.paused or self.throttle.on or self._fetching is not None or self._gate is not None
        return writer.bulk.wide and not waits and (ahead is None or not ahead.waiting)

    def _look_how_far(self, behind: int) -> None:
        """A chunk is read; so many bytes are left of what was received, itself included."""
        if behind < _DENSE_BYTES:
            self._dense = 0
            return
        self._dense += 1
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_later(_DENSE_S, self._look_again, self._dense, 1)

    def _look_again(self, seen: int, more: int) -> None:
        """Nothing has come after such a chunk, twice: once tells nothing where this process itself had to wait."""
        if self._dense and (more or self._dense != seen):
            left = 1 if self._dense != seen else more - 1
            asyncio.get_running_loop().call_later(_DENSE_S, self._look_again, self._dense, left)
            return
        self._dense, self._watching = 0, False
        self.wake.set()

    def _next(self, reader: StreamReader) -> Chunk | None:
        """What comes next in the stream, as far as it may be replayed."""
        chunk = self._gated or reader.read_nowait()
        self._gated = None
        if chunk is not None and self._gate is not None and not self._gate.passes(chunk.offset + len(chunk.data)):
            self._gated = chunk
            return None
        return chunk

    def _remember_held(self, batch: Batch) -> None:
        """Two ways: deadlines held off since the last batch are in this one or later, and remembered with it."""
        memory = self.ttl_memory
        if memory is None or not memory.fresh or not batch.units:
            return
        commands = record(held_key(self.config.task, self.config.shard), memory.fresh)
        memory.fresh = {}
        unit = unit_of(commands, batch.units[-1].end, batch.units[-1].db, batch.last_received_ms)
        batch.units.append(unit)  # the last one: what was seen before the first is said of the batch
        batch.count += unit.count
        batch.size += unit.size

    def _goes_ahead(self, batch: Batch) -> None:
        """A batch that the target gets before what it builds on."""
        assert self.order is not None and self.converge is not None
        for name, offset in self.order.ahead_of(batch.needs).items():
            self.status.causal_breaks += 1
            self.converge.broke_order(batch.pieces(), name, offset)

    def _feed(self, units: UnitReader, batcher: Batcher, chunk: Chunk) -> CanalError | None:
        """Bytes of the stream → units → batches; what ends the link by policy once all before it is applied."""
        halt: CanalError | None = None
        if self.sampler is not None and self.sampler.wants:
            self.sampler.take(units.peek(chunk.data))
        for unit in units.feed(chunk.offset, chunk.data, chunk.received_ms):
            numbers = self.troubles.skip.get(unit.end)
            halt = halt or self.refusals.units(unit.dead, unit.end)
            if halt is not None:
                break
            batcher.add(unit if numbers is None else without(unit, numbers))
        self._counters(units)
        return halt

    def _own_unit(self, commands: list[tuple[int, list[bytes]]], units: UnitReader, received_ms: int = 0) -> Unit:
        """Commands of the link itself, as if they stood in the stream where ``units`` is."""
        unit = unit_of(commands, units.position, units.db, received_ms or self.capture.status.received_ms)
        found = None if self.converge is None else self.converge.conflicts
        if found is not None:  # a batch that begins with them says for all of it what was seen
            unit.seen, unit.needs = found.seen, found.needs
        return unit

    def _put_right(self, guard: TtlGuard, units: UnitReader, batcher: Batcher) -> bool:
        """All is applied: the deadlines that were held off get their true values."""
        if not guard.holding:
            return False
        commands = guard.corrections()
        if commands:
            unit = self._own_unit(commands, units)
            unit.noscript = True
            batcher.add(unit)
        return bool(commands)

    async def _settle(self, guard: TtlGuard, units: UnitReader, batcher: Batcher) -> bool:
        """All is applied: keys that may have expired before they were built on are fetched."""
        now = time.monotonic()
        if not guard.memory.suspects or now < self._settle_not_before:
            return False
        self._settle_not_before = now + 2.0
        commands = await guard.settle()
        if commands:
            batcher.add(self._own_unit(commands, units))
        return bool(commands)

    def _asked_for(self, refetch: Refetch, units: UnitReader, batcher: Batcher) -> bool:
        """All is applied: keys that a person asked for are passed over from here on, until they are fetched."""
        commands = refetch.add(self.requests.take())
        if commands:
            batcher.add(self._own_unit(commands, units))
        return bool(commands)

    def _refetch(self, refetch: Refetch, units: UnitReader, batcher: Batcher) -> None:
        """Once replay is close to the source, read the keys that wait; restore them when the stream gets there."""
        while commands := refetch.due(units.position):
            if self.guard is not None and self.guard.active:
                commands = [(at, self.guard.hold(at, argv)) for at, argv in commands]
            batcher.add(self._own_unit(commands, units))
        task = self._fetching
        if task is not None:
            if not task.done():
                return
            self._fetching = None
            if (error := task.exception()) is not None:
                self.status.detail = f"keys wait to be fetched from the source: {error}"
                self._fetch_not_before = time.monotonic() + 1.0
                return
            refetch.fetched.update({fetched.place: fetched for fetched in task.result()})
            self.status.refetched_keys += len(task.result())
            if not task.result():  # all of slots that are on their way: read on meanwhile
                self._fetch_not_before = time.monotonic() + 1.0
            self.wake.set()
        near = self.capture.status.offset - units.position < _NEAR_BYTES and units.position > self.writer.skips_until
        if refetch.laden or not near or not self.capture.status.connected or time.monotonic() < self._fetch_not_before:
            return
        wanted = refetch.wanted(_FETCH_AT_ONCE)
        replids = self.capture.journal.replids
        if wanted and replids:
            self._fetching = asyncio.create_task(fetch(self.config.source, wanted, replids[-1][0]))
            self._fetching.add_done_callback(lambda _: self.wake.set())

    def _bound(self, throttle: Throttle, rules: Rules, batcher: Batcher) -> None:
        """Transactions as large as suits the line, and no larger than the throttle lets through in one go."""
        config, pacing = self.config, self.pacing
        bounds = (config.batch_commands, config.batch_bytes) if pacing is None else (pacing.commands, pacing.size)
        if isinstance(self.writer, ClusterWriter):
            bounds = self.writer.bounds(*bounds)
        if throttle.on:
            bounds = throttle.bounds(*bounds)
        batcher.max_commands, batcher.max_bytes = bounds
        rules.max_commands, rules.max_bytes = bounds

    def _cross_slot(self) -> None:
        self.status.cross_slot += 1

    def _set_single(self, rules: Rules, batcher: Batcher, single: bool) -> None:
        rules.max_commands = batcher.max_commands = 1 if single else self.config.batch_commands

    def _caught_up(self, units: UnitReader) -> None:
        """Nothing is on its way: what was consumed needs no writing."""
        status = self.status
        status.refetch_keys = 0 if self.refetch is None else len(self.refetch.keys)
        status.applied_offset = max(status.applied_offset, units.position)
        status.applied_received_ms = self.capture.status.received_ms

    def _bare(self, units: UnitReader, force: bool = False) -> None:
        """A tag of its own, where the checkpoint must move though nothing was written; else never, so that two idle
        links fall silent.
        """
        counters = units.counters
        now = time.monotonic()
        if counters.dropped_bytes and not self._dropped_since:
            self._dropped_since = now
        behind = units.position - self.committed
        due = (
            (force and behind > 0)
            or counters.dropped_bytes >= _BARE_AFTER_BYTES
            or (counters.dropped_bytes > 0 and now - self._dropped_since >= _BARE_AFTER_SECONDS)
            or self.replid_at(units.position) != self.last_replid
            or behind >= self.watch.backlog_bytes // 4
        )
        if not due or not self.writer.room:
            return
        counters.dropped_bytes = 0
        self._dropped_since = 0.0
        batch = Batch(units.position, units.db)
        if units.rules.watch is not None:
            batch.seen = units.rules.watch.seen
        batch.received_ms = batch.last_received_ms = self.capture.status.received_ms
        self.writer.submit(batch)

    def _counters(self, units: UnitReader) -> None:
        """Move what the reader counted into the status."""
        counters, status = units.counters, self.status
        status.commands_received += counters.received
        status.loops_dropped += counters.loops_dropped
        for reason, count in counters.filtered.items():
            status.filtered(reason, count)
        counters.received = counters.loops_dropped = 0
        counters.filtered.clear()
        if self.guard is not None and self.guard.memory.held_off:
            status.ttl_holds += self.guard.memory.held_off
            self.guard.memory.held_off = 0
        status.refetch_keys = 0 if self.refetch is None else len(self.refetch.keys)

    # --- commits and failures ---

    def _check(self) -> None:
        if self.fatal is not None and (self.writer.idle or self.writer.error is not None):
            raise self.fatal
        error = self.writer.error
        if error is None and self._gate is not None and self.writer.idle:
            error = self._gate.error
        if error is not None:
            raise error
        if self.capture.generation != self.generation:
            raise Superseded("the source began a new snapshot")
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if self.writer.stuck_for(now) > REPLY_TIMEOUT_S:
            raise Unready(
                f"target {self.config.target.label} has neither taken nor answered anything for {REPLY_TIMEOUT_S:g} s "
                "though a transaction is on its way: connecting anew"
            )

    async def drain(self) -> None:
        """Wait until everything submitted is committed."""
        while not self.writer.idle:
            self._check()
            self.wake.clear()
            await self.wake.wait()
        self._check()

    async def submit(self, batch: Batch) -> None:
        """Submit when there is room (for the snapshot, which has no other work meanwhile)."""
        if self.converge is not None and not batch.seen:
            batch.seen = self.converge.snapshot_seen
        self._check()
        throttle = self.throttle
        while (
            not self.writer.room
            or self.paused
            or self.fatal is not None
            or (self.troubles.snapshot_single and not self.writer.idle)
            or (throttle.on and throttle.holds(self.wake.set))
        ):
            self.wake.clear()
            await self.wake.wait()
            self._check()
        if throttle.on:
            throttle.spend(batch.count, batch.size)
        self.writer.submit(batch)

    def _commit(self, batch: Batch, failures: Failures) -> None:
        """A batch is at the target; its commands with errors are dead letters."""
        if self.capture.generation != self.generation:
            return  # of a stream that is over: its offsets mean nothing in the new one
        status = self.status
        now = time.time()
        self.batches += 1
        self.committed = batch.end
        self.last_replid = self.replid_at(batch.end)
        self.troubles.progressed()
        status.batches += 1
        if isinstance(self.writer, ClusterWriter):
            self.writer.count(status)
        status.commands_applied += batch.count - len(failures)
        status.commands_left_out += batch.void
        status.bytes_applied += batch.size
        status.last_applied = now
        if failures:
            self._failed(batch, failures)
        if batch.snapshot:
            return
        status.applied_offset = batch.end
        status.applied_received_ms = batch.last_received_ms
        if batch.count:
            status.observe_latency(max(0.0, now - batch.received_ms / 1000))
        monotonic = time.monotonic()
        latency_s = monotonic - batch.sent
        if self.pacing is not None:
            self.pacing.committed(batch.count, batch.size, not self.writer.idle, monotonic)
        if self.guard is not None:
            self.guard.latency_s = latency_s
            self.guard.committed(batch.end)
        if self.throttle.on:
            self.throttle.committed(latency_s)
        if self.converge is not None:
            self.converge.judged(Position(self.last_replid, batch.end), batch.db)
        self.watch.note_boundary(batch.end, batch.db)
        self.capture.journal.release(batch.end if self.converge is None else self.converge.keep_from(batch.end))
        self.capture.journal.mark(batch.end, batch.db)

    def _without_effect(self, batch: Batch, numbers: list[int]) -> None:
        """Two ways: these commands were answered by 0 or nil. Where they had to do something, their keys differ."""
        if batch.snapshot or self.capture.generation != self.generation:
            return
        for db, argv in without_effect(batch, numbers):
            if self.converge is not None:
                self.converge.unlike(db, argv)
            elif self.kept is not None and is_conditional(argv):
                self.kept.ask([(db, argv[3])])

    def _failed(self, batch: Batch, failures: Failures) -> None:
        for number, text in failures:
            found = command_at(batch, number)
            if found is None:
                continue
            db, argv, end = found
            if batch.snapshot and text.startswith(("BUSYKEY", "ERR Library")):
                self.status.snapshot.keys_kept += 1
                continue
            if argv[0].upper() in _FAILING_ON_PURPOSE and not batch.solo:
                self.status.filtered("script-error")
                continue
            if self.slots is not None and not self.slots.settled(argv, db):
                self.status.filtered("slot-moved")
                continue
            if self.converge is not None and not batch.snapshot and self.converge.refused(db, argv, text):
                self.status.conflicts_marked += 1
                continue
            error = self.refusals.give_up(end, db, argv, text)
            if self.config.on_error == "stop" and self.fatal is None:
                self.fatal = error  # nothing more is sent; what is on its way may hold failures too
