"""Units → target transactions. No I/O.

A batch is a run of consecutive units that commit together with one tag. It is cut where it is full, where the origin
changes (a tag names one origin), and around units that reach the tag itself. Otherwise batches are cut by what is
ready: the link takes the open batch as soon as the writer has room, so an idle link sends single commands at once and
a link that is behind fills its batches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Final

from canal.framing import join_sets, script_arguments
from canal.position import Position
from canal.resp import encode, parse
from sync.tag import Tagger
from sync.unit import DeadLetter, Piece, Unit

MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
MAX_SCRIPT_ARGUMENTS: Final = 7000
"""Lua's unpack() takes about 8,000 values; commands with more arguments than this go by transaction."""
MAX_JOINED: Final = 3000
"""Keys of one MSET that runs of SET are joined to; few enough for scripts."""
Failures = list[tuple[int, str]]
"""(number of the user's command in the batch, error text) of commands that failed inside a transaction."""


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
    received_ms: int = 0  # of its first unit
    last_received_ms: int = 0
    solo: bool = False
    noscript: bool = False
    snapshot: bool = False
    first: bool = False  # snapshot of a first contact
    again: bool = False  # and an earlier one of that contact was applied in part
    progress: int = 0  # snapshot: bytes of the RDB applied with it
    sent: float = 0.0  # when it was submitted, time.monotonic()

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
        batch.units.append(unit)
        batch.end, batch.db = unit.end, unit.db
        batch.count += count
        batch.size += size
        batch.opos = unit.opos
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


@dataclass(slots=True)
class Rendered:
    """A batch as bytes for one connection.

    ``replies``: commands queued after MULTI, tag and SELECTs too; ``db``: selected on the connection afterwards;
    ``joined``: runs of SET went as MSET.
    """

    body: bytes
    replies: int
    db: int
    own: list[int]  # reply numbers of our own commands, in order
    joined: bool = False

    def failures(self, batch: Batch, replies: Failures) -> Failures:
        """Errors by the number of their reply → by the numbers of the user's commands, all those of a joined one."""
        numbers = [(number - bisect_left(self.own, number), text) for number, text in replies]
        if not self.joined:
            return numbers
        runs: list[int] = []
        for _, raw in by_database(batch):
            join_sets(raw, MAX_JOINED, runs)
        firsts = [0, *accumulate(runs)]
        return [(first, text) for number, text in numbers for first in range(firsts[number], firsts[number + 1])]


def by_database(batch: Batch) -> Iterator[tuple[int, bytes]]:
    """All commands in order, in as few pieces as the changes of database allow."""
    for db, pieces in groupby(batch.pieces(), key=attrgetter("db")):
        yield db, b"".join([piece.raw for piece in pieces])


def render(batch: Batch, tagger: Tagger, replid: str, db: int, *, seen: str = "", join: bool = False) -> Rendered:
    """The transaction's inside: tag, then the commands with the SELECTs that they need.

    ``join``: runs of SET as MSET, which sets the same at half the cost to the target.
    """
    parts: list[bytes] = []
    own: list[int] = []
    replies = 0

    def ours(argv: list[bytes]) -> None:
        nonlocal replies
        parts.append(encode(argv))
        own.append(replies)
        replies += 1

    def tag(full: bool) -> None:
        nonlocal db
        if db != 0:
            ours([b"SELECT", b"0"])
            db = 0
        ours(
            tagger.make(
                Position(replid, batch.end),
                batch.db,
                origin=batch.origin,
                opos=batch.opos if batch.origin else "",
                snapshot=batch.snapshot,
                first=batch.first,
                again=batch.again,
                progress=batch.progress,
                seen=seen,
                full=full,
            )
        )

    def select(wanted: int) -> None:
        nonlocal db
        if wanted != db:
            db = wanted
            ours([b"SELECT", b"%d" % db])

    tag(False)
    joined = False
    if join and batch.count > 1:
        for wanted, raw in by_database(batch):
            select(wanted)
            raw, count = join_sets(raw, MAX_JOINED)
            parts.append(raw)
            replies += count
        joined = replies - len(own) < batch.count
    else:
        for piece in batch.pieces():
            select(piece.db)
            parts.append(piece.raw)
            replies += piece.commands
    if batch.solo:
        tag(True)
    return Rendered(b"".join(parts), replies, db, own, joined)


def script_form(rendered: Rendered) -> tuple[bytes, int] | None:
    """The commands of a rendered batch as arguments of the guarded script, and their number.

    None when one of them has more arguments than a script can pass on.
    """
    raw, total = script_arguments(rendered.body, MAX_SCRIPT_ARGUMENTS)
    return None if total < 0 else (raw, total)
