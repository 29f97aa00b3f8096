"""The pure parts of the journal: its history of replids, its list of work, its decisions what may go, its records."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from canal.journal import index
from canal.journal.chunk import Chunk
from canal.journal.index import HEADER_SIZE, RECORD_SIZE, Header
from canal.journal.retention import Limits, disposable, disposable_for_room
from canal.journal.segment import Segment
from canal.journal.state import History, JournalState, load_state
from canal.journal.work import GROUP_BYTES, GROUP_MS, MAX_CHUNK, Continue, Flush, Group, Mark, Reset, Truncate, WorkList
from canal.position import Position

A, B, C = "a" * 40, "b" * 40, "c" * 40


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_says_which_replid_was_in_use() -> None:
    history = History([(A, 10), (B, 20), (C, 30)])
    assert [history.at(offset) for offset in (5, 10, 19, 20, 29, 30, 99)] == [A, A, A, B, B, C, C]
    assert History().at(5) is None


@pytest.mark.parametrize(
    ("replid", "offset", "known"),
    [
        (A, 10, True),
        (A, 20, True),  # the fork itself belongs to both
        (A, 21, False),  # what the old master wrote beyond it is another stream
        (B, 15, True),  # a successor's id is good for its past, as it is for PSYNC
        (B, 30, True),
        (B, 31, False),
        (C, 99, True),
        ("d" * 40, 15, False),
    ],
)
def test_history_knows_its_positions(replid: str, offset: int, known: bool) -> None:
    assert History([(A, 10), (B, 20), (C, 30)]).knows(Position(replid, offset)) is known


def test_history_changes() -> None:
    history = History([(A, 10), (B, 20)])
    assert history.continued(B, 40) is history
    assert history.continued(C, 40).entries == [(A, 10), (B, 20), (C, 40)]
    assert history.continued(C, 20).entries == [(A, 10), (B, 20), (C, 20)]
    assert history.continued(C, 15).entries == [(A, 10), (C, 15)]
    assert history.cut(19).entries == [(A, 10)]
    assert history.cut(20).entries == [(A, 10), (B, 20)]
    assert history.cut(5).entries == [(A, 10)]
    assert history.pruned(20).entries == [(A, 10), (B, 20)]
    assert history.pruned(21).entries == [(B, 20)]


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    state = JournalState.fresh(Position(A, 10))
    state.history = state.history.continued(B, 20)
    state.save(tmp_path)
    assert load_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["journal.json"]
    assert JournalState.fresh().journal_id != JournalState.fresh().journal_id


# -- work --------------------------------------------------------------------------------------------------------------


def work(*items: Chunk | Mark | Continue | Truncate | Reset | Flush) -> list[object]:
    """What is left to do after adding ``items``; groups as (offset, bytes, time)."""
    out: list[object] = []
    todo = WorkList()
    for item in items:
        todo.add(item)
    while todo:
        first = todo.first
        if isinstance(first, Group):
            assert first.end - first.offset == len(first.data())
            out.append((first.offset, first.data(), first.received_ms))
        else:
            out.append(first)
        todo.done()
    return out


def test_what_comes_together_is_one_group() -> None:
    assert work(Chunk(0, b"ab", 7), Chunk(2, b"cd", 7 + GROUP_MS)) == [(0, b"abcd", 7)]


def test_time_that_passes_or_runs_back_begins_a_group() -> None:
    assert work(Chunk(0, b"ab", 7), Chunk(2, b"cd", 8 + GROUP_MS)) == [(0, b"ab", 7), (2, b"cd", 8 + GROUP_MS)]
    assert work(Chunk(0, b"ab", 7), Chunk(2, b"cd", 6)) == [(0, b"ab", 7), (2, b"cd", 6)]


def test_groups_are_bounded() -> None:
    piece = bytes(GROUP_BYTES // 4)
    chunks = [Chunk(number * len(piece), piece, 1) for number in range(6)]
    assert [len(data) for _, data, _ in work(*chunks)] == [GROUP_BYTES, GROUP_BYTES // 2]  # type: ignore[misc]


def test_a_long_append_is_split() -> None:
    data = bytes(range(251)) * (MAX_CHUNK // 100)
    groups = work(Chunk(5, data, 1))
    assert [offset for offset, _, _ in groups] == list(range(5, 5 + len(data), MAX_CHUNK))  # type: ignore[misc]
    assert b"".join(piece for _, piece, _ in groups) == data  # type: ignore[misc]
    assert all(len(piece) <= MAX_CHUNK for _, piece, _ in groups)  # type: ignore[misc]


def test_marks_and_replids_keep_their_place() -> None:
    assert work(Chunk(0, b"ab", 1), Mark(1, 3), Chunk(2, b"cd", 1), Continue(B, 4), Chunk(4, b"ef", 1)) == [
        (0, b"ab", 1),
        Mark(1, 3),
        (2, b"cd", 1),
        Continue(B, 4),
        (4, b"ef", 1),
    ]


def test_a_cut_makes_later_work_void() -> None:
    cut = Truncate(3, 1)
    assert work(
        Chunk(0, b"ab", 1), Mark(1, 0), Chunk(2, b"cd", 1), Mark(4, 0), Continue(B, 4), cut, Chunk(3, b"X", 1)
    ) == [(0, b"ab", 1), Mark(1, 0), (2, b"c", 1), cut, (3, b"X", 1)]
    cut = Truncate(4, 1)
    assert work(Chunk(2, b"cd", 1), Mark(4, 0), Continue(B, 4), Chunk(4, b"ef", 1), cut) == [
        (2, b"cd", 1),
        Mark(4, 0),
        Continue(B, 4),
        cut,
    ]


def test_a_reset_makes_all_work_void_but_who_waits() -> None:
    flush, reset = Flush(threading.Event()), Reset(Position(B, 9), 2)
    assert work(Chunk(0, b"ab", 1), flush, Truncate(1, 1), Continue(B, 1), reset, Chunk(9, b"X", 1)) == [
        flush,
        reset,
        (9, b"X", 1),
    ]


# -- retention ---------------------------------------------------------------------------------------------------------


def segments(*ends: int) -> list[Segment]:
    out = []
    start = 0
    for number, end in enumerate(ends):
        segment = Segment(Path("/nowhere"), start, A)
        segment.end, segment.last_ms = end, 1000 * number
        out.append(segment)
        start = end
    return out


@pytest.mark.parametrize(
    ("applied", "now_ms", "count"),
    [
        (-1, 10**9, 0),
        (149, 10**9, 0),
        (150, 10**9, 1),  # the first ends at 100, the margin is 50
        (250, 10**9, 2),
        (250, 5999, 1),  # the second was received at 1000 and is not 5 s old yet
        (250, 4999, 0),
        (10**9, 10**9, 3),  # never the newest
    ],
)
def test_what_may_go(applied: int, now_ms: int, count: int) -> None:
    limits = Limits(retain_bytes=50, retain_seconds=5)
    assert disposable(segments(100, 200, 300, 400), applied, now_ms, limits) == count


@pytest.mark.parametrize(
    ("applied", "wanted", "count"), [(99, 1, 0), (100, 1, 1), (400, 1, 1), (400, 300, 2), (400, 10**9, 3)]
)
def test_what_may_go_for_room(applied: int, wanted: int, count: int) -> None:
    assert disposable_for_room(segments(100, 200, 300, 400), applied, wanted) == count


def test_a_bounded_journal_has_segments_that_can_go() -> None:
    assert Limits(segment_bytes=64, max_bytes=0).roll_bytes == 64
    assert Limits(segment_bytes=64, max_bytes=80).roll_bytes == 10


# -- records -----------------------------------------------------------------------------------------------------------


def test_header_is_read_as_it_was_written() -> None:
    header = Header(1 << 60, bytes(range(16)), "0123456789abcdef" * 2 + "01234567")
    data = index.pack_header(header)
    assert len(data) == HEADER_SIZE == 72
    assert index.unpack_header(data + b"more", "x.idx") == header
    for size in range(HEADER_SIZE):
        assert index.unpack_header(data[:size], "x.idx") is None
    for at in range(HEADER_SIZE):
        assert index.unpack_header(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "x.idx") is None


def test_record_vouches_for_itself_and_its_data() -> None:
    data = b"some bytes of the stream"
    raw = index.pack_chunk(1 << 50, data, 1_790_000_000_123)
    assert len(raw) == RECORD_SIZE == 32
    (record,) = index.unpack(raw + b"part of the next")
    assert (record.offset, record.end, record.value, record.db) == (1 << 50, (1 << 50) + 24, 1_790_000_000_123, -1)
    assert index.sound(record, data)
    assert not index.sound(record, data[:-1])
    assert not index.sound(record, b"Some bytes of the stream")
    for bit in range(RECORD_SIZE * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not index.sound(index.unpack(flipped)[0], data)


def test_mark_vouches_for_itself() -> None:
    raw = index.pack_mark(500, 460, 15)
    (record,) = index.unpack(raw)
    assert (record.offset, record.end, record.value, record.length, record.db) == (500, 500, 460, 0, 15)
    assert index.sound(record, b"")
    assert not index.sound(record._replace(db=14), b"")
    assert not index.sound(index.unpack(bytes(RECORD_SIZE))[0], b"")
