"""What the journal's writer still has to do, in order. Pure: values in, values out.

Chunks that were received together become one `Group`, which is written as one chunk. A cut or a reset throws away the
work that it makes void, so that a full disk is not asked for room for bytes that nobody wants any more.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from canal.journal.chunk import Chunk
from canal.position import Position

GROUP_BYTES: Final = 256 << 10
"""Appends that arrive together are joined into chunks of up to this size."""
MAX_CHUNK: Final = 1 << 20
"""No chunk is longer, so that a reader can check one in bounded memory."""
GROUP_MS: Final = 5
"""Appends received further apart are not joined: the receive time of a chunk is that of its first byte."""


@dataclass(slots=True)
class Group:
    """Appended bytes ``[offset, end)`` on their way to one chunk."""

    offset: int
    end: int
    received_ms: int
    parts: list[bytes]

    def data(self) -> bytes:
        """All its bytes in one piece."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


@dataclass(frozen=True, slots=True)
class Mark:
    """At ``boundary`` a command begins outside MULTI, with ``db`` selected."""

    boundary: int
    db: int


@dataclass(frozen=True, slots=True)
class Continue:
    """From ``offset`` on the stream is that of ``replid``."""

    replid: str
    offset: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget everything from ``offset`` on."""

    offset: int
    generation: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget everything; the stream begins at ``position``."""

    position: Position
    generation: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Set ``done`` when all work before it is on the disk."""

    done: threading.Event


Work = Group | Mark | Continue | Truncate | Reset | Flush


class WorkList:
    """The ordered work. `add` from the left end of time; `first` and `done` take it away in order."""

    def __init__(self) -> None:
        self._work: deque[Work] = deque()

    def __len__(self) -> int:
        return len(self._work)

    @property
    def first(self) -> Work:
        """The oldest work; IndexError when there is none."""
        return self._work[0]

    def done(self) -> None:
        """Forget the oldest work."""
        self._work.popleft()

    def add(self, item: Chunk | Mark | Continue | Truncate | Reset | Flush) -> None:
        """Add work that comes after all that was added before."""
        if isinstance(item, Chunk):
            self._append(item)
            return
        if isinstance(item, Truncate):
            self._cut(item.offset)
        elif isinstance(item, Reset):
            self._work = deque(work for work in self._work if isinstance(work, Flush))
        self._work.append(item)

    def _append(self, chunk: Chunk) -> None:
        data = chunk.data
        last = self._work[-1] if self._work else None
        if (
            isinstance(last, Group)
            and last.end - last.offset + len(data) <= GROUP_BYTES
            and 0 <= chunk.received_ms - last.received_ms <= GROUP_MS
        ):
            last.parts.append(data)
            last.end += len(data)
            return
        for start in range(0, len(data), MAX_CHUNK):
            part = data if len(data) <= MAX_CHUNK else data[start : start + MAX_CHUNK]
            offset = chunk.offset + start
            self._work.append(Group(offset, offset + len(part), chunk.received_ms, [part]))

    def _cut(self, offset: int) -> None:
        """Drop what lies beyond ``offset``."""
        kept: deque[Work] = deque()
        for work in self._work:
            if isinstance(work, Group):
                if work.offset >= offset:
                    continue
                if work.end > offset:
                    work = Group(work.offset, offset, work.received_ms, [work.data()[: offset - work.offset]])
            elif (isinstance(work, Mark) and work.boundary > offset) or (
                isinstance(work, Continue) and work.offset > offset
            ):
                continue
            kept.append(work)
        self._work = kept
