"""Positions in a replication stream.

A position is ``(replid, offset)``. ``offset`` counts stream bytes exactly as Redis does in ``master_repl_offset``:
it is the number of bytes *consumed*, so the next byte has index ``offset + 1`` in Redis's words, and PSYNC asks for
``offset + 1``. All ranges in this project are half-open pairs of such positions: a chunk ``[start, end)`` holds the
bytes after ``start`` were consumed up to and including ``end``; ``end - start`` is its length in bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"([0-9a-fA-F]{40}):(\d{1,19})\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """``replid``: 40 hex digits, lower case. ``offset``: bytes of its stream consumed, >= 0."""

    replid: str
    offset: int

    def __str__(self) -> str:
        return f"{self.replid}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``<replid>:<offset>``; raises ValueError that quotes the text when it has another form."""
        match = _FORM.match(text)
        if match is None:
            raise ValueError(f"expected <40 hex digits>:<offset>, got {text!r}")
        return cls(match[1].lower(), int(match[2]))
