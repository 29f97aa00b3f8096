"""A journal that is not one: the stream in memory only, behind the same face.

For measuring what journaling costs, and for links whose restart may cost a full resync. Nothing is bounded but by what
is released, nothing survives the process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canal.errors import StateError
from canal.journal.chunk import Chunk, JournalDamaged
from canal.journal.journal import Journal
from canal.journal.recovery import Recovery
from canal.journal.state import History
from canal.journal.writer import SyncFigures
from canal.position import Position

_KEEP_DROPPED = 1024


class MemoryJournal(Journal):
    """Takes the options of `Journal` and heeds ``retain_bytes`` of them; see the module's text."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self._chunks: list[Chunk] = []
        self._dropped = 0  # chunks at the front that were released
        self._begin_at = 0

    def open(self) -> Recovery:
        """Begins with nothing."""
        return Recovery(0, 0, [], [], [])

    def close(self, timeout_s: float | None = 30.0) -> bool:
        """Nothing is kept."""
        return True

    def flush(self, timeout_s: float | None = 30.0) -> bool:
        """There is nothing to wait for."""
        return True

    @property
    def runs(self) -> int:
        """Nothing is ever missing."""
        return 1

    def adopt(self, position: Position) -> bool:
        """There is one run only."""
        return self.covers(position)

    @property
    def start(self) -> int:
        """Offset of the oldest byte."""
        return self._begin_at

    @property
    def durable_end(self) -> int:
        """All that was appended, though nothing of it is durable: it is what the source is told."""
        return self._end

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._end - self._begin_at

    @property
    def full_reason(self) -> str | None:
        """Never full."""
        return None

    @property
    def syncs(self) -> SyncFigures:
        """None are made."""
        return SyncFigures()

    def append(self, data: bytes | memoryview, received_ms: int) -> Chunk:
        """Add ``data`` at ``end``."""
        if not self.positioned:
            raise StateError("the journal in memory has no position yet")
        chunk = Chunk(self._end, bytes(data), received_ms)
        if chunk.data:
            self._chunks.append(chunk)
            self._end = chunk.end
            self._hook_written()
        return chunk

    def mark(self, offset: int, db: int) -> None:
        """Marks serve people who read the files; there are none."""

    def continue_as(self, replid: str) -> None:
        """From ``end`` on the stream is that of ``replid``."""
        self._history = self._history.continued(replid, self._end)

    def truncate(self, offset: int) -> None:
        """Forget all bytes from ``offset`` on."""
        if not self.start <= offset <= self._end:
            raise ValueError(f"expected an offset between {self.start} and {self._end}, got {offset}")
        self.generation += 1
        chunks = self._chunks
        while chunks and chunks[-1].offset >= offset:
            chunks.pop()
        if chunks and chunks[-1].end > offset:
            last = chunks.pop()
            chunks.append(Chunk(last.offset, last.data[: offset - last.offset], last.received_ms))
        self._end = offset
        self._dropped = min(self._dropped, len(chunks))
        self._history = self._history.cut(offset)

    def reset(self, position: Position) -> None:
        """Forget everything; the stream begins at ``position``."""
        self.generation += 1
        self._chunks = []
        self._dropped = 0
        self._begin_at = self._end = position.offset
        self._history = History([(position.replid, position.offset)])

    def release(self, applied_offset: int) -> None:
        """Give up what lies ``retain_bytes`` behind ``applied_offset``."""
        behind = applied_offset - self._limits.retain_bytes
        chunks = self._chunks
        while self._dropped < len(chunks) and chunks[self._dropped].end <= behind:
            self._begin_at = chunks[self._dropped].end
            self._dropped += 1
        if self._dropped > _KEEP_DROPPED and self._dropped > len(chunks) // 2:
            self._chunks = chunks[self._dropped :]
            self._dropped = 0

    def cursor(self) -> MemoryCursor:  # type: ignore[override]
        """A reader."""
        return MemoryCursor(self)

    def when_written(self, offset: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, through ``call_soon``, when there are bytes beyond ``offset``."""
        self._written = callback
        self._written_beyond = offset
        self._hook_written()

    def _hook_written(self) -> None:
        callback = self._written
        if callback is not None and self._end > self._written_beyond:
            self._written = None
            self._tell(callback)


class MemoryCursor:
    """Reads a `MemoryJournal`."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    def read(self, offset: int, max_bytes: int) -> list[Chunk]:
        """Consecutive chunks from ``offset`` on; empty when there is no more."""
        journal = self._journal
        chunks = journal._chunks
        if offset >= journal.end or not chunks:
            return []
        if offset < journal.start:
            raise JournalDamaged(
                f"offset {offset} is not in the journal any more, it begins at {journal.start}", offset, journal.start
            )
        number = bisect_right(chunks, offset, key=_offset) - 1
        out: list[Chunk] = []
        total = 0
        for chunk in chunks[number : number + 4096]:
            if out and total + len(chunk.data) > max_bytes:
                break
            out.append(chunk)
            total += len(chunk.data)
        if not out:  # cut in this moment, by the other thread
            return []
        first = out[0]
        out[0] = Chunk(offset, first.data[offset - first.offset :], first.received_ms)
        return out

    def forget(self) -> None:
        """There is nothing to close."""


def _offset(chunk: Chunk) -> int:
    return chunk.offset
