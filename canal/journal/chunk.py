"""What passes between the parts of the journal, and its errors."""

from __future__ import annotations

from typing import NamedTuple

from canal.errors import StateError


class Chunk(NamedTuple):
    """Stream bytes ``[offset, offset + len(data))``, all received within a few milliseconds of ``received_ms``."""

    offset: int
    data: bytes
    received_ms: int  # unix milliseconds

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self.offset + len(self.data)


class JournalDamaged(StateError):
    """The bytes ``[start, end)`` cannot be had from the journal: what is there fails its checksum, or nothing is.

    ``start`` is where a chunk begins, so the journal can be cut there (``Journal.truncate``) and the source asked to go
    on from it; only when the source no longer has those bytes is a full resync needed.
    """

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message)
        self.start = start
        self.end = end


class SpoolAborted(StateError):
    """The snapshot being read will never be complete: its transfer was given up, or its file is damaged."""
