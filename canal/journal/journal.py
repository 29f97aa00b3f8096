"""The durable local copy of a replication stream.

`Journal` is used by one thread, the event loop's. Nothing in it waits for the disk but `open`, `flush` and `close`:
changes go to the writer's thread in order and show at once in ``start``, ``end``, ``replids``; ``durable_end`` says how
far they have got. A crash at any moment leaves a prefix of what was appended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from canal.errors import StateError
from canal.journal.chunk import Chunk
from canal.journal.cursor import Cursor, View
from canal.journal.disk import make_directory
from canal.journal.recovery import Recovery, Survey, survey
from canal.journal.retention import Limits
from canal.journal.segment import Segment
from canal.journal.state import History, JournalState
from canal.journal.store import SegmentStore
from canal.journal.work import Continue, Flush, Mark, Reset, Truncate
from canal.journal.writer import Fsync, Hooks, SyncFigures, Wake, Writer
from canal.position import Position

MARK_EVERY: Final = 1 << 20
"""Marks closer together than this are not written, unless the database changed."""

CallSoon = Callable[..., object]


def _at_once(callback: Callable[..., object], *args: Any) -> None:
    callback(*args)


def _nothing(*_: object) -> None:
    return


class Journal:
    """See the module's text.

    ``call_soon`` carries callbacks from the writer's thread to the caller's (``loop.call_soon_threadsafe``; by default
    they run in the writer's thread). ``on_full(reason)``: the disk refuses, or a bound is reached; what was appended
    waits in memory, so the caller has to stop receiving. ``on_room()``: all of it is written and there is room again.
    ``on_pressure(True)``: more than ``high_water_bytes`` wait to be written, the disk is slower than the network;
    ``on_pressure(False)``: a quarter of that is left. ``on_failed(error)``: the writer died of a fault of ours.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 64 << 20,
        fsync: Fsync = "everysec",
        max_bytes: int = 0,
        retain_bytes: int = 64 << 20,
        retain_seconds: float = 60.0,
        reserve_bytes: int = 16 << 20,
        high_water_bytes: int = 16 << 20,
        call_soon: CallSoon = _at_once,
        on_full: Callable[[str], None] = _nothing,
        on_room: Callable[[], None] = _nothing,
        on_pressure: Callable[[bool], None] = _nothing,
        on_failed: Callable[[StateError], None] = _nothing,
    ) -> None:
        self.directory = directory
        self.generation = 0  # changes with each cut or reset: what was read before may be void
        self.high_water_bytes = high_water_bytes
        self._limits = Limits(segment_bytes, max_bytes, retain_bytes, retain_seconds, reserve_bytes)
        self._fsync: Fsync = fsync
        self._call_soon = call_soon
        self._on_full = on_full
        self._on_room = on_room
        self._on_pressure = on_pressure
        self._on_failed = on_failed
        self._writer: Writer | None = None
        self._history = History()
        self._floor = (0, 0)  # (start, durable end) while a cut or a reset is on its way to the disk
        self._end = 0
        self._survey = Survey()
        self._pressed = False
        self._failure: StateError | None = None
        self._next_mark = 0
        self._mark_db = -2
        self._written: Callable[[], None] | None = None
        self._written_beyond = 0
        self._lock = threading.Lock()  # guards the two above

    # -- opening and closing -------------------------------------------------------------------------------------

    def open(self) -> Recovery:
        """Find what is sound in the directory, which is created when missing, and start the writer.

        StateError: it cannot be created or read, or its format is newer than this program. What is not sound is
        reported, and set aside under another name until the next reset; nothing that may be needed is deleted.
        """
        make_directory(self.directory, "journal directory")
        self._survey = found = survey(self.directory)
        for segment in found.unusable:
            self._set_aside(segment)
        self._begin(found.runs[-1] if found.runs else [])
        runs = [(run[0].first, run[-1].end) for run in found.runs]
        return Recovery(self.start, self.end, self.replids, found.damages, runs)

    def _set_aside(self, segment: Segment) -> None:
        try:
            segment.reject()
        except OSError as error:
            raise StateError(f"{segment.log_path} cannot be renamed ({error.strerror})") from None

    def _begin(self, segments: list[Segment]) -> None:
        state = self._survey.state or JournalState.fresh()
        self._end = segments[-1].end if segments else 0
        self._history = state.history.cut(self._end).pruned(segments[0].first) if segments else History()
        store = SegmentStore(self.directory, self._limits.roll_bytes, state, segments)
        hooks = Hooks(self._hook_full, self._hook_room, self._hook_written, self._hook_failed)
        self._writer = Writer(store, self._limits, self._fsync, hooks)
        self._writer.published = (self.generation, self._end)
        self._writer.start()

    def adopt(self, position: Position) -> bool:
        """Serve ``position`` if any sound run can, not only the newest; only before the first change after `open`.

        True: the journal now is the run that holds it, and what lies after that run is given up. False: none does.
        """
        if self.covers(position):
            return True
        state = self._survey.state
        for number, run in enumerate(self._survey.runs[:-1]):
            inside = run[0].first <= position.offset <= run[-1].end
            if inside and state is not None and state.history.cut(run[-1].end).knows(position):
                self.close()
                for later in self._survey.runs[number + 1 :]:
                    for segment in later:
                        self._set_aside(segment)
                del self._survey.runs[number + 1 :]
                self.generation += 1
                self._begin(run)
                return True
        return False

    def _settle(self) -> Writer:
        """The writer; the journal is about to change, so runs other than the current one are given up."""
        writer = self._writer
        if writer is None:
            raise StateError(f"the journal in {self.directory} is not open")
        if self._failure is not None:
            raise self._failure
        if len(self._survey.runs) > 1:
            for run in self._survey.runs[:-1]:
                for segment in run:
                    self._set_aside(segment)
            del self._survey.runs[:-1]
        return writer

    def close(self, timeout_s: float | None = 30.0) -> bool:
        """Write what is pending and stop. False when the disk did not manage within ``timeout_s``. Blocks."""
        writer = self._writer
        stopped = writer is None or writer.stop(timeout_s)
        self._floor = (self.start, self.durable_end)
        self._writer = None
        return stopped

    def flush(self, timeout_s: float | None = 30.0) -> bool:
        """Wait until all that was appended is on the disk; False when that takes longer. Blocks."""
        done = threading.Event()
        end = self._end
        self._settle().put(Flush(done))
        return done.wait(timeout_s) and self.durable_end >= end

    # -- figures -------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> int:
        """How many stretches `open` found with bytes missing between them, until the first change gives all but the
        newest up; see `adopt`.
        """
        return len(self._survey.runs)

    @property
    def positioned(self) -> bool:
        """Whether the journal knows where it is: false until the first `reset`."""
        return bool(self._history.entries)

    @property
    def start(self) -> int:
        """Offset of the oldest byte."""
        writer = self._writer
        if writer is None or writer.published[0] != self.generation or not writer.store.segments:
            return self._floor[0]
        return writer.store.segments[0].first

    @property
    def end(self) -> int:
        """Offset after the newest byte appended, written or not."""
        return self._end

    @property
    def durable_end(self) -> int:
        """Offset up to which the stream would survive the end of this process; with fsync always, of this machine."""
        writer = self._writer
        if writer is None:
            return self._floor[1]
        generation, written = writer.published
        return written if generation == self.generation else self._floor[1]

    @property
    def pending_bytes(self) -> int:
        """Appended and not yet written."""
        return self._end - self.durable_end

    @property
    def replids(self) -> list[tuple[str, int]]:
        """(replid, offset from which it was in use), oldest first."""
        return list(self._history.entries)

    @property
    def position(self) -> Position | None:
        """The end of the journal: where the source is asked to go on. None before the first `reset`."""
        replid = self._history.at(self._end)
        return None if replid is None else Position(replid, self._end)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return 0 if self._writer is None else self._writer.store.size

    @property
    def full_reason(self) -> str | None:
        """Why nothing can be written now; None while it can."""
        return None if self._writer is None else self._writer.full_reason

    @property
    def syncs(self) -> SyncFigures:
        """How often and how long the disk was waited for."""
        return SyncFigures() if self._writer is None else self._writer.syncs

    def replid_at(self, offset: int) -> str | None:
        """The replid under which the bytes before ``offset`` were received."""
        return self._history.at(offset)

    def covers(self, position: Position) -> bool:
        """Whether replay can go on from ``position``: it is on this stream, and all bytes after it are here."""
        return self.positioned and self.start <= position.offset <= self._end and self._history.knows(position)

    # -- changes -------------------------------------------------------------------------------------------------

    def append(self, data: bytes | memoryview, received_ms: int) -> Chunk:
        """Add ``data`` at ``end``; never blocks. Returns it as a chunk, for the tail."""
        writer = self._writer
        if writer is None or not self._history.entries or self._failure is not None or len(self._survey.runs) > 1:
            writer = self._settle()
            if not self._history.entries:
                raise StateError(f"the journal in {self.directory} has no position yet")
        chunk = Chunk(self._end, bytes(data), received_ms)
        if not chunk.data:
            return chunk
        self._end += len(chunk.data)
        writer.put(chunk)
        if not self._pressed and self.pending_bytes > self.high_water_bytes:
            self._pressed = True
            self._on_pressure(True)
        return chunk

    def mark(self, offset: int, db: int) -> None:
        """A command begins at ``offset``, outside MULTI, with ``db`` selected. Cheap to call for every unit."""
        if offset < self._next_mark and db == self._mark_db:
            return
        if self._writer is None or offset > self._end:
            return
        self._next_mark = offset + MARK_EVERY
        self._mark_db = db
        self._writer.put(Mark(offset, db))

    def continue_as(self, replid: str) -> None:
        """From ``end`` on the stream is that of ``replid``; nothing happens when it is already."""
        history = self._history.continued(replid, self._end)
        if history is not self._history:
            writer = self._settle()
            self._history = history
            writer.put(Continue(replid, self._end))

    def truncate(self, offset: int) -> None:
        """Forget all bytes from ``offset`` on, which is between ``start`` and ``end`` (ValueError)."""
        if not self.start <= offset <= self._end:
            raise ValueError(f"expected an offset between {self.start} and {self._end}, got {offset}")
        if offset == self._end:
            return
        writer = self._settle()
        self._floor = (self.start, min(self.durable_end, offset))
        self.generation += 1
        self._end = offset
        self._history = self._history.cut(offset)
        self._next_mark = 0
        writer.put(Truncate(offset, self.generation))

    def reset(self, position: Position) -> None:
        """Forget everything; the stream begins at ``position`` (a full resync)."""
        writer = self._settle()
        self._floor = (position.offset, position.offset)
        self.generation += 1
        self._end = position.offset
        self._history = History([(position.replid, position.offset)])
        self._next_mark = 0
        writer.put(Reset(position, self.generation))

    def release(self, applied_offset: int) -> None:
        """Every consumer has applied all before ``applied_offset``; older segments may go. Cheap to call often."""
        writer = self._writer
        if writer is None or writer.published[0] != self.generation:
            return
        writer.applied = applied_offset
        segments = writer.store.segments
        limits = self._limits
        if writer.full_reason is not None or (
            len(segments) > 1
            and segments[0].end <= applied_offset - limits.retain_bytes
            and segments[0].last_ms <= (time.time() - limits.retain_seconds) * 1000
        ):
            writer.put(Wake())

    # -- reading -------------------------------------------------------------------------------------------------

    def view(self) -> View | None:
        """What may be read from the files now, by any thread; None while a cut or a reset is on its way."""
        writer = self._writer
        if writer is None:
            return None
        segments = writer.store.segments
        generation, written = writer.published
        return (generation, segments, written) if generation == self.generation and segments else None

    def cursor(self) -> Cursor:
        """A reader of the files, for a thread."""
        return Cursor(self.view)

    def when_written(self, offset: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, through ``call_soon``, when bytes beyond ``offset`` can be read from the files."""
        with self._lock:
            self._written = callback
            self._written_beyond = offset
        self._hook_written()

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._call_soon(callback, *args)

    # -- hooks, called in the writer's thread --------------------------------------------------------------------

    def _hook_full(self, reason: str) -> None:
        self._tell(self._on_full, reason)

    def _hook_room(self) -> None:
        self._tell(self._on_room)

    def _hook_written(self) -> None:
        if self._pressed and self.pending_bytes < self.high_water_bytes // 4:
            self._pressed = False
            self._tell(self._on_pressure, False)
        if self._written is None:
            return
        view = self.view()
        with self._lock:
            callback = self._written
            if callback is None or view is None or view[2] <= self._written_beyond:
                return
            self._written = None
        self._tell(callback)

    def _hook_failed(self, error: BaseException) -> None:
        self._failure = StateError(f"the writer of the journal in {self.directory} failed: {error!r}")
        self._tell(self._on_failed, self._failure)
