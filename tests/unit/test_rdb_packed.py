"""Packed encodings entry by entry, against blobs built by another hand, and blobs that lie."""

from __future__ import annotations

import struct

import pytest

from canal.errors import RdbError
from canal.rdb.decode import ArrayValue, HashValue, decode
from canal.rdb.packed import intset, listpack, ziplist, zipmap
from canal.rdb.wire import Malformed
from tests.support import rdb_build as build

ZIPLIST_ENTRIES = [
    (b"\x00", b""),
    (b"\x05hello", b"hello"),
    (b"\x41\x2c" + b"x" * 300, b"x" * 300),
    (b"\x80\x00\x00\x40\x00" + b"y" * 16384, b"y" * 16384),
    (b"\xc0" + build.little(-32768, 2), -32768),
    (b"\xf0" + build.little(-8388608, 3), -8388608),
    (b"\xd0" + build.little(2147483647, 4), 2147483647),
    (b"\xe0" + build.little(-(2**63), 8), -(2**63)),
    (b"\xfe" + build.little(-128, 1), -128),
    (b"\xf1", 0),
    (b"\xfd", 12),
]

LISTPACK_VALUES: list[bytes | int] = [
    *(0, 127, 128, -1, 4095, -4096, 4096, 32767, -32768, 32768, -8388608, 8388608, 2**31 - 1, 2**31, -(2**63)),
    *(b"", b"a", b"x" * 63, b"x" * 64, b"x" * 4095, b"x" * 4096, b"x" * 16380, b"x" * 70000),
]


def test_a_listpack_entry_whose_own_length_takes_more_bytes() -> None:
    for size in (*range(120, 135), *range(16_375, 16_390), 2_097_145, 2_097_150, 2_097_160):
        raw = build.listpack(build.lp_text(b"x" * size), build.lp_int(7))
        assert listpack(raw) == [b"x" * size, 7], size


def test_every_form_of_a_ziplist_entry() -> None:
    blob = build.ziplist(*(raw for raw, _ in ZIPLIST_ENTRIES))
    assert ziplist(blob) == [value for _, value in ZIPLIST_ENTRIES]
    assert ziplist(build.ziplist()) == []


def test_every_form_of_a_listpack_entry() -> None:
    raw = [build.lp_text(value) if isinstance(value, bytes) else build.lp_int(value) for value in LISTPACK_VALUES]
    assert listpack(build.listpack(*raw)) == LISTPACK_VALUES
    assert listpack(build.listpack()) == []


@pytest.mark.parametrize("width", [2, 4, 8])
def test_intsets_of_every_width(width: int) -> None:
    members = [-(1 << width * 8 - 1), -1, 0, 7, (1 << width * 8 - 1) - 1]
    code = {2: "h", 4: "i", 8: "q"}[width]
    assert intset(struct.pack(f"<II5{code}", width, 5, *members)) == members


def test_zipmaps() -> None:
    # field length, field; value length, spare bytes, value, spare; lengths from 254 on take four more bytes
    long_text = b"v" * 300
    blob = b"\x02" + b"\x01f" + b"\x02\x03ab???" + b"\x04long" + b"\xfe" + build.little(300, 4) + b"\x00" + long_text
    blob += b"\xff"
    assert zipmap(blob) == [(b"f", b"ab"), (b"long", long_text)]
    assert decode(9, build.string(blob)) == HashValue({b"f": b"ab", b"long": long_text}, {})
    assert zipmap(b"\x00\xff") == []


BROKEN_ZIPLISTS = [
    b"",
    b"\x00" * 11,
    build.ziplist(b"\x05hello")[:-1],
    build.ziplist(b"\x05hello").replace(b"\x05hello", b"\x3fhello"),
    build.ziplist(b"\xf1").replace(b"\x00\xf1", b"\xfe\xf1"),
    build.ziplist(b"\xf1").replace(b"\xf1", b"\xff"),
    build.ziplist(b"\xe0" + b"\x00" * 2),
    build.ziplist(b"\x80\xff\xff\xff\xff"),
]


@pytest.mark.parametrize("blob", BROKEN_ZIPLISTS)
def test_a_broken_ziplist(blob: bytes) -> None:
    with pytest.raises(Malformed):
        ziplist(blob)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x07\x00\x00\x00\x00\x00\xfe",
        build.listpack(b"\x81a")[:-1],
        build.listpack(b"\xbfa"),
        build.listpack(b"\xf0\xff\xff\xff\xff"),
        build.listpack(b"\xf5"),
        build.listpack(b"\xf4\x00"),
    ],
)
def test_a_broken_listpack(blob: bytes) -> None:
    with pytest.raises(Malformed):
        listpack(blob)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (11, build.string(b"\x03\x00\x00\x00\x00\x00\x00\x00"), "2, 4 or 8 bytes a member, got 3"),
        (11, build.string(struct.pack("<II", 2, 1 << 30)), "says it has 1073741824 members"),
        (11, build.string(b"\x02"), "an intset of 1 bytes"),
        (9, build.string(b"\x01\x01f\xff"), "ends within a pair"),
        (9, build.string(b"\x01\x09f\xff"), "leaves its zipmap"),
        (13, build.string(build.ziplist(b"\xf1")), "groups of 2 entries, got 1"),
        (25, b"\x00" * 8 + build.string(build.listpack(b"\x01", b"\x02", b"\x81x")), "a field's deadline"),
        (12, build.string(build.ziplist(b"\x01m", b"\x03abc")), "expected a score, got b'abc'"),
        (12, build.string(build.ziplist(b"\x01m", b"\x03nan")), "not a number"),
        (5, b"\x01\x01m" + struct.pack("<d", float("nan")), "not a number"),
        (3, b"\x01\x01m\xfd", "not a number"),
        (18, b"\x01\x03\x01a", "node of kind 1 or 2, got 3"),
        (1, b"\x01\x01ab", "1 bytes follow the end"),
        (1, b"\x02\x01a", "ends before its byte 4"),
        (0, b"\xc3\x01\x40\xff\x00", "1 LZF bytes cannot expand to 255"),
        (0, b"\xc3\x02\x05\x00a", "does not expand to the 5 bytes"),
        (0, b"\xc3\x02\x05\xff\xff", "does not expand"),
        (0, b"\xc4", "encoding byte 0xc4"),
        (28, b"\x01\x00\x00\x09", "array element, got tag 9"),
        (30, build.string(build.listpack(b"\x01")), "template of 0 fields"),
        (99, b"", "value type 99 cannot be decoded"),
    ],
)
def test_a_broken_value_is_an_rdb_error(kind: int, value: bytes, says: str) -> None:
    with pytest.raises(RdbError, match=says) as caught:
        decode(kind, value, key=b"the key")
    assert caught.value.key == b"the key"


def test_scores_of_every_form() -> None:
    value = b"\x04\x01a\x031.5\x01b\xfe\x01c\xff\x01d\x14" + b"0.30000000000000004"[:20].rjust(20, b"0")
    assert decode(3, value) == {b"a": 1.5, b"b": float("inf"), b"c": float("-inf"), b"d": 0.1 + 0.2}
    packed = build.ziplist(b"\x01a", b"\xfe\xff", b"\x01b", b"\x03inf", b"\x01c", b"\x041e21")
    assert decode(12, build.string(packed)) == {b"a": -1.0, b"b": float("inf"), b"c": 1e21}


def test_arrays() -> None:
    """Layout deduced from Redis 8.10; the indices and values are those that a client had set."""
    items = b"\x00\x03\x03mil" + b"\x07\x01" + build.little(-12, 8) + b"\x09\x02" + struct.pack("<d", 0.5)
    value = b"\x04\x01\x05" + items + b"\x0a\x00\x02ok"
    assert decode(28, value) == ArrayValue({0: b"mil", 7: -12, 9: 0.5, 10: b"ok"}, 5)
