"""RDB files built byte by byte, for layouts that no server at hand writes. Independent of canal.rdb.

Formats as the comments of Redis's src/rdb.h, ziplist.c, listpack.c and zipmap.c give them.
"""

from __future__ import annotations

import anycrc


def length(n: int) -> bytes:
    if n < 64:
        return bytes([n])
    if n < 1 << 14:
        return bytes([0x40 | n >> 8, n & 255])
    if n < 1 << 32:
        return b"\x80" + n.to_bytes(4, "big")
    return b"\x81" + n.to_bytes(8, "big")


def string(text: bytes) -> bytes:
    return length(len(text)) + text


def lzf_literal(text: bytes) -> bytes:
    """An LZF string that holds runs of literals only: valid, if longer than its text."""
    packed = b"".join(bytes([len(run) - 1]) + run for run in (text[i : i + 32] for i in range(0, len(text), 32)))
    return b"\xc3" + length(len(packed)) + length(len(text)) + packed


def key(kind: int, name: bytes, value: bytes) -> bytes:
    return bytes([kind]) + string(name) + value


def select(db: int) -> bytes:
    return b"\xfe" + length(db)


def rdb(*records: bytes, version: int = 12, magic: bytes = b"REDIS%04d", checksum: int | None = None) -> bytes:
    """A whole file. `checksum` None: the right one, or none at all before version 5."""
    body = magic % version + b"".join(records) + b"\xff"
    if version < 5:
        return body
    crc = anycrc.Model("CRC64-REDIS").calc(body) if checksum is None else checksum
    return body + crc.to_bytes(8, "little")


def valkey(*records: bytes) -> bytes:
    return rdb(*records, version=80, magic=b"VALKEY%03d")


def little(n: int, size: int) -> bytes:
    return n.to_bytes(size, "little", signed=n < 0)


def ziplist(*raw_entries: bytes) -> bytes:
    """Entries without their first field, the length of the entry before, which is put there."""
    body, before = b"", 0
    for entry in raw_entries:
        lead = bytes([before]) if before < 254 else b"\xfe" + little(before, 4)
        body += lead + entry
        before = len(lead + entry)
    size = 10 + len(body) + 1
    tail = size - 1 - before
    return little(size, 4) + little(tail, 4) + little(min(len(raw_entries), 65535), 2) + body + b"\xff"


def listpack(*raw_entries: bytes) -> bytes:
    """Entries without their last field, their own length, which is put there."""
    body = b"".join(entry + _backlen(len(entry)) for entry in raw_entries)
    return little(6 + len(body) + 1, 4) + little(min(len(raw_entries), 65535), 2) + body + b"\xff"


def _backlen(size: int) -> bytes:
    groups = [size & 127]
    while size > 127:
        size >>= 7
        groups.append(size & 127 | 128)
    return bytes(reversed(groups)) if len(groups) == 1 else bytes([groups[-1] & 127, *reversed(groups[:-1])])


def lp_text(text: bytes) -> bytes:
    size = len(text)
    if size < 64:
        return bytes([0x80 | size]) + text
    if size < 4096:
        return bytes([0xE0 | size >> 8, size & 255]) + text
    return b"\xf0" + little(size, 4) + text


def lp_int(n: int) -> bytes:
    if 0 <= n < 128:
        return bytes([n])
    if -4096 <= n < 4096:
        packed = n & 0x1FFF
        return bytes([0xC0 | packed >> 8, packed & 255])
    for code, size in ((0xF1, 2), (0xF2, 3), (0xF3, 4), (0xF4, 8)):
        if -(1 << size * 8 - 1) <= n < 1 << size * 8 - 1:
            return bytes([code]) + little(n, size)
    raise ValueError(n)
