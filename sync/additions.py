"""What a link adds to its stream: commands of its own, in batches and under the checkpoint like the source's.

They put right deadlines that were held off, pass keys over until they are fetched and restore these then, hand slots
over, remember what is held off. All but the last stand between two units of the stream, where replay is at the moment.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sync.batch import Batch, Batcher
from sync.fetch import fetch
from sync.held import held_key, record
from sync.refetch import Fetched, Refetch, unit_of
from sync.session import Session
from sync.ttl import TtlGuard
from sync.unit import Unit, UnitReader

_NEAR_BYTES: Final = 4 << 20
_FETCH_AT_ONCE: Final = 1000


class Additions:
    """To one session's stream, which ``units`` reads and ``batcher`` takes up. ``guard``: of deadlines, where there is
    one.
    """

    def __init__(self, session: Session, units: UnitReader, batcher: Batcher, guard: TtlGuard | None) -> None:
        self.fetching: asyncio.Task[list[Fetched]] | None = None
        self._session = session
        self._units = units
        self._batcher = batcher
        self._guard = guard
        self._fetch_not_before = 0.0
        self._settle_not_before = 0.0

    def close(self) -> None:
        """The session ends: what is being fetched is given up."""
        if self.fetching is not None:
            self.fetching.cancel()

    def add(self, commands: list[tuple[int, list[bytes]]], received_ms: int = 0) -> None:
        """Commands of the link itself, as if they stood in the stream where it is read."""
        self._batcher.add(self._unit(commands, received_ms))

    def _unit(self, commands: list[tuple[int, list[bytes]]], received_ms: int = 0) -> Unit:
        session, units = self._session, self._units
        unit = unit_of(commands, units.position, units.db, received_ms or session.capture.status.received_ms)
        found = None if session.converge is None else session.converge.conflicts
        if found is not None:  # a batch that begins with them says for all of it what was seen
            unit.seen, unit.needs = found.seen, found.needs
        return unit

    def remember_held(self, batch: Batch) -> None:
        """Two ways: deadlines held off since the last batch are in this one or later, and remembered with it."""
        session = self._session
        memory = session.ttl_memory
        if memory is None or not memory.fresh or not batch.units:
            return
        commands = record(held_key(session.config.task, session.config.shard), memory.fresh)
        memory.fresh = {}
        unit = unit_of(commands, batch.units[-1].end, batch.units[-1].db, batch.last_received_ms)
        batch.units.append(unit)  # the last one: what was seen before the first is said of the batch
        batch.count += unit.count
        batch.size += unit.size

    async def when_applied(self) -> bool:
        """All is applied: add what waited for that. False when there is nothing."""
        session, guard = self._session, self._guard
        if guard is not None and self._put_right(guard):
            return True
        if session.refetch is not None and self._asked_for(session.refetch):
            return True
        if guard is not None and await self._settle(guard):
            return True
        commands = [] if session.slots is None or session.refetch is None else session.slots.due(session.refetch, self)
        if commands:
            self.add(commands)
        return bool(commands)

    def _put_right(self, guard: TtlGuard) -> bool:
        """The deadlines that were held off get their true values."""
        if not guard.holding:
            return False
        commands = guard.corrections()
        if commands:
            unit = self._unit(commands)
            unit.noscript = True
            self._batcher.add(unit)
        return bool(commands)

    async def _settle(self, guard: TtlGuard) -> bool:
        """Keys that may have expired before they were built on are fetched."""
        now = time.monotonic()
        if not guard.memory.suspects or now < self._settle_not_before:
            return False
        self._settle_not_before = now + 2.0
        commands = await guard.settle()
        if commands:
            self.add(commands)
        return bool(commands)

    def _asked_for(self, refetch: Refetch) -> bool:
        """Keys that a person asked for are passed over from here on, until they are fetched."""
        commands = refetch.add(self._session.requests.take())
        if commands:
            self.add(commands)
        return bool(commands)

    def refetch(self, refetch: Refetch) -> None:
        """Once replay is close to the source, read the keys that wait; restore them when the stream gets there."""
        session, units, guard = self._session, self._units, self._guard
        status, capture, wake = session.status, session.capture, session.wake
        while commands := refetch.due(units.position):
            if guard is not None and guard.active:
                commands = [(at, guard.hold(at, argv)) for at, argv in commands]
            self.add(commands)
        task = self.fetching
        if task is not None:
            if not task.done():
                return
            self.fetching = None
            if (error := task.exception()) is not None:
                status.detail = f"keys wait to be fetched from the source: {error}"
                self._fetch_not_before = time.monotonic() + 1.0
                return
            refetch.fetched.update({fetched.place: fetched for fetched in task.result()})
            status.refetched_keys += len(task.result())
            if not task.result():  # all of slots that are on their way: read on meanwhile
                self._fetch_not_before = time.monotonic() + 1.0
            wake.set()
        near = capture.status.offset - units.position < _NEAR_BYTES and units.position > session.writer.skips_until
        if refetch.laden or not near or not capture.status.connected or time.monotonic() < self._fetch_not_before:
            return
        wanted = refetch.wanted(_FETCH_AT_ONCE)
        replids = capture.journal.replids
        if wanted and replids:
            self.fetching = asyncio.create_task(fetch(session.config.source, wanted, replids[-1][0]))
            self.fetching.add_done_callback(lambda _: wake.set())
