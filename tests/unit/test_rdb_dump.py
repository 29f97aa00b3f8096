"""DUMP payloads: made, taken apart and refused."""

from __future__ import annotations

import pytest

from canal.errors import RdbError
from canal.rdb.dump import crc64, decode_string, dump_payload, payload_version, split_payload

# What Redis 7.0 answers to DUMP after SET k 10 (observed).
TEN = b"\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb"


def test_a_payload_is_what_the_server_makes() -> None:
    assert dump_payload(0, b"\xc0\x0a", 10) == TEN


def test_crc64_is_redis_variant() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"6789", crc64(b"12345")) == crc64(b"123456789")


def test_a_payload_taken_apart() -> None:
    payload = split_payload(TEN)
    assert (payload.type, payload.value, payload.version, payload.meta) == (0, b"\xc0\x0a", 10, b"")


def test_a_checksum_of_0_is_not_checked() -> None:
    assert split_payload(TEN[:-8] + b"\0" * 8).value == b"\xc0\x0a"


@pytest.mark.parametrize("at", range(len(TEN)))
def test_any_changed_byte_is_noticed(at: int) -> None:
    broken = TEN[:at] + bytes([TEN[at] ^ 1]) + TEN[at + 1 :]
    with pytest.raises(RdbError, match="checksum of a DUMP payload does not match"):
        split_payload(broken)
    if 0 < at < 3:
        assert split_payload(broken, check=False).version == 10


@pytest.mark.parametrize("size", range(10))
def test_too_short_a_payload(size: int) -> None:
    with pytest.raises(RdbError, match=f"at least 10 bytes, this has {size}"):
        payload_version(TEN[:size])


def test_a_payload_without_a_value() -> None:
    empty = b"\x0a\x00"
    with pytest.raises(RdbError, match="without a value"):
        split_payload(empty + crc64(empty).to_bytes(8, "little"))


@pytest.mark.parametrize("meta", [b"\xf3", b"\xf3\x01", b"\xf3\x01abcd", b"\xf3\x01abcd\x05\x02x", b"\xf3\x01abcd\x00"])
def test_module_metadata_cut_short(meta: bytes) -> None:
    body = meta + b"\x0a\x00"
    with pytest.raises(RdbError, match="module metadata"):
        split_payload(body + crc64(body).to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x00", b""),
        (b"\x03abc", b"abc"),
        (b"\x40\x40" + b"x" * 64, b"x" * 64),
        (b"\x80\x00\x00\x40\x00" + b"x" * 16384, b"x" * 16384),
        (b"\x81" + (5).to_bytes(8, "big") + b"hello", b"hello"),
        (b"\xc0\xff", b"-1"),
        (b"\xc1\x00\x80", b"-32768"),
        (b"\xc2\xff\xff\xff\x7f", b"2147483647"),
        (b"\xc3\x04\x0a\x00a\xe0\x00"[:4] + b"", None),
    ],
)
def test_strings_of_every_form(value: bytes, text: bytes | None) -> None:
    if text is None:
        with pytest.raises(RdbError):
            decode_string(value)
    else:
        assert decode_string(value) == text


def test_bytes_after_a_string_are_an_error() -> None:
    with pytest.raises(RdbError, match="1 bytes follow the end of a string") as caught:
        decode_string(b"\x01ab")
    assert caught.value.offset == 2
