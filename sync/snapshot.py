"""Apply a snapshot: the RDB of the spool → tagged batches, while it is still being received.

Every batch carries the snapshot's position, the mark that the phase is not over, and how many bytes of the RDB are
applied, so that a restart goes on in the file. Applying a key twice gives the same key, so the progress may lag.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from canal.commands import ServerKind
from canal.errors import Refused
from canal.rdb.events import End, Event, Function, Header, Key, KeyEnd, KeyStart, ResizeDb, ValuePart
from canal.rdb.reader import RdbReader
from canal.resp import encode
from sync.batch import Batch, without
from sync.restore import Restorer
from sync.tag import is_reserved
from sync.unit import Piece, Unit

if TYPE_CHECKING:
    from sync.session import Session

GRACE_MS = 10_000
"""Keys that end sooner than this get this long: the stream brings their end, and may renew them before."""
_READ_BYTES = 256 * 1024


class _Builder:
    """Collects the commands of keys into batches of bounded size."""

    def __init__(self, end: int, max_commands: int, max_bytes: int) -> None:
        self._end = end
        self._max_commands = max_commands
        self._max_bytes = max_bytes
        self._units: list[Unit] = []
        self._count = 0
        self._size = 0
        self._noscript = False

    def add(self, db: int, commands: list[list[bytes]], progress: int, noscript: bool = False) -> Batch | None:
        """Add what belongs together; a batch when one became full or has to be cut."""
        raw = b"".join([encode(argv) for argv in commands])
        full = None
        if self._units and (
            noscript != self._noscript
            or self._count + len(commands) > self._max_commands
            or self._size + len(raw) > self._max_bytes
        ):
            full = self.take()
        self._noscript = noscript
        unit = Unit(progress, db, [Piece(db, raw, len(commands))], 0, atomic=True, noscript=noscript)
        self._units.append(unit)
        self._count += len(commands)
        self._size += len(raw)
        return full

    def take(self) -> Batch | None:
        """What has been collected, as a batch."""
        if not self._units:
            return None
        batch = Batch(self._end, 0, self._units, self._count, self._size)
        batch.snapshot, batch.noscript = True, self._noscript
        batch.progress = self._units[-1].end
        self._units, self._count, self._size = [], 0, 0
        return batch


async def apply_snapshot(session: Session, progress: int, source: ServerKind, target: ServerKind) -> None:
    """Apply the capture's spool from ``progress`` on, then end the phase with a tag at the snapshot's position.

    Raises RdbError for an RDB that cannot be read (nothing after it is applied), and what ends the session.
    """
    capture, status, config = session.capture, session.status, session.config
    position = capture.spool.position
    assert position is not None
    generation = capture.generation
    shown = status.snapshot
    if progress == 0:
        shown.keys_done = shown.bytes_done = shown.keys_total = shown.keys_kept = shown.keys_restored = 0
        shown.keys_decoded = shown.keys_restamped = 0
        shown.started, shown.finished = time.time(), 0.0
    keep = config.two_way and config.snapshot.existing == "target"
    single = session.troubles.snapshot_single
    builder = _Builder(position.offset, 1 if single else config.batch_commands, config.batch_bytes)
    restorer = Restorer(target, keep=keep, status=shown, big_key_bytes=config.snapshot.big_key_bytes)
    reader = RdbReader(stream_above=config.snapshot.big_key_bytes)
    source_of_bytes = capture.spool.reader()
    pace = _Pace(config.snapshot.max_bytes_per_second)
    ended = False
    while not ended and (data := await source_of_bytes.read(_READ_BYTES)):
        for event in reader.feed(data):
            ended = ended or isinstance(event, End)
            for db, commands, end, noscript in _commands(event, restorer, progress):
                batch = builder.add(db, commands, end, noscript)
                if batch is not None:
                    await session.submit(_skipped(batch, session))
        shown.bytes_done = reader.offset
        await pace.spent(len(data))
        if capture.generation != generation:
            return
    reader.finish()
    if (batch := builder.take()) is not None:
        await session.submit(_skipped(batch, session))
    await session.drain()
    await session.submit(Batch(position.offset, 0))
    await session.drain()
    shown.finished = time.time()
    capture.spool.delete()


def _skipped(batch: Batch, session: Session) -> Batch:
    """The batch less what the target has refused before."""
    skip = session.troubles.skip
    if skip:
        batch.units = [without(unit, skip[unit.end]) if unit.end in skip else unit for unit in batch.units]
        batch.count = sum(unit.count for unit in batch.units)
    return batch


Commands = tuple[int, list[list[bytes]], int, bool]


def _commands(event: Event, restorer: Restorer, progress: int) -> Iterator[Commands]:
    """What one event of the RDB means for the target: (database, commands, RDB offset after it, no script)."""
    if isinstance(event, Key):
        if event.end > progress and not is_reserved(event.key):
            yield event.db, restorer.key(event), event.end, False
    elif isinstance(event, Header):
        restorer.header(event)
    elif isinstance(event, ResizeDb):
        restorer.status.keys_total += event.keys
    elif isinstance(event, Function):
        yield from ((0, [argv], 0, True) for argv in restorer.function(event))
    elif isinstance(event, KeyStart | ValuePart | KeyEnd):
        for db, commands, end in restorer.big(event):
            if end > progress or end == 0:
                yield db, commands, end, False


class _Pace:
    """Keeps to a rate of bytes per second, so that a snapshot leaves a production target air; 0 is no limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._start = time.monotonic()
        self._spent = 0

    async def spent(self, count: int) -> None:
        """Wait as long as ``count`` more bytes ask for."""
        import asyncio

        if not self._rate:
            return
        self._spent += count
        ahead = self._spent / self._rate - (time.monotonic() - self._start)
        if ahead > 0:
            await asyncio.sleep(ahead)


__all__ = ["Refused", "apply_snapshot"]
