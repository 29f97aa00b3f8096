"""The newest part of the stream in memory: two equal buffers and a table of states, without I/O.

The canal fills the *standby*, the reader drains the *active*; when the active is empty they swap. The table::

              APPENDED    OVERFLOWED   SWAPPED    EMPTIED   REACHED   LEFT
    MEMORY    MEMORY      STALE        MEMORY     -         MEMORY    DISK
    STALE     STALE       STALE        -          DISK      MEMORY    DISK
    DISK      DISK        DISK         -          -         MEMORY    DISK

MEMORY: the standby begins where the active ends, so all that the reader has not had is here. An append that does not
fit into the standby pushes its oldest bytes out (OVERFLOWED): now there is a hole behind the active, the tail is STALE.
The reader still drains the active; once that is EMPTIED the next byte it needs is in the journal only: DISK. The
standby meanwhile always holds the newest bytes. When the next byte needed is in it (REACHED, by reading on from disk or
by a seek), the two swap and the reader is back in MEMORY. LEFT is a seek to a place that is not in memory. A dash: the
event cannot happen in that state.

Invariant: ``needed`` is the offset after the last byte handed out, whichever way it went; `take` goes on from there.
Each buffer holds at most ``limit`` bytes, objects included.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

from canal.journal.chunk import Chunk

CHUNK_COST: Final = 160
"""Bytes counted for each chunk beside its data, so that many small ones are bounded too."""


class State(Enum):
    """Where the next byte comes from; see the module's text."""

    MEMORY = auto()
    STALE = auto()
    DISK = auto()


class Event(Enum):
    """What can happen to a tail; see the module's text."""

    APPENDED = auto()
    OVERFLOWED = auto()
    SWAPPED = auto()
    EMPTIED = auto()
    REACHED = auto()
    LEFT = auto()


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.MEMORY: {
        Event.APPENDED: State.MEMORY,
        Event.OVERFLOWED: State.STALE,
        Event.SWAPPED: State.MEMORY,
        Event.REACHED: State.MEMORY,
        Event.LEFT: State.DISK,
    },
    State.STALE: {
        Event.APPENDED: State.STALE,
        Event.OVERFLOWED: State.STALE,
        Event.EMPTIED: State.DISK,
        Event.REACHED: State.MEMORY,
        Event.LEFT: State.DISK,
    },
    State.DISK: {
        Event.APPENDED: State.DISK,
        Event.OVERFLOWED: State.DISK,
        Event.REACHED: State.MEMORY,
        Event.LEFT: State.DISK,
    },
}


class Buffer:
    """Consecutive chunks ``[start, end)``, oldest first."""

    __slots__ = ("chunks", "end", "size", "start")

    def __init__(self, start: int) -> None:
        self.chunks: deque[Chunk] = deque()
        self.start = start
        self.end = start
        self.size = 0

    def push(self, chunk: Chunk) -> None:
        """Add the chunk that begins at ``end``."""
        self.chunks.append(chunk)
        self.end = chunk.offset + len(chunk.data)
        self.size += len(chunk.data) + CHUNK_COST

    def pop(self) -> Chunk:
        """Take the oldest chunk."""
        chunk = self.chunks.popleft()
        self.start = chunk.offset + len(chunk.data)
        self.size -= len(chunk.data) + CHUNK_COST
        return chunk

    def clear(self, start: int) -> None:
        """Hold nothing; the next chunk begins at ``start``."""
        self.chunks.clear()
        self.start = self.end = start
        self.size = 0

    def skip_to(self, offset: int) -> None:
        """Drop what lies before ``offset``, which is within ``[start, end]``."""
        while self.chunks and self.chunks[0].end <= offset:
            self.pop()
        if self.chunks and self.chunks[0].offset < offset:
            chunk = self.pop()
            rest = Chunk(offset, chunk.data[offset - chunk.offset :], chunk.received_ms)
            self.chunks.appendleft(rest)
            self.size += len(rest.data) + CHUNK_COST
        self.start = offset

    def cut(self, offset: int) -> None:
        """Drop what lies at or after ``offset``, which is at least ``start``."""
        while self.chunks and self.chunks[-1].offset >= offset:
            self.size -= len(self.chunks.pop().data) + CHUNK_COST
        if self.chunks and self.chunks[-1].end > offset:
            chunk = self.chunks.pop()
            self.chunks.append(Chunk(chunk.offset, chunk.data[: offset - chunk.offset], chunk.received_ms))
            self.size -= chunk.end - offset
        self.end = min(self.end, offset)


class Tail:
    """See the module's text. All calls are quick and none blocks; one thread (the event loop's) makes them."""

    __slots__ = ("_active", "_standby", "limit", "needed", "overflows", "state")

    def __init__(self, limit: int, start: int) -> None:
        self.limit = limit
        self.needed = start
        self.state = State.MEMORY
        self.overflows = 0  # bytes that left memory before the reader had them
        self._active = Buffer(start)
        self._standby = Buffer(start)

    @property
    def end(self) -> int:
        """Position after the newest byte."""
        return self._standby.end

    @property
    def size(self) -> int:
        """Bytes held, objects included."""
        return self._active.size + self._standby.size

    def append(self, chunk: Chunk) -> None:
        """Add the newest chunk; it must begin at ``end``."""
        standby = self._standby
        if chunk.offset != standby.end:
            raise ValueError(f"the tail ends at {standby.end}, got a chunk at {chunk.offset}")
        if standby.size + len(chunk.data) + CHUNK_COST > self.limit:
            if self.state is State.MEMORY and not self._active.chunks:
                self._swap()
                standby = self._standby
            self._make_room(len(chunk.data) + CHUNK_COST)
        if len(chunk.data) + CHUNK_COST <= self.limit:
            standby.push(chunk)
            self._happened(Event.APPENDED)
        else:  # longer than a whole buffer: it is in the journal
            self._overflowed(len(chunk.data))
            standby.clear(chunk.end)

    def _make_room(self, wanted: int) -> None:
        standby = self._standby
        while standby.chunks and standby.size + wanted > self.limit:
            self._overflowed(len(standby.pop().data))

    def _overflowed(self, size: int) -> None:
        self.overflows += size
        self._happened(Event.OVERFLOWED)

    def take(self) -> Chunk | None:
        """The chunk at ``needed``; None when it has not come yet, or has to be read from disk (``state`` is DISK)."""
        active = self._active
        if not active.chunks:
            if self.state is State.MEMORY:
                if not self._standby.chunks:
                    return None
                self._swap()
                active = self._active
            else:
                if self.state is State.STALE:
                    self._happened(Event.EMPTIED)
                return None
        chunk = active.pop()
        self.needed = active.start
        return chunk

    def advance(self, offset: int) -> None:
        """The reader got ``[needed, offset)`` from disk; the tail may be able to go on from there.

        ``advance(needed)`` only looks whether it can.
        """
        if self.state is not State.DISK:
            raise ValueError(f"bytes up to {offset} came from disk while the tail has them from {self.needed} on")
        self.needed = offset
        if self._standby.start <= offset <= self._standby.end:
            self._reach(offset)

    def seek(self, offset: int) -> None:
        """The reader wants to go on at ``offset``, wherever that is."""
        self.needed = offset
        if self._active.start <= offset <= self._active.end and self._active.chunks:
            self._active.skip_to(offset)
            if self.state is State.STALE:
                return
            self._happened(Event.REACHED)
        elif self._standby.start <= offset <= self._standby.end:
            self._reach(offset)
        else:
            self._active.clear(offset)
            self._happened(Event.LEFT)

    def cut(self, offset: int) -> None:
        """The stream goes on at ``offset`` in another way (source failover): forget the bytes from there on.

        A reader that has already had some of those is put at ``offset``: the caller has to undo what it made of them.
        """
        if self.needed > offset:
            self.restart(offset)
        elif offset >= self._standby.start:
            self._standby.cut(offset)
        else:
            self._standby.clear(offset)
            if offset <= self._active.end:
                self._active.cut(offset)
                self._happened(Event.REACHED)

    def restart(self, offset: int) -> None:
        """Hold nothing; the stream goes on at ``offset``, and so does the reader."""
        self._active.clear(offset)
        self._standby.clear(offset)
        self.needed = offset
        self.state = State.MEMORY

    def _reach(self, offset: int) -> None:
        """``offset`` is in the standby: it becomes the active buffer, from there on."""
        self._active.clear(offset)
        self._standby.skip_to(offset)
        self._exchange()
        self._happened(Event.REACHED)

    def _swap(self) -> None:
        self._exchange()
        self._happened(Event.SWAPPED)

    def _exchange(self) -> None:
        """The empty active becomes the standby, which goes on where the standby ended."""
        self._active, self._standby = self._standby, self._active
        self._standby.clear(self._active.end)

    def _happened(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
