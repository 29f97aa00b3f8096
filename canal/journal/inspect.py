"""Reads a journal for people: which commands stand in a range of offsets. Changes nothing, needs no lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from canal.errors import ProtocolError, StateError
from canal.journal import index
from canal.journal.cursor import Cursor
from canal.journal.recovery import Survey
from canal.journal.segment import Segment
from canal.resp import need, parse

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Boundary:
    """At ``offset`` a command begins, with ``db`` selected (None: not known until the stream selects one)."""

    offset: int
    db: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One command of the stream, ``[offset, end)``; ``received_ms``: when its last byte came, unix milliseconds."""

    offset: int
    end: int
    received_ms: int
    db: int | None
    argv: list[bytes]


def run_at(found: Survey, offset: int) -> list[Segment]:
    """The run of segments that holds ``offset`` (or ends there). StateError, naming what there is, when none does."""
    for run in reversed(found.runs):
        if run[0].first <= offset <= run[-1].end:
            return run
    ranges = ", ".join(f"{run[0].first}..{run[-1].end}" for run in found.runs)
    raise StateError(
        f"offset {offset} is not in the journal" + (f", which has {ranges}" if ranges else ": it is empty")
    )


def boundary_before(found: Survey, run: list[Segment], offset: int) -> Boundary:
    """The last known command boundary at or before ``offset``, else the first one after it.

    The reader of the stream leaves marks as it applies; before the first of them nothing tells where commands begin,
    unless the journal still has the beginning of its stream. StateError when there is no boundary at all.
    """
    start, end = run[0].first, run[-1].end
    before: Boundary | None = None
    after: Boundary | None = None
    if found.state is not None and found.state.history.entries[:1] and found.state.history.entries[0][1] == start:
        before = Boundary(start, None)
    for segment in run:
        for mark in _marks(segment):
            if not start <= mark.offset <= end:
                continue
            if mark.offset > offset:
                after = mark if after is None or mark.offset < after.offset else after
            elif before is None or mark.offset >= before.offset:
                before = mark
    best = before or after
    if best is None:
        raise StateError("no command boundary is known in this journal: nothing of it has been applied yet")
    return best


def _marks(segment: Segment) -> Iterator[Boundary]:
    fd = os.open(segment.index_path, os.O_RDONLY)
    try:
        for number in range(0, segment.records, 4096):
            for record in index.read_records(fd, number, min(4096, segment.records - number)):
                if not record.length and index.sound(record, b""):
                    yield Boundary(record.value, record.db if record.db >= 0 else None)
    finally:
        os.close(fd)


def commands(run: list[Segment], begin: Boundary, stop: int) -> Iterator[Entry]:
    """The commands from ``begin`` on that begin before ``stop``. A command that is not complete ends the iteration.

    Raises JournalDamaged, or ProtocolError with the offset when what is there is not a stream of commands.
    """
    end = run[-1].end
    cursor = Cursor(lambda: (0, run, end))
    at, db, data, pos = begin.offset, begin.db, b"", 0
    fetched = at
    try:
        while at < stop:
            found = _parse(data, pos, at)
            if found is None:
                more, received_ms = _fetch(cursor, fetched, _missing(data, pos))
                if not more:
                    return
                data, pos = data[pos:] + more, 0
                fetched += len(more)
                continue
            argv, after = found
            if argv[0].upper() == b"SELECT" and len(argv) == 2 and argv[1].isdigit():
                db = int(argv[1])
            yield Entry(at, at + after - pos, received_ms, db, argv)
            at += after - pos
            pos = after
    finally:
        cursor.forget()


def _parse(data: bytes, pos: int, at: int) -> tuple[list[bytes], int] | None:
    try:
        return parse(data, pos, len(data))
    except ProtocolError as error:
        raise ProtocolError(f"the journal does not hold commands here: {error}", at) from None


def _missing(data: bytes, pos: int) -> int:
    """How many more bytes the command at ``pos`` takes at least."""
    return 1 if pos >= len(data) else need(data, pos, len(data)) - (len(data) - pos)


def _fetch(cursor: Cursor, offset: int, wanted: int) -> tuple[bytes, int]:
    """At least ``wanted`` bytes from ``offset`` on, fewer at the end, and when the last of them were received."""
    parts: list[bytes] = []
    got = 0
    received_ms = 0
    while got < wanted:
        chunks = cursor.read(offset + got, 1)  # one chunk: its time is that of the commands that end in it
        if not chunks:
            break
        parts.append(chunks[0].data)
        got += len(chunks[0].data)
        received_ms = chunks[0].received_ms
    return b"".join(parts), received_ms


def find_journals(path: Path) -> list[Path]:
    """The journals in a state directory, in a directory of many, or ``path`` itself."""
    for candidate in (path, path / "journal"):
        if (candidate / "journal.json").is_file():
            return [candidate]
    return sorted(found.parent for depth in ("*", "*/*", "*/*/*") for found in path.glob(f"{depth}/journal.json"))
