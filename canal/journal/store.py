"""The segments of a journal as one sequence of bytes, and every change of them on disk.

Called by the writer's thread alone; any method may raise OSError, after which `give_back` restores the last whole
chunk. ``segments`` is replaced as a whole and never changed in place, so that other threads can read it.

Order of writes, so that a crash between any two leaves a journal that recovery reads rightly: bytes before their
record; a new replid into the state before the first segment under it; files go before the state that gives them up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from canal.journal.disk import sync_directory
from canal.journal.index import RECORD_SIZE
from canal.journal.segment import REJECTED, Segment, SegmentWriter
from canal.journal.state import JournalState
from canal.position import Position


def _nothing() -> None:
    return


Closing = Literal["sync", "later", "never"]


class SegmentStore:
    """All segments of one directory, oldest first, each beginning where the one before ends."""

    def __init__(self, directory: Path, roll_bytes: int, state: JournalState, segments: list[Segment]) -> None:
        self.directory = directory
        self.segments = segments
        self._roll_bytes = roll_bytes
        self._state = state
        self._file: SegmentWriter | None = None
        self.settle: Callable[[], None] = _nothing
        """Waits until what `handles` gave is on the disk: no more than two segments may be half written after a power
        loss, since recovery checks so many."""
        self._closed_bytes = 0
        self._handed = False  # `handles` gave files of closed segments
        self._closed: list[int] = []  # descriptors of files that are closed and not on the disk yet
        self._count()

    @property
    def end(self) -> int:
        """Position after the last byte; 0 in a journal that was never reset."""
        return self.segments[-1].end if self.segments else 0

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._closed_bytes + (self.segments[-1].size if self.segments else 0)

    def _count(self) -> None:
        self._closed_bytes = sum(segment.size for segment in self.segments[:-1])

    # -- appending -----------------------------------------------------------------------------------------------

    def append(self, data: bytes, received_ms: int, closing: Closing) -> None:
        """Append one chunk; ``closing``: whether a segment that is full is brought to the disk before it is closed, or
        left for `handles`, or never.
        """
        self._open(closing).append(data, received_ms)

    def mark(self, boundary: int, db: int) -> None:
        """Note a command boundary."""
        if self.segments:
            self._open("never").mark(boundary, db)

    def _open(self, closing: Closing) -> SegmentWriter:
        """The segment to append to; a new one when the last has its size."""
        last = self.segments[-1]
        if self._file is None:
            self._file = SegmentWriter.reopen(last)
        index_bytes = last.records * RECORD_SIZE
        if last.end - last.first < self._roll_bytes and index_bytes < max(64 << 10, self._roll_bytes // 4):
            return self._file
        return self._roll(last.end, self._state.history.at(last.end) or last.replid, closing)

    def _roll(self, offset: int, replid: str, closing: Closing = "sync") -> SegmentWriter:
        """Begin a segment at ``offset``."""
        if closing == "sync":
            self.sync()
        elif closing == "later" and self._file is not None:
            if self._handed:
                self.settle()
            self._handed = False
            self._sync_closed()
            self._closed += self._file.handles()
        segment = Segment(self.directory, offset, replid)
        file = SegmentWriter.create(segment, self._state.journal_id)
        self._close_file()
        self._file = file
        kept = self.segments
        if kept and kept[-1].first == offset:  # it was empty, and its files have just been replaced
            kept = kept[:-1]
        self.segments = [*kept, segment]
        self._count()
        if closing == "sync":
            sync_directory(self.directory)
        elif closing == "later":
            self._closed.append(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY))
        return file

    def handles(self) -> list[int]:
        """Descriptors of all that is not on the disk yet, in the order to bring it there; the caller closes them."""
        current = [] if self._file is None else self._file.handles()
        self._handed = self._handed or bool(self._closed)
        fds, self._closed = [*self._closed, *current], []
        return fds

    def sync(self) -> None:
        """Make all that was appended survive a power loss."""
        self._sync_closed()
        if self._file is None and self.segments:
            self._file = SegmentWriter.reopen(self.segments[-1])
        if self._file is not None:
            self._file.sync()

    def _sync_closed(self) -> None:
        while self._closed:
            try:
                os.fsync(self._closed[0])
            finally:
                os.close(self._closed.pop(0))

    def give_back(self) -> None:
        """After an error: cut off what is not whole."""
        try:
            if self._file is not None:
                self._file.cut()
        except OSError:
            self._close_file()  # opened again, and cut, when the disk works again

    def close(self) -> None:
        """Close the files."""
        self._close_file()
        while self._closed:
            os.close(self._closed.pop())

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # -- cuts ----------------------------------------------------------------------------------------------------

    def continue_as(self, replid: str, offset: int) -> None:
        """From ``offset``, the end, on the stream is that of ``replid``."""
        start = self.segments[0].first if self.segments else offset
        self._state.history = self._state.history.continued(replid, offset).pruned(start)
        self._state.save(self.directory)
        self._roll(offset, replid)

    def reset(self, position: Position) -> None:
        """Delete everything and begin at ``position``."""
        self._close_file()
        segments, self.segments = self.segments, []
        self._count()
        for segment in segments:
            segment.delete()
        for path in self.directory.glob(f"*{REJECTED}"):
            path.unlink(missing_ok=True)
        self._state.replace(JournalState.fresh(position))
        self._state.save(self.directory)
        self._roll(position.offset, position.replid)

    def truncate(self, offset: int) -> None:
        """Forget everything from ``offset`` on."""
        self._state.history = self._state.history.cut(offset)
        self._close_file()
        while len(self.segments) > 1 and self.segments[-1].first >= offset:
            self._drop_newest()
        if not self._cut_newest(offset):
            self._close_file()
            while self.segments:
                self._drop_newest()
            self._roll(offset, self._state.history.at(offset) or "0" * 40)
        self._count()
        self._state.save(self.directory)

    def _cut_newest(self, offset: int) -> bool:
        """False when the chunk at ``offset`` is damaged: what is before it then goes too, rather than a guess stay."""
        if not self.segments:
            return False  # an earlier attempt had come to that, and the disk refused a new segment
        last = self.segments[-1]
        if last.end <= offset:
            return True
        self._file = SegmentWriter.reopen(last)
        return self._file.truncate(offset)

    def _drop_newest(self) -> None:
        segment = self.segments[-1]
        self.segments = self.segments[:-1]
        segment.delete()

    def drop_oldest(self, count: int) -> int:
        """Delete the ``count`` oldest segments, never the newest; returns the bytes gained."""
        gained = 0
        for _ in range(min(count, len(self.segments) - 1)):
            segment = self.segments[0]
            self.segments = self.segments[1:]
            segment.delete()
            gained += segment.size
        self._closed_bytes -= gained
        if gained:
            self._drop_rejected(self.segments[0].first)
        return gained

    def _drop_rejected(self, before: int) -> None:
        """What recovery set aside goes when its time would have come anyway."""
        for path in self.directory.glob(f"*{REJECTED}"):
            if path.name[:20].isdigit() and int(path.name[:20]) < before:
                path.unlink(missing_ok=True)
