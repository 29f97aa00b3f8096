"""How far each datacenter had applied the others' streams: the ``seen`` vectors of tags. No I/O.

As text ``<dc>=<first 16 digits of the replid>:<offset>,…``. Positions compare within one history: a `Line` knows the
replication ids that one datacenter's stream has had, and where each ended; a position beyond such an end is clamped to
it, one of an id that the line does not know means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PREFIX: Final = 16
Vector = dict[str, tuple[str, int]]
"""Per datacenter: (first digits of a replid, offset)."""


def parse_seen(text: bytes | str) -> Vector:
    """Read a vector; parts of another form are left out, so that they count as nothing seen."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    out: Vector = {}
    for part in text.split(","):
        name, equals, position = part.partition("=")
        if equals and (found := parse_position(position)) is not None:
            out[name] = found
    return out


def parse_position(text: bytes | str) -> tuple[str, int] | None:
    """(first digits of the replid, offset) of ``<replid>:<offset>``; None for anything else."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    replid, colon, offset = text.partition(":")
    if not colon or not offset.isdigit() or len(replid) < PREFIX:
        return None
    return replid[:PREFIX].lower(), int(offset)


def format_seen(vector: Vector) -> str:
    """The vector as text, in order of names."""
    return ",".join(f"{name}={replid}:{offset}" for name, (replid, offset) in sorted(vector.items()))


class Line:
    """The stream of one datacenter across its failovers. Offsets along it compare."""

    def __init__(self) -> None:
        self._eras: list[tuple[str, int]] = []  # (digits of the replid, offset from which it was in use)

    def learn(self, eras: Sequence[tuple[str, int]]) -> None:
        """Take up the whole history, as a journal has it."""
        self._eras = [(replid[:PREFIX], start) for replid, start in eras]

    def follow(self, replid: str, offset: int) -> int | None:
        """A tag says that the stream stood at ``offset`` under ``replid``. Returns the offset to which everything known
        of it has to be cut back when the stream went back, else None.
        """
        eras = self._eras
        if not eras or eras[-1][0] != replid:
            back = offset if eras and offset < eras[-1][1] else None
            while eras and eras[-1][1] > offset:
                eras.pop()
            eras.append((replid, offset))
            del eras[:-8]
            return back
        return None

    def place(self, position: tuple[str, int] | None) -> int:
        """Where a position lies on the line: clamped to the end of its era, -1 when that is not known."""
        if position is None:
            return -1
        replid, offset = position
        for number, (name, _) in enumerate(self._eras):
            if name == replid:
                return min(offset, self._eras[number + 1][1]) if number + 1 < len(self._eras) else offset
        return -1
