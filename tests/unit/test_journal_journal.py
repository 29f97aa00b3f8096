"""The journal as its users see it: what is appended comes back, through cuts, changes of replid and reopening."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from canal.errors import StateError
from canal.journal.chunk import Chunk, JournalDamaged
from canal.journal.journal import Journal
from canal.position import Position

A, B, C = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", segment_bytes=1000, reserve_bytes=0, fsync="no")
    journal.open()
    yield journal
    journal.close()


def content(journal: Journal, start: int | None = None) -> bytes:
    """All bytes that the files hold from ``start`` on."""
    assert journal.flush()
    cursor = journal.cursor()
    offset = journal.start if start is None else start
    out = b""
    while chunks := cursor.read(offset, 700):
        for chunk in chunks:
            assert chunk.offset == offset
            out += chunk.data
            offset = chunk.end
    cursor.forget()
    assert offset == journal.durable_end
    return out


def reopened(journal: Journal) -> Journal:
    journal.close()
    other = Journal(journal.directory, segment_bytes=1000, reserve_bytes=0, fsync="no")
    assert other.open().damages == []
    return other


def fill(journal: Journal, count: int, start: int = 0) -> bytes:
    data = [b"%07d\n" % number for number in range(start, start + count)]
    for number, piece in enumerate(data):
        journal.append(piece, 1000 + 10 * number)
    return b"".join(data)


def test_begins_without_a_position(journal: Journal) -> None:
    assert not journal.positioned
    assert journal.position is None
    assert not journal.covers(Position(A, 0))
    with pytest.raises(StateError, match="has no position yet"):
        journal.append(b"x", 1)


def test_gives_back_what_was_appended(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    assert journal.append(b"hello", 7) == Chunk(500, b"hello", 7)
    assert journal.append(memoryview(b" world"), 8) == Chunk(505, b" world", 8)
    assert journal.position == Position(A, 511)
    assert content(journal) == b"hello world"
    assert content(journal, 508) == b"rld"


def test_is_the_same_after_reopening(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    data = fill(journal, 1000)
    journal = reopened(journal)
    assert (journal.start, journal.end, journal.replids) == (500, 8500, [(A, 500)])
    assert content(journal) == data
    data += fill(journal, 300, 1000)
    journal = reopened(journal)
    assert content(journal) == data
    journal.close()


def test_damaged_offsets(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    with pytest.raises(JournalDamaged, match="begins at 500"):
        journal.append(b"x", 1)
        journal.flush()
        journal.cursor().read(499, 10)
