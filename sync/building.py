"""Commands of a snapshot → batches of bounded size, each with the progress that it brings. No I/O."""

from __future__ import annotations

import asyncio
import time

from canal.rdb.events import PlainRun
from canal.resp import encode
from sync.batch import Batch
from sync.restore import Step
from sync.unit import Piece, Unit


class Builder:
    """Collects what belongs to one snapshot, which was taken at the stream offset ``end``."""

    def __init__(
        self, end: int, progress: int, max_commands: int, max_bytes: int, *, first: bool = False, again: bool = False
    ) -> None:
        self.max_commands = max_commands
        self.max_bytes = max_bytes
        self.progress = progress  # RDB offset up to which all keys are in batches
        self._end = end
        self._first, self._again = first, again
        self._units: list[Unit] = []
        self._count = 0
        self._size = 0
        self._noscript = False

    def add(self, step: Step) -> Batch | None:
        """Add what belongs together; a batch when one became full or has to be cut."""
        raw, count = (step.raw, 1) if step.raw else (b"".join(map(encode, step.commands)), len(step.commands))
        unit = Unit(step.end or -step.at, step.db, [Piece(step.db, raw, count)], 0)
        unit.atomic, unit.noscript = True, step.noscript
        return self._add(unit, count, len(raw))

    def add_run(self, run: PlainRun) -> Batch | None:
        """Add a run of keys, each of which may commit by itself."""
        return self._add(Unit(run.end, run.db, [Piece(run.db, run.raw, run.commands)], 0), run.commands, len(run.raw))

    def _add(self, unit: Unit, count: int, size: int) -> Batch | None:
        full = None
        if self._units and (
            unit.noscript != self._noscript
            or self._count + count > self.max_commands
            or self._size + size > self.max_bytes
        ):
            full = self.take()
        self._noscript = unit.noscript
        self._units.append(unit)
        self._count += count
        self._size += size
        return full

    def take(self) -> Batch | None:
        """What has been collected, as a batch."""
        if not self._units:
            return None
        self.progress = max(self.progress, *(unit.end for unit in self._units), 0)
        batch = self.mark()
        batch.units, batch.count, batch.size = self._units, self._count, self._size
        batch.noscript = self._noscript
        self._units, self._count, self._size = [], 0, 0
        return batch

    def mark(self) -> Batch:
        """A batch without commands: its tag alone."""
        return Batch(self._end, 0, snapshot=True, first=self._first, again=self._again, progress=self.progress)


class Pace:
    """Keeps to a rate of bytes per second, so that a snapshot leaves a production target air; 0 is no limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._start = time.monotonic()
        self._spent = 0

    async def spent(self, count: int) -> None:
        """Wait as long as ``count`` more bytes ask for."""
        if not self._rate:
            return
        self._spent += count
        ahead = self._spent / self._rate - (time.monotonic() - self._start)
        if ahead > 0:
            await asyncio.sleep(ahead)
