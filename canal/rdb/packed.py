"""The packed encodings: ziplist, listpack, intset and zipmap, each a blob within one RDB string.

Formats: Redis src/ziplist.c, src/listpack.c, src/intset.c, src/zipmap.c (the comments at their tops). A blob is
trusted in nothing: whatever it says, no byte outside it is read and nothing is allocated that its own size does not
warrant. All functions raise Malformed with a position within the blob.
"""

from __future__ import annotations

import struct
from typing import Final

from canal.rdb.wire import Malformed

Entry = bytes | int

_ZIPLIST_HEADER: Final = 10
_LISTPACK_HEADER: Final = 6
_END: Final = 0xFF
_ZIPLIST_INTS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
_LISTPACK_INTS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
_INTSET_FORMATS: Final = {2: "h", 4: "i", 8: "q"}
_ZIPMAP_LONG: Final = 254


def text(entry: Entry) -> bytes:
    """An entry as the text that clients see."""
    return entry if isinstance(entry, bytes) else b"%d" % entry


def ziplist(blob: bytes) -> list[Entry]:
    """The entries of a ziplist, integers as int."""
    size = len(blob)
    if size < _ZIPLIST_HEADER + 1 or int.from_bytes(blob[:4], "little") != size or blob[-1] != _END:
        raise Malformed(f"a ziplist of {size} bytes that says it has {int.from_bytes(blob[:4], 'little')}", 0)
    entries: list[Entry] = []
    last = size - 1
    pos = _ZIPLIST_HEADER
    while pos < last:
        at = pos
        pos += 5 if blob[pos] == 254 else 1
        if pos >= last:
            raise Malformed("a ziplist entry that leaves its ziplist", at)
        first = blob[pos]
        if first < 0xC0:
            length, pos = _ziplist_text_length(blob, pos, first)
            entries.append(blob[pos : pos + length])
            pos += length
        elif 0xF1 <= first <= 0xFD:
            entries.append((first & 0x0F) - 1)
            pos += 1
        else:
            width = _ZIPLIST_INTS.get(first, 0)
            if width == 0:
                raise Malformed(f"expected a ziplist entry, got encoding byte 0x{first:02x}", pos)
            entries.append(int.from_bytes(blob[pos + 1 : pos + 1 + width], "little", signed=True))
            pos += 1 + width
        if pos > last:
            raise Malformed("a ziplist entry that leaves its ziplist", at)
    return entries


def _ziplist_text_length(blob: bytes, pos: int, first: int) -> tuple[int, int]:
    if first < 0x40:
        return first, pos + 1
    if first < 0x80:
        return int.from_bytes(blob[pos : pos + 2], "big") & 0x3FFF, pos + 2
    return int.from_bytes(blob[pos + 1 : pos + 5], "big"), pos + 5


def listpack(blob: bytes) -> list[Entry]:
    """The entries of a listpack, integers as int."""
    size = len(blob)
    if size < _LISTPACK_HEADER + 1 or int.from_bytes(blob[:4], "little") != size or blob[-1] != _END:
        raise Malformed(f"a listpack of {size} bytes that says it has {int.from_bytes(blob[:4], 'little')}", 0)
    entries: list[Entry] = []
    last = size - 1
    pos = _LISTPACK_HEADER
    while pos < last:
        at = pos
        first = blob[pos]
        if first < 0x80:
            entries.append(first)
            pos += 2
            continue
        if first < 0xC0:
            length = first & 0x3F
            pos += 1
            entries.append(blob[pos : pos + length])
            pos += length
        elif first < 0xE0:
            value = (first & 0x1F) << 8 | blob[pos + 1]
            entries.append(value if value < 4096 else value - 8192)
            pos += 2
        elif first < 0xF1:
            length, pos = _listpack_text_length(blob, pos, first)
            entries.append(blob[pos : pos + length])
            pos += length
        else:
            width = _LISTPACK_INTS.get(first, 0)
            if width == 0:
                raise Malformed(f"expected a listpack entry, got encoding byte 0x{first:02x}", pos)
            entries.append(int.from_bytes(blob[pos + 1 : pos + 1 + width], "little", signed=True))
            pos += 1 + width
        pos += _backlen_bytes(pos - at)
        if pos > last:
            raise Malformed("a listpack entry that leaves its listpack", at)
    if pos != last:
        raise Malformed("a listpack entry that leaves its listpack", pos)
    return entries


def first_entry(blob: bytes) -> Entry | None:
    """The first entry of a listpack, None where it has none."""
    entries = listpack(blob)
    return entries[0] if entries else None


def _listpack_text_length(blob: bytes, pos: int, first: int) -> tuple[int, int]:
    if first < 0xF0:
        return (first & 0x0F) << 8 | blob[pos + 1], pos + 2
    return int.from_bytes(blob[pos + 1 : pos + 5], "little"), pos + 5


def _backlen_bytes(length: int) -> int:
    """How many bytes the entry's own length takes after it, so that a listpack can be read backwards."""
    if length < 128:
        return 1
    if length < 16384:
        return 2
    if length < 2097152:
        return 3
    return 4 if length < 268435456 else 5


def intset(blob: bytes) -> list[int]:
    """The members of an intset, ascending."""
    if len(blob) < 8:
        raise Malformed(f"an intset of {len(blob)} bytes", 0)
    width = int.from_bytes(blob[:4], "little")
    count = int.from_bytes(blob[4:8], "little")
    code = _INTSET_FORMATS.get(width)
    if code is None:
        raise Malformed(f"expected an intset of 2, 4 or 8 bytes a member, got {width}", 0)
    if len(blob) != 8 + width * count:
        raise Malformed(f"an intset of {len(blob)} bytes that says it has {count} members of {width} bytes", 4)
    return list(struct.unpack(f"<{count}{code}", blob[8:]))


def zipmap(blob: bytes) -> list[tuple[bytes, bytes]]:
    """The fields and values of a zipmap (hashes of RDB versions before 4)."""
    pairs: list[tuple[bytes, bytes]] = []
    if len(blob) < 2 or blob[-1] != _END:
        raise Malformed(f"a zipmap of {len(blob)} bytes without its end mark", 0)
    last = len(blob) - 1
    pos = 1
    while pos < last:
        field, pos = _zipmap_text(blob, pos, 0)
        value, pos = _zipmap_text(blob, pos, 1)
        pairs.append((field, value))
    if pos != last:
        raise Malformed("a zipmap entry that leaves its zipmap", pos)
    return pairs


def _zipmap_text(blob: bytes, pos: int, spare: int) -> tuple[bytes, int]:
    """A length, with ``spare`` 1 a byte that tells how many unused bytes follow the text, and the text."""
    last = len(blob) - 1
    at = pos
    length = blob[pos]
    pos += 1
    if length >= _ZIPMAP_LONG:
        if length == _END:
            raise Malformed("a zipmap that ends within a pair", at)
        length = int.from_bytes(blob[pos : pos + 4], "little")
        pos += 4
    unused = blob[pos] if spare and pos <= last else 0
    pos += spare
    after = pos + length + unused
    if after > last:
        raise Malformed("a zipmap entry that leaves its zipmap", at)
    return blob[pos : pos + length], after
