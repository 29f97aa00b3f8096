"""Lengths and strings as RDB files write them, read from a bytes object at a position.

Format: Redis src/rdb.h, "RDB_6BITLEN" and following. A length's first byte tells its form by the top two bits: 6 bits,
14 bits big-endian, 0x80 and 4 bytes big-endian, 0x81 and 8 bytes big-endian; top bits 11 mean a specially encoded
string: an integer of 1, 2 or 4 bytes little-endian, or LZF-compressed text.

Two exceptions, for use within canal.rdb only: ``Short`` when the bytes end too early, ``Malformed`` when they cannot
be right.
"""

from __future__ import annotations

from typing import Final

import lzf

# A compressed byte stands for at most 264/3 bytes of text: an honest length never exceeds this ratio.
_LZF_RATIO: Final = 90
_INT_BYTES: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
LZF: Final = 0xC3


class Short(Exception):
    """The bytes end before the item does. ``need``: position up to which bytes are needed, at the least."""

    def __init__(self, need: int) -> None:
        super().__init__(need)
        self.need = need


class Malformed(Exception):
    """What stands at position ``at`` cannot be right; ``message`` says what was expected and what came."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


def read_length(buf: bytes, pos: int) -> tuple[int, int]:
    """(length, position after it). Raises Short, or Malformed where a specially encoded string stands instead."""
    end = len(buf)
    if pos >= end:
        raise Short(pos + 1)
    first = buf[pos]
    if first < 0x40:
        return first, pos + 1
    if first < 0x80:
        if pos + 2 > end:
            raise Short(pos + 2)
        return (first & 0x3F) << 8 | buf[pos + 1], pos + 2
    if first == 0x80:
        if pos + 5 > end:
            raise Short(pos + 5)
        return int.from_bytes(buf[pos + 1 : pos + 5], "big"), pos + 5
    if first == 0x81:
        if pos + 9 > end:
            raise Short(pos + 9)
        return int.from_bytes(buf[pos + 1 : pos + 9], "big"), pos + 9
    raise Malformed(f"expected a length, got byte 0x{first:02x}", pos)


def skip_string(buf: bytes, pos: int) -> int:
    """Position after the string at ``pos``, which may lie beyond the end of ``buf``. Raises Short when even that is
    unknown.
    """
    if pos >= len(buf):
        raise Short(pos + 1)
    first = buf[pos]
    if first < 0x40:
        return pos + 1 + first
    if first < 0xC0:
        length, pos = read_length(buf, pos)
        return pos + length
    if first == LZF:
        packed, pos = read_length(buf, pos + 1)
        _, pos = read_length(buf, pos)
        return pos + packed
    width = _INT_BYTES.get(first, 0)
    if width == 0:
        raise Malformed(f"expected a string, got encoding byte 0x{first:02x}", pos)
    return pos + 1 + width


def read_string(buf: bytes, pos: int) -> tuple[bytes, int]:
    """(text, position after it), integers and LZF resolved. Raises Short or Malformed; allocates no more than bytes
    warrant.
    """
    size = len(buf)
    if pos < size and buf[pos] < 0x40:
        end = pos + 1 + buf[pos]
        if end <= size:
            return buf[pos + 1 : end], end
    end = skip_string(buf, pos)
    if end > size:
        raise Short(end)
    first = buf[pos]
    if first < 0xC0:
        _, start = read_length(buf, pos)
        return buf[start:end], end
    if first == LZF:
        return _decompress(buf, pos), end
    return b"%d" % int.from_bytes(buf[pos + 1 : end], "little", signed=True), end


def packed_size(buf: bytes, at: int) -> tuple[int, int, int]:
    """Of the compressed string at ``at``: its packed bytes, those of its text, where the packed ones begin. Raises
    Short, and Malformed where the one cannot be the other's size.
    """
    packed, pos = read_length(buf, at + 1)
    length, pos = read_length(buf, pos)
    if length > packed * _LZF_RATIO:
        raise Malformed(f"{packed} LZF bytes cannot expand to {length}", at)
    return packed, length, pos


def _decompress(buf: bytes, at: int) -> bytes:
    packed, length, pos = packed_size(buf, at)
    if length == 0:
        if packed == 0:
            return b""
        raise Malformed(f"{packed} LZF bytes cannot expand to nothing", at)
    text = _lzf(buf[pos : pos + packed], length)
    if text is None or len(text) != length:
        raise Malformed(f"LZF text does not expand to the {length} bytes that it announces", at)
    return text


def _lzf(data: bytes, length: int) -> bytes | None:
    """The library call, wrapped: None where the text is longer than ``length`` or not LZF. Needs bytes, not empty."""
    try:
        text: bytes | None = lzf.decompress(data, length)
    except ValueError:  # broken references within the compressed text
        return None
    return text


def write_length(n: int) -> bytes:
    """The shortest form of a length; raises ValueError when it does not fit 64 bits."""
    if n < 0 or n >= 1 << 64:
        raise ValueError(f"a length must fit 64 bits, got {n}")
    if n < 0x40:
        return bytes((n,))
    if n < 0x4000:
        return bytes((0x40 | n >> 8, n & 0xFF))
    if n < 1 << 32:
        return b"\x80" + n.to_bytes(4, "big")
    return b"\x81" + n.to_bytes(8, "big")


def write_string(text: bytes) -> bytes:
    """``text`` as a plain string, neither packed nor compressed: every version reads it."""
    return write_length(len(text)) + text
