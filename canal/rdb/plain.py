"""Runs of ordinary keys → the commands that make them at a target, without an object per key.

Most keys of most snapshots are strings, or collections that the target takes over byte for byte. This function steps
over as many of them as stand in a block and writes their SET or RESTORE; it stops before whatever is not ordinary,
which `RdbReader` then reads as ever. This file is the reference as plain Python; the same file is compiled by mypyc
when the package is built with a C compiler at hand, and nothing but speed may differ. No I/O.
"""

from __future__ import annotations

import time
from typing import Any, Final, final

import anycrc
import lzf
from mypy_extensions import i64

from canal.rdb.events import PlainRun
from canal.rdb.wire import Malformed

SET: Final = 1  # a string: by SET
PACKED: Final = 2  # one string holds it all: intset, listpack …
STRINGS: Final = 3  # count, strings
PAIRS: Final = 4  # count, two strings each
SCORED: Final = 5  # count, string and eight bytes each
NODES: Final = 6  # count, length and string each
STREAM: Final = 7  # the streams of Redis 5.0, and after it those of 7.0 and 7.2
STREAM_2: Final = 8
STREAM_3: Final = 9
SHAPES: Final[dict[int, int]] = {
    0: SET,
    1: STRINGS,
    2: STRINGS,
    4: PAIRS,
    5: SCORED,
    14: STRINGS,
    18: NODES,
    **dict.fromkeys((9, 10, 11, 12, 13, 16, 17, 20), PACKED),
    15: STREAM,
    19: STREAM_2,
    21: STREAM_3,
}
"""How the value types look that runs can hold (Redis src/rdb.c, rdbSaveObject); other types are left alone."""

_CRC64: Final = anycrc.Model("CRC64-REDIS")
_LZF_RATIO: Final = 90  # see canal.rdb.wire
_LONG: Final = 1 << 20
_LONG_TEXT: Final = 8 << 20  # longer strings come in parts: see canal.rdb.reader
_RESERVED: Final = 12  # length of the prefix that is looked for
_TABLE: Final = 1024
_SETS: Final = [b"*3\r\n$3\r\nSET\r\n$%d\r\n" % size for size in range(_TABLE)]
_NEXT: Final = [b"\r\n$%d\r\n" % size for size in range(_TABLE)]
_CRLF: Final = b"\r\n"


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def skip(buf: bytes, at: i64, end: i64) -> i64:
    """The index after the string at ``at``; -1 where it cannot be told from what is here (too short, or not right)."""
    if at >= end:
        return -1
    first: i64 = buf[at]
    if first < 0x40:
        return at + 1 + first
    if first < 0x80:
        return at + 2 + ((first & 0x3F) << 8 | buf[at + 1]) if at + 1 < end else -1
    if first == 0x80:
        return at + 5 + big_endian(buf, at + 1) if at + 5 <= end else -1
    if first == 0xC0:
        return at + 2
    if first == 0xC1:
        return at + 3
    if first == 0xC2:
        return at + 5
    if first != 0xC3:
        return -1
    after = skip_length(buf, at + 1, end)
    if after < 0 or skip_length(buf, after, end) < 0:
        return -1
    packed = length(buf, at + 1, end)
    return skip_length(buf, after, end) + packed if packed >= 0 else -1


def big_endian(buf: bytes, at: i64) -> i64:
    """Four bytes, most significant first."""
    high: i64 = buf[at]
    second: i64 = buf[at + 1]
    third: i64 = buf[at + 2]
    low: i64 = buf[at + 3]
    return high << 24 | second << 16 | third << 8 | low


def length(buf: bytes, at: i64, end: i64) -> i64:
    """The length at ``at``; -1 where it is not here, or of a form that ordinary keys do not have."""
    if at >= end:
        return -1
    first: i64 = buf[at]
    if first < 0x40:
        return first
    if first < 0x80:
        return (first & 0x3F) << 8 | buf[at + 1] if at + 1 < end else -1
    if first == 0x80 and at + 5 <= end:
        return big_endian(buf, at + 1)
    return -1


def skip_length(buf: bytes, at: i64, end: i64) -> i64:
    """The index after the length at ``at``; -1 as `length` says."""
    if at >= end:
        return -1
    first: i64 = buf[at]
    if first < 0x40:
        return at + 1
    if first < 0x80:
        return at + 2
    return at + 5 if first == 0x80 and at + 5 <= end else -1


def skip_value(buf: bytes, at: i64, end: i64, shape: i64) -> i64:
    """The index after a value of this shape; -1 where that is not here or cannot be told."""
    if shape <= PACKED:
        return skip(buf, at, end)
    if shape >= STREAM:
        return skip_stream(buf, at, end, shape)
    left = length(buf, at, end)
    at = skip_length(buf, at, end)
    if at < 0 or left < 0:
        return -1
    while left > 0:
        if shape == NODES:
            at = skip_length(buf, at, end)
            if at < 0:
                return -1
        at = skip(buf, at, end)
        if at < 0:
            return -1
        if shape == PAIRS:
            at = skip(buf, at, end)
            if at < 0:
                return -1
        elif shape == SCORED:
            at += 8
        if at > end:
            return -1
        left -= 1
    return at


def skip_lengths(buf: bytes, at: i64, end: i64, count: i64) -> i64:
    """The index after so many lengths of any form; -1 where they are not all here."""
    while count > 0 and at >= 0:
        at = at + 9 if at < end and buf[at] == 0x81 else skip_length(buf, at, end)
        count -= 1
    return at if at <= end else -1


def skip_stream(buf: bytes, at: i64, end: i64, shape: i64) -> i64:
    """The index after a stream: nodes, counters, groups with pending entries and consumers (see canal.rdb.types)."""
    left = length(buf, at, end)
    at = skip_length(buf, at, end)
    while left > 0 and at >= 0:
        at = skip(buf, at, end)
        at = skip(buf, at, end) if at >= 0 else -1
        left -= 1
    if left < 0 or at < 0:
        return -1
    at = skip_lengths(buf, at, end, 3 if shape == STREAM else 8)
    groups = length(buf, at, end) if at >= 0 else -1
    at = skip_length(buf, at, end) if at >= 0 else -1
    while groups > 0 and at >= 0:
        at = skip_group(buf, at, end, shape)
        groups -= 1
    return at if groups == 0 else -1


def skip_group(buf: bytes, at: i64, end: i64, shape: i64) -> i64:
    """The index after a consumer group; -1 as `skip_value` says."""
    at = skip(buf, at, end)
    at = skip_lengths(buf, at, end, 2 if shape == STREAM else 3) if at >= 0 else -1
    if at < 0:
        return -1
    pending = length(buf, at, end)
    at = skip_length(buf, at, end)
    while pending > 0 and at >= 0:
        at = skip_lengths(buf, at + 24, end, 1)
        pending -= 1
    if pending < 0 or at < 0:
        return -1
    consumers = length(buf, at, end)
    at = skip_length(buf, at, end)
    while consumers > 0 and at >= 0:
        at = skip(buf, at, end)
        if at < 0:
            return -1
        at += 16 if shape == STREAM_3 else 8
        pending = length(buf, at, end)
        at = skip_length(buf, at, end)
        if pending < 0 or at < 0:
            return -1
        at += 16 * pending
        consumers -= 1
    return at if consumers == 0 else -1


def little_endian(buf: bytes, at: i64, size: i64) -> i64:
    """A signed number, least significant byte first; of at most 8 bytes."""
    value: i64 = 0
    shift: i64 = 0
    here: i64 = at
    while here < at + size:
        byte: i64 = buf[here]
        value |= byte << shift
        shift += 8
        here += 1
    if size < 8 and value >> (shift - 1):
        value -= (1 << 62) >> (62 - shift)
    return value


def unpack(packed: bytes, size: int) -> bytes:
    """LZF-compressed text of ``size`` bytes. Raises Malformed."""
    if not 0 < size <= len(packed) * _LZF_RATIO:
        raise Malformed("not LZF", 0)
    try:
        text: bytes | None = lzf.decompress(packed, size)
    except ValueError:  # broken references within the compressed text
        text = None
    if text is None or len(text) != size:
        raise Malformed("not LZF", 0)
    return text


@final
class PlainKeys:
    """What a target takes as it stands, and how much a run may hold.

    ``shapes``: 256 bytes, the shape of each value type that may be written so, 0 for others. ``version``: the RDB
    version to stamp on payloads. ``pxat``: SET takes a deadline. ``reserved``: keys with this prefix (of twelve bytes)
    are left alone. ``buckets``: 256 arrays that get the hash of each (database, key), or None. ``skip_to``: keys up to
    this offset of the RDB are only counted. ``grace_ms``: deadlines are put off to at least this far from now; below 0:
    keys with a deadline are left alone.
    """

    def __init__(
        self,
        shapes: bytes,
        version: int,
        pxat: bool,
        reserved: bytes,
        buckets: list[Any] | None,
        skip_to: int,
        grace_ms: int,
        max_keys: int,
        max_bytes: int,
        max_value: int,
    ) -> None:
        self.shapes = shapes
        self.seen = bytearray(256)  # value types met
        self._footer = version.to_bytes(2, "little")
        self._pxat = pxat
        self._reserved = reserved
        self._buckets = buckets
        self._skip_to = skip_to
        self._grace_ms = grace_ms
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._max_value = max_value

    def take(self, buf: bytes, start: int, base: int, db: int) -> PlainRun | None:
        """The ordinary keys from index ``start`` on; None when there is none. ``base``: RDB offset of ``buf[0]``."""
        out: list[bytes] = []
        shapes = self.shapes
        seen = self.seen
        buckets = self._buckets
        reserved = self._reserved
        grace_ms: i64 = self._grace_ms
        floor: i64 = time.time_ns() // 1_000_000 + grace_ms
        skip_to: i64 = self._skip_to - base
        max_value: i64 = self._max_value
        max_bytes: i64 = self._max_bytes
        max_keys: i64 = self._max_keys
        end: i64 = len(buf)
        pos: i64 = start
        keys: i64 = 0
        passed: i64 = 0
        commands: i64 = 0
        sets: i64 = 0
        size: i64 = 0
        while keys < max_keys and size < max_bytes:
            at: i64 = pos
            expire: i64 = -1
            idle: i64 = -1
            freq: i64 = -1
            op: i64 = 0xFF
            timed = False
            while at < end:
                op = buf[at]
                if op == 0xFC and at + 9 <= end:
                    expire, timed = little_endian(buf, at + 1, 8), True
                    at += 9
                elif op == 0xFD and at + 5 <= end:
                    expire, timed = little_endian(buf, at + 1, 4) * 1000, True
                    at += 5
                elif op == 0xF9 and at + 2 <= end:
                    freq = buf[at + 1]
                    at += 2
                elif op == 0xF8 and skip_length(buf, at + 1, end) >= 0:
                    idle = length(buf, at + 1, end)
                    if idle < 0:
                        op = 0xFF
                        break
                    at = skip_length(buf, at + 1, end)
                else:
                    break
            if at >= end or op >= 0x80 or (timed and grace_ms < 0):
                break
            shape: i64 = shapes[op]
            if shape == 0:
                break
            name_length = length(buf, at + 1, end)
            name_at = skip_length(buf, at + 1, end)
            if name_length < 0 or name_at < 0:
                break
            value_at = name_at + name_length
            after = skip_value(buf, value_at, end, shape)
            if after < 0 or after > end or after - value_at > max_value:
                break
            name = buf[name_at:value_at]
            if name_length >= _RESERVED and name.startswith(reserved):
                break
            text = b""
            if shape == SET and idle < 0 and freq < 0:
                first: i64 = buf[value_at]
                if first < 0x40:
                    text = buf[value_at + 1 : after]
                elif first < 0x80:
                    text = buf[value_at + 2 : after]
                elif first == 0x80:
                    text = buf[value_at + 5 : after]
                elif first == 0xC3:
                    packed_at = skip_length(buf, value_at + 1, end)
                    unpacked = length(buf, packed_at, end)
                    packed_at = skip_length(buf, packed_at, end)
                    if unpacked > _LONG_TEXT or unpacked > max_value:
                        break
                    try:
                        text = unpack(buf[packed_at:after], unpacked)
                    except Malformed:
                        break
                else:
                    text = b"%d" % little_endian(buf, value_at + 1, after - value_at - 1)
            pos = after
            seen[op] = 1
            if buckets is not None:
                value: i64 = hash((db, name))
                buckets[(value >> 56) & 0xFF].append(value)
            if after <= skip_to:
                passed += 1
                continue
            if timed and expire < floor:
                expire = floor
            keys += 1
            commands += 1
            if shape == SET and idle < 0 and freq < 0:
                sets += 1
                text_length: i64 = len(text)
                size += name_length + text_length + 32
                if timed and self._pxat:
                    out.append(
                        b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$4\r\nPXAT\r\n$%d\r\n%d\r\n"
                        % (name_length, name, text_length, text, len(b"%d" % expire), expire)
                    )
                    continue
                out.append(_SETS[name_length] if name_length < _TABLE else b"*3\r\n$3\r\nSET\r\n$%d\r\n" % name_length)
                out.append(name)
                out.append(_NEXT[text_length] if text_length < _TABLE else b"\r\n$%d\r\n" % text_length)
                out.append(text)
                out.append(_CRLF)
                if timed:
                    commands += 1
                    out.append(
                        b"*3\r\n$9\r\nPEXPIREAT\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n"
                        % (name_length, name, len(b"%d" % expire), expire)
                    )
                continue
            if after - value_at < _LONG:
                body = b"%c%b%b" % (op, buf[value_at:after], self._footer)
            else:  # without a copy of the value alone
                body = b"".join((bytes((op,)), memoryview(buf)[value_at:after], self._footer))
            payload_length: i64 = len(body) + 8
            size += name_length + payload_length + 64
            out.append(
                b"*%d\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n"
                % (5 + (1 if timed else 0) + (2 if idle >= 0 or freq >= 0 else 0), name_length, name)
            )
            deadline = b"%d" % expire if timed else b"0"
            out.append(b"$%d\r\n%b\r\n$%d\r\n" % (len(deadline), deadline, payload_length))
            out.append(body)
            out.append(_CRC64.calc(body).to_bytes(8, "little"))
            out.append(b"\r\n$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n" if timed else b"\r\n$7\r\nREPLACE\r\n")
            if idle >= 0:
                out.append(b"$8\r\nIDLETIME\r\n$%d\r\n%d\r\n" % (len(b"%d" % idle), idle))
            elif freq >= 0:
                out.append(b"$4\r\nFREQ\r\n$%d\r\n%d\r\n" % (len(b"%d" % freq), freq))
        if keys + passed == 0:
            return None
        return PlainRun(db, b"".join(out), commands, keys, passed, sets, base + pos, pos)
