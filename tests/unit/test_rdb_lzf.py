"""Compressed text: unpacked as it arrives however it is cut, and long strings that never stand in memory whole."""

from __future__ import annotations

import random

import lzf
import pytest

from canal.errors import RdbError
from canal.rdb.events import Key, KeyEnd, KeyStart, PlainRun, ValuePart
from canal.rdb.lzf_stream import Unpacker
from canal.rdb.plain import SET, PlainKeys
from canal.rdb.reader import RdbReader
from canal.rdb.wire import Malformed
from tests.support.rdb_apply import read
from tests.support.rdb_build import key, length, rdb, select, string

MIB = 1 << 20


def packed(text: bytes) -> bytes:
    """As a compressed string of an RDB."""
    data = lzf.compress(text)
    assert data is not None
    return b"\xc3" + length(len(data)) + length(len(text)) + data


def texts() -> list[bytes]:
    chance = random.Random(11)
    found = [b"x" * 1000, b"ab" * 50_000, bytes(300_000), b"0123456789" * 9000 + chance.randbytes(500)]
    for _ in range(20):
        words = [chance.randbytes(chance.randrange(1, 30)) for _ in range(chance.randrange(1, 20))]
        found.append(b"".join(chance.choice(words) for _ in range(chance.randrange(50, 5000))))
    return found


@pytest.mark.parametrize("most", [1, 5000])
def test_text_comes_out_as_it_was_however_it_is_cut(most: int) -> None:
    chance = random.Random(most)
    for text in texts():
        data = lzf.compress(text)
        if data is None:  # it would not get shorter
            continue
        unpacker, at, out = Unpacker(len(text)), 0, []
        while at < len(data):
            size = chance.randint(1, most)
            out.append(unpacker.feed(data[at : at + size]))
            at += size
        unpacker.finish()
        assert b"".join(out) == text


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (b"\x00a\x20\x05", 4, "before the beginning"),
        (b"\x03abcd", 3, "longer than it announces"),
        (b"\x00a\xe0\xff\x00", 100, "longer than it announces"),
        (b"\x03abcd", 5, "ends 1 bytes before"),
        (b"\x03abcd\x20", 7, "ends 3 bytes before"),
    ],
)
def test_what_is_no_such_text_is_refused(data: bytes, size: int, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        unpacker = Unpacker(size)
        unpacker.feed(data)
        unpacker.finish()


def long_text(size: int) -> bytes:
    return (b"all of it alike " * 64 + b"%d") * (size // 1025)


@pytest.mark.parametrize("piece", [997, 64 << 10, 1 << 30])
def test_a_long_compressed_string_comes_in_parts(piece: int) -> None:
    text = long_text(9 * MIB)
    data = rdb(select(0), key(0, b"long", packed(text)), key(0, b"after", string(b"short")))
    found = list(read(data, piece=piece))
    start = next(event for event in found if isinstance(event, KeyStart))
    assert (start.key, start.count) == (b"long", len(text))
    assert b"".join(event.data for event in found if isinstance(event, ValuePart)) == text
    end = next(event for event in found if isinstance(event, KeyEnd))
    assert data[end.end : end.end + 7] == b"\x00\x05after"


def test_runs_of_ordinary_keys_stop_before_it() -> None:
    text = long_text(9 * MIB)
    block = key(0, b"first", string(b"1")) + key(0, b"long", packed(text)) + key(0, b"after", string(b"2"))
    shapes = bytearray(256)
    shapes[0] = SET
    plain = PlainKeys(bytes(shapes), 10, True, b"redis-canal:", None, 0, 0, 1000, 1 << 20, 24 * MIB)
    run = plain.take(block, 0, 0, 0)
    assert isinstance(run, PlainRun)
    assert (run.keys, run.after) == (1, len(key(0, b"first", string(b"1"))))


@pytest.mark.parametrize("piece", [1000, 1 << 30])
def test_a_broken_long_string_is_an_error_at_its_place(piece: int) -> None:
    text = long_text(9 * MIB)
    good, size = packed(text), length(len(text))
    for wrong in (len(text) - 1, len(text) + 1):
        bad = good.replace(size, length(wrong), 1)
        data = rdb(select(0), key(0, b"long", bad), key(0, b"after", string(b"short")))
        with pytest.raises(RdbError) as raised:
            list(read(data, piece=piece))
        assert raised.value.offset == data.index(b"long") + 4


def test_it_is_never_in_memory_whole() -> None:
    text = long_text(32 * MIB)
    data = rdb(select(0), key(0, b"long", packed(text)))
    reader, made, longest = RdbReader(), 0, 0
    for at in range(0, len(data), 64 << 10):
        for event in reader.feed(data[at : at + (64 << 10)]):
            assert not isinstance(event, Key)
            if isinstance(event, ValuePart):
                made += len(event.data)
                longest = max(longest, len(event.data))
    reader.finish()
    assert made == len(text)
    assert longest < 6 * MIB  # 64 KiB stand for 5.6 MiB at the most
