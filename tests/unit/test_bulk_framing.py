"""Where a snapshot begins and ends in what is received."""

from __future__ import annotations

import pytest

from canal.bulk import MARK_SIZE, MAX_LINE, BulkReader
from canal.errors import PeerError, ProtocolError, Unready

MARK = bytes(range(48, 58)) + b"abcdefghijklmnopqrstuvwxyz1234"
RDB = b"REDIS0011\n$5\r\n*3\r\n\xff" + b"x" * 100


class Taken:
    """What a reader hands on. Each call's view is checked for being usable, then copied."""

    def __init__(self) -> None:
        self.headers: list[int | None] = []
        self.parts: list[bytes] = []
        self.reader = BulkReader(self.headers.append, lambda view: self.parts.append(bytes(view)))

    def feed(self, data: bytes, step: int = 1 << 20) -> bytes:
        """Feed in pieces of `step` through one reused buffer; what is left once it is done."""
        buffer = bytearray(step + 16)
        at = 0
        while at < len(data) and not self.reader.done:
            piece = data[at : at + step]
            buffer[7 : 7 + len(piece)] = piece
            used = self.reader.feed(buffer, 7, 7 + len(piece)) - 7
            assert used == len(piece) or self.reader.done
            at += used
        return data[at:]

    @property
    def rdb(self) -> bytes:
        assert self.reader.received == sum(map(len, self.parts))
        return b"".join(self.parts)


@pytest.mark.parametrize("step", [1, 2, 7, 39, 40, 41, 64, 1 << 20])
def test_with_a_length(step: int) -> None:
    taken = Taken()
    rest = taken.feed(b"\n\n$%d\r\n" % len(RDB) + RDB + b"*1\r\n", step)
    assert (taken.rdb, rest, taken.headers) == (RDB, b"*1\r\n", [len(RDB)])


@pytest.mark.parametrize("step", [1, 2, 7, 39, 40, 41, 64, 1 << 20])
def test_with_a_mark(step: int) -> None:
    taken = Taken()
    rest = taken.feed(b"\n$EOF:" + MARK + b"\r\n" + RDB + MARK + b"*1\r\n", step)
    assert (taken.rdb, rest, taken.headers) == (RDB, b"*1\r\n", [None])


@pytest.mark.parametrize("step", [1, 3, 40, 1000])
@pytest.mark.parametrize("size", range(1, MARK_SIZE))
def test_beginnings_of_the_mark_are_data(size: int, step: int) -> None:
    decoys = MARK[:size] + b"!" + MARK[:size] + MARK[:size]
    taken = Taken()
    assert taken.feed(b"$EOF:" + MARK + b"\r\n" + decoys + MARK, step) == b""
    assert taken.reader.done and taken.rdb == decoys


@pytest.mark.parametrize("step", [1, 2, 5, 39, 40, 77])
def test_a_mark_that_repeats_itself(step: int) -> None:
    mark = b"a" * 39 + b"b"
    taken = Taken()
    assert taken.feed(b"$EOF:" + mark + b"\r\n" + b"a" * 60 + mark + b"rest", step) == b"rest"
    assert taken.rdb == b"a" * 60


def test_the_mark_in_three_pieces() -> None:
    for first in range(1, MARK_SIZE - 1):
        for second in range(first + 1, MARK_SIZE):
            taken = Taken()
            for piece in (b"$EOF:" + MARK + b"\r\nRDB" + MARK[:first], MARK[first:second], MARK[second:]):
                assert taken.feed(piece) == b""
            assert taken.reader.done and taken.rdb == b"RDB"


def test_pieces_are_not_copied() -> None:
    buffer = bytearray(b"$8\r\nREDIS0011")
    views: list[memoryview] = []
    BulkReader(lambda _: None, lambda view: views.append(view[:])).feed(buffer, 0, len(buffer))
    buffer[4:6] = b"SI"
    assert bytes(views[0]) == b"SIDIS001"


def test_no_bytes_at_all() -> None:
    taken = Taken()
    assert taken.feed(b"$0\r\n*1\r\n") == b"*1\r\n"
    assert (taken.reader.done, taken.rdb, taken.headers) == (True, b"", [0])


def test_the_header_comes_before_the_first_byte() -> None:
    taken = Taken()
    taken.feed(b"$5\r\n")
    assert taken.headers == [5] and taken.parts == [] and not taken.reader.done


@pytest.mark.parametrize(
    "line",
    [
        b"*1",
        b"REDIS0011",
        b"$",
        b"$-1",
        b"$ 5",
        b"$5x",
        b"$0x10",
        b"$281474976710657",
        b"$99999999999999999999",
        b"$EOF:",
        b"$EOF:" + MARK[:-1],
        b"$EOF:" + MARK + b"x",
        b"$ENDOFF:1 x 0 1",
        b"+OK",
    ],
)
def test_headers_that_are_none(line: bytes) -> None:
    taken = Taken()
    with pytest.raises(ProtocolError, match="expected the snapshot's header"):
        taken.feed(line + b"\r\n")
    assert taken.headers == [] and taken.parts == []


def test_an_endless_header_is_bounded() -> None:
    with pytest.raises(ProtocolError, match=f"more than {MAX_LINE} bytes"):
        Taken().feed(b"$" * (MAX_LINE + 1), 1)
    with pytest.raises(ProtocolError, match=f"more than {MAX_LINE} bytes"):
        Taken().feed(b"$" * 500_000)


def test_endless_keepalives_take_no_memory() -> None:
    taken = Taken()
    taken.feed(b"\n" * 100_000 + b"\r\n", 1000)
    assert taken.headers == [] and not taken.reader.done


def test_a_source_that_gives_up() -> None:
    with pytest.raises(Unready, match="gave the snapshot up: ERR no memory") as raised:
        Taken().feed(b"\n-ERR no memory\r\n")
    assert isinstance(raised.value, PeerError) and raised.value.transient


def test_where_it_stood() -> None:
    taken = Taken()
    assert taken.reader.closed() == "while it prepared the snapshot"
    taken.feed(b"$100\r\nabc")
    assert taken.reader.closed() == "after 3 of 100 bytes of the snapshot"
    diskless = Taken()
    diskless.feed(b"$EOF:" + MARK + b"\r\nabc")
    assert diskless.reader.closed() == "after 3 bytes of the snapshot"
