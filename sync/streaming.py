"""The stream in a session: bytes from the journal become units, batches and submissions until the connection ends.

The order of what a turn of the loop looks at is the rule: what is batched goes before anything is read, and what the
link adds of its own (`sync.additions`) waits until all that was read is applied or stands exactly where replay is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from canal.errors import CanalError
from canal.journal.chunk import Chunk
from canal.journal.reader import StreamReader
from sync import crossslot
from sync.additions import Additions
from sync.batch import Batch, Batcher, without
from sync.batchsize import BatchSize
from sync.lookahead import Lookahead
from sync.rules import Rules
from sync.session import Session
from sync.slotgate import SlotGate
from sync.target.cluster.writer import ClusterWriter
from sync.target.standalone import Writer
from sync.ttl import TtlGuard
from sync.unit import UnitReader

_WIDE_BYTES: Final = 4 << 20
_BARE_AFTER_BYTES: Final = 1 << 20
_BARE_AFTER_SECONDS: Final = 1.0


class Streaming:
    """Replays one session's stream from ``offset`` on, where ``db`` is selected."""

    def __init__(self, session: Session, rules: Rules, offset: int, db: int) -> None:
        self._session = session
        self._rules = rules
        self._offset = offset
        self._onto_cluster = isinstance(session.writer, ClusterWriter)
        self._single = session.troubles.single_until > offset
        rules.databases = session.databases
        units = self._units = UnitReader(offset, db, rules)
        expired, found = rules.expired, None if session.converge is None else session.converge.conflicts
        if found is not None and expired is not None:
            found.expired = lambda place, end: expired(place, units.received_ms, end)
        config, wake = session.config, session.wake
        batcher = self._batcher = Batcher(config.batch_commands, config.batch_bytes)
        self._size = BatchSize(config, rules, batcher, session.writer, session.pacing, session.throttle, wake)
        self._size.one_by_one(self._single)
        self._ahead: Lookahead | None = None
        self._gate: SlotGate | None = None
        self._gated: Chunk | None = None  # read, and not yet let through
        self._dropped_since = 0.0
        self._guard = self._governed()
        self._additions = Additions(session, units, batcher, self._guard)

    def _governed(self) -> TtlGuard | None:
        """Put the rules of a session before those of the link, the innermost first."""
        session, rules = self._session, self._rules
        guard: TtlGuard | None = None
        if session.refetch is not None:
            if self._onto_cluster:
                crossslot.govern(rules, session.refetch, self._cross_slot)
            session.refetch.govern(rules)
            config = session.config
            if not (config.two_way and self._onto_cluster):  # what is held off stands in no hash beside its key there
                guard = TtlGuard(
                    config.source, config.target, session.refetch, session.ttl_memory, two_way=config.two_way
                )
                guard.govern(rules)
                self._ahead = Lookahead(guard, self._units, session.wake.set)
        if session.heartbeat is not None:
            session.heartbeat.govern(rules)
        if session.slots is not None:
            session.slots.govern(rules)
            self._gate = session.gate = session.slots.gate(session.wake.set)
        session.commits.guard = guard
        return guard

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Returns when all is applied after ``stopping()``.

        Raises what ended the connection, `Superseded`, or `ReplayError` by policy.
        """
        session, gate = self._session, self._gate
        beside = None if gate is None else asyncio.create_task(gate.run(), name="slot gate")
        reader = session.capture.reader(self._offset, session.wake.set)
        try:
            await self._pump(reader, stopping)
        finally:
            reader.close()
            if beside is not None:
                beside.cancel()
            if self._ahead is not None:
                self._ahead.close()
            if session.order is not None:
                await session.order.close()
            if self._guard is not None:
                self._guard.close()
            self._additions.close()

    async def _pump(self, reader: StreamReader, stopping: Callable[[], bool]) -> None:
        session, units, batcher = self._session, self._units, self._batcher
        capture, writer, wake, commits = session.capture, session.writer, session.wake, session.commits
        throttle, troubles, order, converge = session.throttle, session.troubles, session.order, session.converge
        size, additions, ahead = self._size, self._additions, self._ahead
        halt: CanalError | None = None
        while True:
            session.check()
            if converge is not None:
                converge.tick(capture, session.watch)
                if isinstance(writer, Writer):
                    session.tagger.past = converge.past.said
            if not self._single:
                size.bound()
            # a unit that goes alone really does, so that a connection that breaks names it
            while writer.room and commits.fatal is None and (writer.idle or commits.committed >= troubles.single_until):
                if throttle.on and (batcher.empty or throttle.holds(wake.set)):
                    break
                if halt is None and size.fills() and not self._held_up:
                    break
                if order is not None and order.holds(batcher.next_needs):
                    break
                # what was consumed after a unit that stops the link must not be passed over
                batch = batcher.take(units.position, units.db) if halt is None else batcher.take()
                if batch is None:
                    break
                if throttle.on:
                    throttle.spend(batch.count, batch.size)
                if order is not None and order.broken:
                    self._goes_ahead(batch)
                additions.remember_held(batch)
                writer.submit(batch)
            if self._single and units.position >= troubles.single_until:
                self._single = False
                size.one_by_one(False)
            if session.refetch:
                additions.refetch(session.refetch)
            # while keys are being fetched nothing is read: what comes after their offset must not be passed over
            reads = halt is None and additions.fetching is None and not session.paused
            few = 4 if batcher.max_bytes <= _WIDE_BYTES else 1
            if reads and batcher.behind < few and not (ahead is not None and ahead.full):
                chunk = self._next(reader)
                if chunk is not None:
                    if self._onto_cluster:
                        size.look_how_far(capture.journal.end - chunk.offset)
                    if ahead is None or not ahead.takes(chunk):
                        halt = halt or self._feed(chunk)
                    continue
            idle = batcher.empty and writer.idle
            # a stretch of a late link: its keys are looked at while the one before it is on its way
            if ahead is not None and halt is None and batcher.behind < 4 and (chunks := ahead.ready(idle)):
                if ahead.before:
                    additions.add(ahead.before, chunks[0].received_ms)
                for chunk in chunks:
                    halt = halt or self._feed(chunk)
                continue
            if idle and halt is not None:
                raise halt
            if idle and (ahead is None or not ahead.waiting):
                if await additions.when_applied():
                    continue
                if self._gated is None:
                    self._caught_up()
                if self._gated is None and stopping() and (session.paused or reader.offset >= capture.journal.end):
                    self._bare(force=units.position > commits.committed)
                    if writer.idle:
                        return
                self._bare()
            wake.clear()
            await wake.wait()

    @property
    def _held_up(self) -> bool:
        """May it be that nothing more is read, so that a batch which waits for more would wait for nothing?"""
        ahead = self._ahead
        waits = self._session.paused or self._additions.fetching is not None or self._gate is not None
        return waits or (ahead is not None and ahead.waiting)

    def _next(self, reader: StreamReader) -> Chunk | None:
        """What comes next in the stream, as far as it may be replayed."""
        chunk = self._gated or reader.read_nowait()
        self._gated = None
        if chunk is not None and self._gate is not None and not self._gate.passes(chunk.offset + len(chunk.data)):
            self._gated = chunk
            return None
        return chunk

    def _goes_ahead(self, batch: Batch) -> None:
        """A batch that the target gets before what it builds on."""
        session = self._session
        assert session.order is not None and session.converge is not None
        for name, offset in session.order.ahead_of(batch.needs).items():
            session.status.causal_breaks += 1
            session.converge.broke_order(batch.pieces(), name, offset)

    def _feed(self, chunk: Chunk) -> CanalError | None:
        """Bytes of the stream → units → batches; what ends the link by policy once all before it is applied."""
        session, units = self._session, self._units
        halt: CanalError | None = None
        if session.sampler is not None and session.sampler.wants:
            session.sampler.take(units.peek(chunk.data))
        for unit in units.feed(chunk.offset, chunk.data, chunk.received_ms):
            numbers = session.troubles.skip.get(unit.end)
            halt = halt or session.refusals.units(unit.dead, unit.end)
            if halt is not None:
                break
            self._batcher.add(unit if numbers is None else without(unit, numbers))
        self._counters()
        return halt

    def _cross_slot(self) -> None:
        self._session.status.cross_slot += 1

    def _caught_up(self) -> None:
        """Nothing is on its way: what was consumed needs no writing."""
        status, refetch = self._session.status, self._session.refetch
        status.refetch_keys = 0 if refetch is None else len(refetch.keys)
        status.applied_offset = max(status.applied_offset, self._units.position)
        status.applied_received_ms = self._session.capture.status.received_ms

    def _bare(self, force: bool = False) -> None:
        """A tag of its own, where the checkpoint must move though nothing was written; else never, so that two idle
        links fall silent.
        """
        session, units = self._session, self._units
        counters, commits = units.counters, session.commits
        now = time.monotonic()
        if counters.dropped_bytes and not self._dropped_since:
            self._dropped_since = now
        behind = units.position - commits.committed
        due = (
            (force and behind > 0)
            or counters.dropped_bytes >= _BARE_AFTER_BYTES
            or (counters.dropped_bytes > 0 and now - self._dropped_since >= _BARE_AFTER_SECONDS)
            or commits.replid_at(units.position) != commits.last_replid
            or behind >= session.watch.backlog_bytes // 4
        )
        if not due or not session.writer.room:
            return
        counters.dropped_bytes = 0
        self._dropped_since = 0.0
        batch = Batch(units.position, units.db)
        if units.rules.watch is not None:
            batch.seen = units.rules.watch.seen
        batch.received_ms = batch.last_received_ms = session.capture.status.received_ms
        session.writer.submit(batch)

    def _counters(self) -> None:
        """Move what the reader counted into the status."""
        counters, status, guard = self._units.counters, self._session.status, self._guard
        status.commands_received += counters.received
        status.loops_dropped += counters.loops_dropped
        for reason, count in counters.filtered.items():
            status.filtered(reason, count)
        counters.received = counters.loops_dropped = 0
        counters.filtered.clear()
        if guard is not None and guard.memory.held_off:
            status.ttl_holds += guard.memory.held_off
            guard.memory.held_off = 0
        refetch = self._session.refetch
        status.refetch_keys = 0 if refetch is None else len(refetch.keys)
