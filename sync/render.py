"""A batch as the bytes of one target transaction: tag, SELECTs and commands. No I/O.

Two things may differ from the commands as they came, neither of them in what the target holds afterwards: runs of SET
go as one MSET (``join``), and commands whose key is overwritten or deleted later in the batch are left out
(``compact``). Replies are counted back to the user's commands when one of them is an error.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Final

from canal.compaction import needless
from canal.framing import join_sets, script_arguments
from canal.position import Position
from canal.resp import encode
from sync.batch import Batch
from sync.tag import Tagger
from sync.unit import Piece

MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
MAX_SCRIPT_ARGUMENTS: Final = 7000
"""Lua's unpack() takes about 8,000 values; commands with more arguments than this go by transaction."""
MAX_JOINED: Final = 3000
"""Keys of one MSET that runs of SET are joined to; few enough for scripts."""
Failures = list[tuple[int, str]]
"""(number of the user's command in the batch, error text) of commands that failed inside a transaction."""


@dataclass(frozen=True, slots=True)
class Form:
    """How batches are written: see the module's text."""

    join: bool = False
    compact: bool = False


RAW: Final = Form()
"""Every command as it came."""


@dataclass(slots=True)
class Rendered:
    """A batch as bytes for one connection, in ``parts``, since a copy of what is long would cost memory.

    ``replies``: commands queued after MULTI, tag and SELECTs too; ``db``: selected on the connection afterwards.
    """

    parts: list[bytes]
    replies: int
    db: int
    own: list[int]  # reply numbers of our own commands, in order
    form: Form = RAW

    @property
    def body(self) -> bytes:
        """All parts as one."""
        return b"".join(self.parts)

    def failures(self, batch: Batch, replies: Failures) -> Failures:
        """Errors by the number of their reply → by the numbers of the user's commands, all those of a joined one."""
        numbers = [(number - bisect_left(self.own, number), text) for number, text in replies]
        pieces, kept = _pieces(batch, self.form)
        if self.form.join:
            runs: list[int] = []
            for piece in pieces:
                join_sets(piece.raw, MAX_JOINED, runs)
            firsts = [0, *accumulate(runs)]
            numbers = [(one, text) for number, text in numbers for one in range(firsts[number], firsts[number + 1])]
        return numbers if kept is None else [(kept[number], text) for number, text in numbers]


def by_database(batch: Batch) -> Iterator[Piece]:
    """All commands in order, in as few pieces as the changes of database allow."""
    for db, group in groupby(batch.pieces(), key=attrgetter("db")):
        pieces = list(group)
        raw = pieces[0].raw if len(pieces) == 1 else b"".join([piece.raw for piece in pieces])
        yield Piece(db, raw, sum(piece.commands for piece in pieces))


def _pieces(batch: Batch, form: Form) -> tuple[list[Piece], list[int] | None]:
    """What is sent, and which of the user's commands that is (None: all)."""
    pieces = list(by_database(batch))
    if not form.compact:
        return pieces, None
    doomed: dict[int, set[bytes]] = {}
    number = sum(piece.commands for piece in pieces)
    out: list[Piece] = []
    kept: list[int] = []
    for piece in reversed(pieces):
        number -= piece.commands
        raw, left = needless(piece.raw, piece.db, doomed)
        kept[:0] = [number + one for one in left]
        if left:
            out.insert(0, Piece(piece.db, raw, len(left)))
    return out, kept


def render(batch: Batch, tagger: Tagger, replid: str, db: int, *, form: Form = RAW) -> Rendered:
    """The transaction's inside: tag, then the commands with the SELECTs that they need."""
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
                seen=batch.seen,
                own=batch.units[-1].end if batch.units and not batch.snapshot else -1,
                full=full,
            )
        )

    tag(False)
    if batch.count < 2:
        form = RAW
    pieces, kept = _pieces(batch, form)
    batch.void = 0 if kept is None else batch.count - len(kept)
    for piece in pieces:
        if piece.db != db:
            db = piece.db
            ours([b"SELECT", b"%d" % db])
        raw, count = join_sets(piece.raw, MAX_JOINED) if form.join else (piece.raw, piece.commands)
        parts.append(raw)
        replies += count
    if batch.solo:
        tag(True)
    return Rendered(parts, replies, db, own, form)


def script_form(rendered: Rendered) -> tuple[bytes, int] | None:
    """The commands of a rendered batch as arguments of the guarded script, and their number.

    None when one of them has more arguments than a script can pass on.
    """
    raw, total = script_arguments(rendered.body, MAX_SCRIPT_ARGUMENTS)
    return None if total < 0 else (raw, total)
