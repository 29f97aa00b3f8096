"""The journal as its users see it: what is appended comes back, through cuts, changes of replid and reopening."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from canal.errors import StateError
from canal.journal import index
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


def test_reset_forgets_everything(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    fill(journal, 1000)
    journal.reset(Position(B, 70))
    assert (journal.start, journal.end, journal.durable_end, journal.replids) == (70, 70, 70, [(B, 70)])
    journal.append(b"new", 1)
    assert content(journal) == b"new"
    journal = reopened(journal)
    assert (journal.start, journal.end, journal.replids) == (70, 73, [(B, 70)])
    assert len(list(journal.directory.iterdir())) == 3
    journal.close()


def test_reset_to_the_same_offset_does_not_mix_two_streams(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"old old", 1)
    journal.flush()
    journal.reset(Position(A, 500))
    journal.append(b"new", 1)
    assert content(journal) == b"new"


def test_continues_under_another_replid(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"12345", 1)
    journal.continue_as(A)
    assert journal.replids == [(A, 500)]
    journal.continue_as(B)
    journal.append(b"67890", 1)
    assert journal.position == Position(B, 510)
    assert (journal.replid_at(505), journal.replid_at(504), journal.replid_at(510)) == (B, A, B)
    assert content(journal) == b"1234567890"
    journal = reopened(journal)
    assert journal.replids == [(A, 500), (B, 505)]
    assert content(journal) == b"1234567890"
    journal.close()


def test_covers_what_lies_on_its_stream(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"12345", 1)
    journal.continue_as(B)
    journal.append(b"67890", 1)
    for position in (Position(A, 500), Position(A, 505), Position(B, 505), Position(B, 510), Position(B, 502)):
        assert journal.covers(position), position
    for position in (Position(A, 499), Position(A, 506), Position(B, 511), Position(C, 505)):
        assert not journal.covers(position), position


@pytest.mark.parametrize("wait", [True, False], ids=["written", "pending"])
@pytest.mark.parametrize("cut", [500, 501, 1507, 1508, 1509, 5000, 8499, 8500])
def test_truncates_anywhere(journal: Journal, cut: int, wait: bool) -> None:
    journal.reset(Position(A, 500))
    data = fill(journal, 1000)
    if wait:
        journal.flush()
    journal.truncate(cut)
    assert journal.end == cut
    assert journal.durable_end <= cut
    journal.append(b"another way", 1)
    expected = data[: cut - 500] + b"another way"
    assert content(journal) == expected
    journal = reopened(journal)
    assert content(journal) == expected
    journal.close()


def test_truncate_takes_back_a_change_of_replid(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"12345", 1)
    journal.continue_as(B)
    journal.append(b"67890", 1)
    journal.truncate(503)
    assert journal.position == Position(A, 503)
    journal.continue_as(C)
    journal.append(b"xyz", 1)
    assert journal.replids == [(A, 500), (C, 503)]
    assert not journal.covers(Position(A, 504))
    assert content(journal) == b"123xyz"
    journal = reopened(journal)
    assert journal.replids == [(A, 500), (C, 503)]
    journal.close()


def test_truncate_outside_is_refused(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"12345", 1)
    for offset in (499, 506):
        with pytest.raises(ValueError, match=f"between 500 and 505, got {offset}"):
            journal.truncate(offset)


def test_nothing_is_read_while_a_cut_is_on_its_way(journal: Journal) -> None:
    journal.reset(Position(A, 500))
    journal.append(b"12345", 1)
    journal.flush()
    cursor = journal.cursor()
    assert cursor.read(500, 10)
    held = journal._writer
    assert held is not None
    put, held.put = held.put, lambda item: None  # the writer does not get to it
    journal.truncate(502)
    journal.append(b"xx", 1)
    assert cursor.read(500, 10) == []
    assert journal.durable_end == 502
    held.put = put


def test_long_appends_become_chunks_that_fit_into_memory(journal: Journal) -> None:
    journal.reset(Position(A, 0))
    data = bytes(range(256)) * 16384
    journal.append(data[: len(data) - 5], 1)
    journal.append(data[len(data) - 5 :], 1)
    journal.flush()
    cursor = journal.cursor()
    offset, out = 0, b""
    while chunks := cursor.read(offset, 100):
        assert len(chunks) == 1
        assert len(chunks[0].data) <= 1 << 20
        out += chunks[0].data
        offset = chunks[0].end
    assert out == data


def test_what_arrives_together_is_one_chunk_with_the_first_time(journal: Journal) -> None:
    journal.reset(Position(A, 0))
    journal.flush()
    for number in range(100):
        journal.append(b"x" * 10, 5000 + number // 50 * 100)
    journal.flush()
    chunks = journal.cursor().read(0, 1 << 20)
    assert {chunk.received_ms for chunk in chunks} == {5000, 5100}
    assert len(chunks) < 20


def test_fsync_always_is_durable_only_when_synced(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync="always", reserve_bytes=0)
    journal.open()
    journal.reset(Position(A, 0))
    for number in range(20):
        journal.append(b"x" * 10, number)
        assert journal.flush()
        assert journal.durable_end == journal.end
    assert journal.syncs.count >= 20
    journal.close()


def test_fsync_everysec_syncs_by_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync="everysec", reserve_bytes=0)
    journal.open()
    journal.reset(Position(A, 0))
    journal.append(b"x", 1)
    deadline = time.monotonic() + 5
    while journal.syncs.count == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert journal.syncs.count == 1
    journal.close()


def test_pressure_is_told_and_taken_back(tmp_path: Path) -> None:
    told: SimpleQueue[bool] = SimpleQueue()
    journal = Journal(tmp_path, reserve_bytes=0, high_water_bytes=100_000, on_pressure=told.put)
    journal.open()
    journal.reset(Position(A, 0))
    journal.append(bytes(100_001), 1)
    assert told.get(timeout=5)
    assert not told.get(timeout=5)
    journal.close()


def test_fault_of_the_writer_is_told_and_nothing_more_accepted(tmp_path: Path) -> None:
    told: SimpleQueue[StateError] = SimpleQueue()
    journal = Journal(tmp_path, reserve_bytes=0, on_failed=told.put)
    journal.open()
    journal.reset(Position(A, 0))
    journal.flush()
    assert journal._writer is not None
    journal._writer.store.append = None  # type: ignore[assignment, method-assign]
    journal.append(b"x", 1)
    assert "the writer of the journal in" in str(told.get(timeout=5))
    with pytest.raises(StateError, match="failed: TypeError"):
        journal.append(b"x", 1)


def marks(journal: Journal) -> list[tuple[int, int]]:
    out = []
    for path in sorted(journal.directory.glob("*.idx")):
        records = index.unpack(path.read_bytes()[index.HEADER_SIZE :])
        out += [(record.value, record.db) for record in records if not record.length]
    return out


def test_marks_are_kept_sparsely(journal: Journal) -> None:
    journal.reset(Position(A, 0))
    data = fill(journal, 100)
    for offset in range(0, 800, 8):
        journal.mark(offset, 0 if offset < 400 else 3)
    journal.mark(5000, 7)  # beyond the end: not known yet
    assert content(journal) == data
    assert marks(journal) == [(0, 0), (400, 3)]
    journal.truncate(396)
    journal.append(b"rest", 1)
    assert content(journal) == data[:396] + b"rest"
    assert reopened(journal).end == 400


def test_releases_whole_segments_behind_the_margin(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1000, reserve_bytes=0, fsync="no", retain_bytes=2500, retain_seconds=0)
    journal.open()
    journal.reset(Position(A, 0))
    now = int(time.time() * 1000)
    for number in range(100):
        journal.append(b"%099d\n" % number, now - 60_000 + 100 * number)
    journal.flush()
    size = journal.size
    journal.release(5000)
    journal.flush()
    assert journal.start == 2000
    assert journal.size < size
    journal.release(1 << 40)
    journal.flush()
    assert journal.start >= 9000  # the segment that is being written stays
    assert journal.covers(Position(A, journal.start))
    assert content(journal).endswith(b"%099d\n" % 99)
    journal = reopened(journal)
    assert journal.start >= 9000
    journal.close()


def test_keeps_what_is_young(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1000, reserve_bytes=0, fsync="no", retain_bytes=0, retain_seconds=60)
    journal.open()
    journal.reset(Position(A, 0))
    now = int(time.time() * 1000)
    for number in range(40):
        journal.append(b"%099d\n" % number, now - 120_000 if number < 20 else now)
    journal.flush()
    journal.release(4000)
    journal.flush()
    assert journal.start == 2000
    journal.close()


def test_release_prunes_no_replid_that_is_needed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100, reserve_bytes=0, fsync="no", retain_bytes=0, retain_seconds=0)
    journal.open()
    journal.reset(Position(A, 0))
    for replid in (B, C):
        fill(journal, 50)
        journal.flush()
        journal.continue_as(replid)
    fill(journal, 50)
    journal.release(560)
    journal = reopened(journal)
    assert 450 <= journal.start <= 560
    assert journal.replids == [(B, 400), (C, 800)]
    assert journal.covers(Position(B, 560))
    journal.close()
