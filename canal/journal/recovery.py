"""What is sound in a journal's directory: looked at without changing anything.

Reading begins at the oldest segment. A segment counts up to the last chunk before the first damage in it; what comes
after that in the same segment is not used. So is a segment that cannot be checked: its index or its bytes are missing,
its header is not sound, it belongs to another journal or another stream, or it overlaps the one before. Where a segment
does not begin at the end of the one before, bytes are missing and a new *run* begins.

The newest run is the journal: its end is the newest offset that can be proven, and the checkpoint of a target is most
likely there. An older run is kept until the first change, because only the target's checkpoint tells which one is
needed (`Journal.adopt`). Bytes between runs can come from the source alone.

All chunks of the last `DEPTH` segments are checked; of the others only the figures, as reading checks each chunk again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from canal.errors import StateError
from canal.journal import index
from canal.journal.index import HEADER_SIZE, RECORD_SIZE, Header
from canal.journal.segment import NAME, Segment, verify
from canal.journal.state import STATE_NAME, JournalState, load_state
from canal.position import Position

DEPTH: Final = 2
_LOOK_BACK: Final = 64


@dataclass(slots=True)
class Survey:
    """What was found. ``runs``: sound sequences of segments, oldest first; ``unusable``: segments that do not count."""

    state: JournalState | None = None
    runs: list[list[Segment]] = field(default_factory=list)
    unusable: list[Segment] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a journal begins with: the range ``[start, end)``, its replids (id, offset from which it was in use), and
    one line for people about each damage found, with offsets. ``runs`` are all sound ranges, this one among them."""

    start: int
    end: int
    replids: list[tuple[str, int]]
    damages: list[str]
    runs: list[tuple[int, int]]


def survey(directory: Path, everything: bool = False) -> Survey:
    """Look at the journal in ``directory``; ``everything``: check all chunks of all segments.

    Raises StateError when it cannot be read or its format is newer than this program.
    """
    found = Survey()
    try:
        _survey(directory, found, everything)
    except OSError as error:
        raise StateError(f"the journal in {directory} cannot be read ({error.strerror or error})") from None
    return found


def _survey(directory: Path, found: Survey, everything: bool) -> None:
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    firsts = sorted({int(match[1]) for match in map(NAME.match, names) if match})
    state = load_state(directory)
    if not isinstance(state, JournalState):
        found.unusable = [Segment(directory, first, "") for first in firsts]
        if firsts or state is not None:
            why = state or f"{directory / STATE_NAME} is missing"
            found.damages.append(f"{why}: whose stream the journal holds is not known, nothing in it is used")
        return
    found.state = state
    for number, first in enumerate(firsts):
        segment = Segment(directory, first, "")
        try:
            _look(segment, found, state, everything or number >= len(firsts) - DEPTH)
        except FileNotFoundError:
            continue  # a daemon at work has released it since


def _look(segment: Segment, found: Survey, state: JournalState, closely: bool) -> None:
    trouble = _identify(segment, state)
    if trouble is not None:
        found.unusable.append(segment)
        if trouble:
            found.damages.append(trouble)
        return
    if closely or not _plausible(segment):
        trouble = verify(segment)
        if trouble is not None:
            found.damages.append(trouble)
    _place(segment, found)


def _identify(segment: Segment, state: JournalState) -> str | None:
    """Why ``segment`` cannot be used, "" when there is nothing in it to speak of; None when it can."""
    log, idx = segment.log_path, segment.index_path
    if not log.exists():
        if not idx.exists():
            raise FileNotFoundError
        return f"{log.name} is missing: the bytes from offset {segment.first} on were removed"
    size = log.stat().st_size  # before the index is looked at: a segment that is just being made is empty
    if not idx.exists():
        return _unless_empty(
            size,
            f"{idx.name} is missing: {size} bytes from offset {segment.first} on cannot be checked and are not used",
        )
    header = _read_header(idx)
    if header is None:
        return _unless_empty(
            size, f"{idx.name}: damaged header: {size} bytes from offset {segment.first} on are not used"
        )
    if header.journal_id != state.journal_id or header.first != segment.first:
        return f"{log.name} belongs to another journal (its header says {header.replid}:{header.first}): not used"
    if not state.history.knows(Position(header.replid, segment.first)):
        return f"{log.name} is of replid {header.replid}, which this journal has not at {segment.first}: not used"
    segment.replid = header.replid
    return None


def _unless_empty(size: int, trouble: str) -> str:
    """A crash while a segment was made leaves an empty file; that is no damage."""
    return trouble if size else ""


def _read_header(path: Path) -> Header | None:
    with path.open("rb") as file:
        return index.unpack_header(file.read(HEADER_SIZE), str(path))


def _plausible(segment: Segment) -> bool:
    """Whether the last record says what the size of the files says; then ``segment`` gets its figures from there."""
    size = segment.log_path.stat().st_size
    fd = os.open(segment.index_path, os.O_RDONLY)
    try:
        count, rest = divmod(os.fstat(fd).st_size - HEADER_SIZE, RECORD_SIZE)
        if rest or not count:
            return not rest and not size
        ahead = max(0, count - _LOOK_BACK)
        records = index.read_records(fd, ahead, count - ahead)
        if index.read_records(fd, 0, 1)[0].offset != segment.first or records[-1].end != segment.first + size:
            return False
    finally:
        os.close(fd)
    chunks = [record for record in records if record.length]
    segment.end = segment.first + size
    segment.records = count
    segment.last_ms = chunks[-1].value if chunks else int(segment.log_path.stat().st_mtime * 1000)
    return True


def _place(segment: Segment, found: Survey) -> None:
    """Add ``segment`` to the newest run, or begin a new one."""
    if not found.runs:
        found.runs.append([segment])
        return
    before = found.runs[-1][-1]
    if segment.first == before.end:
        found.runs[-1].append(segment)
    elif segment.first < before.end:
        found.unusable.append(segment)
        found.damages.append(f"{segment.log_path.name} overlaps the bytes up to offset {before.end}: not used")
    elif segment.end == segment.first:
        found.unusable.append(segment)  # nothing in it, and nothing before it: it would only hide the older run
    else:
        found.runs.append([segment])
        found.damages.append(f"bytes {before.end}..{segment.first} are missing from the journal")
