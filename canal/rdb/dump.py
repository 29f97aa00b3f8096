"""Payloads of DUMP and RESTORE, and single strings as RDB files hold them.

Format: Redis src/cluster.c, createDumpPayload and verifyDumpPayload: [module metadata] type byte, value as in an RDB,
RDB version in 2 bytes little-endian, CRC64 in 8 bytes little-endian over all before it; 0 there means "not computed".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anycrc

from canal.errors import RdbError
from canal.rdb.types import KEY_META, OP_KEY_META
from canal.rdb.walk import Walker
from canal.rdb.wire import Malformed, Short, read_string

FOOTER_BYTES: Final = 10
_CRC64: Final = anycrc.Model("CRC64-REDIS")


def crc64(data: bytes | memoryview, before: int = 0) -> int:
    """Redis's CRC64 of ``data``, going on from ``before``, the CRC of what came earlier."""
    crc: int = _CRC64.calc(data, before)
    return crc


def dump_payload(type: int, value: bytes, version: int, meta: bytes = b"") -> bytes:
    """The payload of a RESTORE: ``value`` as it stands in the RDB, under RDB version ``version``."""
    body = b"%b%c%b%b" % (meta, type, value, version.to_bytes(2, "little"))
    return body + crc64(body).to_bytes(8, "little")


def restore_command(
    key: bytes, deadline: bytes, type: int, value: bytes, version: int, meta: bytes, options: list[bytes]
) -> bytes:
    """RESTORE of `dump_payload` as RESP, with one copy of the value, which may be long."""
    front, version_bytes = b"%b%c" % (meta, type), version.to_bytes(2, "little")
    crc = crc64(version_bytes, crc64(value, crc64(front)))
    head = b"*%d\r\n$7\r\nRESTORE\r\n" % (4 + len(options))
    size = len(front) + len(value) + FOOTER_BYTES
    parts = [head, b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(deadline), deadline, size)]
    parts += [front, value, version_bytes, crc.to_bytes(8, "little"), b"\r\n"]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in options]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload taken apart: ``value`` without the type byte; ``meta`` as in Key."""

    type: int
    value: bytes
    version: int
    meta: bytes = b""


def split_payload(payload: bytes, *, check: bool = True) -> Payload:
    """Take a DUMP payload apart. Raises RdbError when it is too short or, with ``check``, its checksum is wrong and
    not 0.
    """
    version = payload_version(payload, check=check)
    body = payload[:-FOOTER_BYTES]
    if not body:
        raise RdbError("a DUMP payload without a value", 0)
    start = 0
    if body[0] == OP_KEY_META:
        start = _meta_end(body)
        if start >= len(body):
            raise RdbError("a DUMP payload ends within its module metadata", start)
    return Payload(body[start], body[start + 1 :], version, body[:start])


def payload_version(payload: bytes, *, check: bool = True) -> int:
    """The RDB version in the footer of a DUMP or FUNCTION DUMP payload. Raises RdbError as split_payload does."""
    if len(payload) < FOOTER_BYTES:
        raise RdbError(f"a DUMP payload has at least {FOOTER_BYTES} bytes, this has {len(payload)}", 0)
    stored = int.from_bytes(payload[-8:], "little")
    if check and stored != 0:
        computed = crc64(memoryview(payload)[:-8])
        if computed != stored:
            at = len(payload) - 8
            raise RdbError(f"checksum of a DUMP payload does not match: {stored:016x}, computed {computed:016x}", at)
    return int.from_bytes(payload[-FOOTER_BYTES:-8], "little")


def _meta_end(body: bytes) -> int:
    walker = Walker(KEY_META, {})
    pos = 1
    try:
        while not walker.done:
            pos, _ = walker.run(body, pos)
            if walker.need:
                raise RdbError("a DUMP payload ends within its module metadata", pos)
    except Malformed as bad:
        raise RdbError(bad.message, bad.at) from None
    return pos


def decode_string(value: bytes) -> bytes:
    """The text of a string value (type 0) as it stands in an RDB: plain, integer or LZF. Raises RdbError."""
    if value and value[0] < 0x40 and value[0] + 1 == len(value):
        return value[1:]
    try:
        text, end = read_string(value, 0)
    except Short as short:
        raise RdbError(f"a string needs {short.need} bytes, {len(value)} are there", len(value)) from None
    except Malformed as bad:
        raise RdbError(bad.message, bad.at) from None
    if end != len(value):
        raise RdbError(f"{len(value) - end} bytes follow the end of a string", end)
    return text
