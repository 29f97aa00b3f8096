"""Units → batches; `sync.render` makes target transactions of them. No I/O.

A batch is a run of consecutive units that commit together with one tag. It is cut where it is full, where the origin
changes (a tag names one origin), and around units that reach the tag itself. Otherwise batches are cut by what is
ready: the link takes the open batch as soon as the writer has room, so an idle link sends single commands at once and
a link that is behind fills its batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from canal.resp import parse
from sync.unit import DeadLetter, Piece, Unit


@dataclass(slots=True)
class Batch:
    """Units that commit together. ``end``/``db``: where the source's stream stands once it is applied."""

    end: int
    db: int
    units: list[Unit] = field(default_factory=list)
    count: int = 0  # commands
    size: int = 0  # bytes of the commands
    origin: str = ""
    opos: str = ""
    seen: str = ""  # two-way: what its datacenter had applied of the others before its first unit
    needs: str = ""  # and before its last one: what the target must have, too
    received_ms: int = 0  # of its first unit
    last_received_ms: int = 0
    solo: bool = False
    noscript: bool = False
    snapshot: bool = False
    first: bool = False  # snapshot of a first contact
    again: bool = False  # and an earlier one of that contact was applied in part
    progress: int = 0  # snapshot: bytes of the RDB applied with it
    sent: float = 0.0  # when it was submitted, time.monotonic()
    void: int = 0  # commands of it that were not sent, because others of it undo them

    def pieces(self) -> Iterator[Piece]:
        """All commands in order, grouped by database."""
        for unit in self.units:
            yield from unit.pieces

    def dead(self) -> list[DeadLetter]:
        """Commands that its units could not carry."""
        return [letter for unit in self.units for letter in unit.dead]


class Batcher:
    """Collects units into batches of bounded size; at most one is open, the closed ones wait in ``closed``."""

    def __init__(self, max_commands: int, max_bytes: int) -> None:
        self.max_commands = max_commands
        self.max_bytes = max_bytes
        self.closed: deque[Batch] = deque()
        self._open: Batch | None = None

    def add(self, unit: Unit) -> None:
        """Append a unit; units are never split, so one that is larger than the bounds makes a batch of its own."""
        count, size = unit.count, unit.size
        batch = self._open
        if batch is not None and (
            unit.solo
            or unit.noscript != batch.noscript
            or batch.origin != unit.origin
            or batch.count + count > self.max_commands
            or batch.size + size > self.max_bytes
        ):
            self._close()
            batch = None
        if batch is None:
            batch = self._open = Batch(unit.end, unit.db, origin=unit.origin, received_ms=unit.received_ms)
            batch.noscript = unit.noscript
            batch.seen = unit.seen
        batch.units.append(unit)
        batch.end, batch.db = unit.end, unit.db
        batch.count += count
        batch.size += size
        batch.opos = unit.opos
        batch.needs = unit.needs
        batch.last_received_ms = unit.received_ms
        if unit.solo:
            batch.solo = True
            self._close()

    def take(self, position: int = -1, db: int = 0) -> Batch | None:
        """The next batch, the open one too; None when there is nothing.

        ``position`` and ``db`` are the reader's: the last batch moves the checkpoint over what was consumed after it
        (not when ``position`` is left out).
        """
        if not self.closed:
            self._close()
            if not self.closed:
                return None
        batch = self.closed.popleft()
        if position >= 0 and not self.closed and self._open is None:
            batch.end, batch.db = position, db
        return batch

    @property
    def next_needs(self) -> str:
        """``needs`` of the batch that would be taken next; empty when there is none."""
        batch = self.closed[0] if self.closed else self._open
        return "" if batch is None else batch.needs

    @property
    def empty(self) -> bool:
        """Nothing to take."""
        return not self.closed and self._open is None

    @property
    def behind(self) -> int:
        """Number of full batches that wait."""
        return len(self.closed)

    def _close(self) -> None:
        if self._open is not None:
            self.closed.append(self._open)
            self._open = None


def without(unit: Unit, numbers: set[int]) -> Unit:
    """The unit less the commands of these numbers, which the target will not take."""
    pieces: list[Piece] = []
    number = 0
    for piece in unit.pieces:
        at = 0
        while at < len(piece.raw):
            parsed = parse(piece.raw, at, len(piece.raw))
            assert parsed is not None
            if number not in numbers:
                pieces.append(Piece(piece.db, piece.raw[at : parsed[1]], 1))
            at = parsed[1]
            number += 1
    return replace(unit, pieces=pieces)


def command_at(batch: Batch, index: int) -> tuple[int, list[bytes], int] | None:
    """The ``index``-th user command of a batch; None beyond the last.

    As (db, argv, stream offset after it; for a command of a transaction, after the transaction).
    """
    for unit in batch.units:
        for piece in unit.pieces:
            if index >= piece.commands:
                index -= piece.commands
                continue
            at = 0
            for _ in range(index):
                parsed = parse(piece.raw, at, len(piece.raw))
                assert parsed is not None
                at = parsed[1]
            parsed = parse(piece.raw, at, len(piece.raw))
            assert parsed is not None
            run = not unit.atomic and len(unit.pieces) == 1
            return piece.db, parsed[0], unit.end - (len(piece.raw) - parsed[1] if run else 0)
    return None
