"""The index file of a segment: what is in it, and how to find it again.

One header, then one record per appended chunk or mark, all of fixed size, little endian::

    header  72 bytes   magic "RCJINDEX" · u32 format · u32 record size · u64 first offset of the segment
                       · 16 bytes journal id · 20 bytes replid (binary) · 8 bytes reserved
                       · u32 crc32 of the 68 before
    record  32 bytes   u64 offset · u64 value · u32 length · i32 db · u32 reserved · u32 crc32

A *chunk* record has length > 0: the bytes ``[offset, offset + length)`` of the stream stand in the segment at
``offset - first``; value is when they were received, unix milliseconds. A *mark* has length 0: at stream position
value a command begins outside MULTI with database db selected (-1: not known); its offset is the end of the segment
when it was written, so that offsets never fall from one record to the next and can be searched.

The crc32 (zlib) covers the 28 bytes before it and then the chunk's data: a record with a flipped bit is as damaged as
its data, and a file full of zeros is never sound.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final, NamedTuple

from canal import formats
from canal.errors import StateError

OR_DELETE: Final = "use that one, or delete the journal's directory (a full resync may follow)"
MAGIC: Final = b"RCJINDEX"
HEADER: Final = struct.Struct("<8sIIQ16s20s8x")
HEADER_SIZE: Final = HEADER.size + 4
RECORD: Final = struct.Struct("<QQIiII")
RECORD_SIZE: Final = RECORD.size
_FIELDS: Final = struct.Struct("<QQIiI")
_CRC: Final = struct.Struct("<I")


class Record(NamedTuple):
    """One record of an index, decoded; see the module's text for what the fields mean."""

    offset: int
    value: int
    length: int
    db: int
    reserved: int
    crc: int

    @property
    def end(self) -> int:
        """Position after the chunk (for a mark: where it stands)."""
        return self.offset + self.length


class Header(NamedTuple):
    """What the head of an index says about its segment."""

    first: int
    journal_id: bytes
    replid: str


def pack_header(header: Header) -> bytes:
    """The first `HEADER_SIZE` bytes of an index file."""
    version, replid = formats.written(), bytes.fromhex(header.replid)
    body = HEADER.pack(MAGIC, version, RECORD_SIZE, header.first, header.journal_id, replid)
    return body + _CRC.pack(zlib.crc32(body))


def unpack_header(data: bytes, name: str) -> Header | None:
    """Read an index header; None when it is truncated, damaged or not one at all.

    Raises StateError for a sound header of a newer format: its records must not be guessed at.
    """
    if len(data) < HEADER_SIZE:
        return None
    magic, version, record_size, first, journal_id, replid = HEADER.unpack_from(data)
    if magic != MAGIC or _CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]):
        return None
    formats.check(f"journal index {name}", version, hint=OR_DELETE)
    if record_size != RECORD_SIZE:
        raise StateError(f"journal index {name} has records of {record_size} bytes, not {RECORD_SIZE}: {OR_DELETE}")
    return Header(first, journal_id, replid.hex())


def pack_chunk(offset: int, data: bytes | memoryview, received_ms: int) -> bytes:
    """The record of a chunk."""
    fields = _FIELDS.pack(offset, received_ms, len(data), -1, 0)
    return fields + _CRC.pack(zlib.crc32(data, zlib.crc32(fields)))


def pack_mark(at: int, boundary: int, db: int) -> bytes:
    """The record of a mark that stands at position ``at`` and says that a command begins at ``boundary``."""
    fields = _FIELDS.pack(at, boundary, 0, db, 0)
    return fields + _CRC.pack(zlib.crc32(fields))


def unpack(data: bytes | memoryview) -> list[Record]:
    """All whole records in ``data``."""
    whole = len(data) - len(data) % RECORD_SIZE
    return [Record._make(fields) for fields in RECORD.iter_unpack(memoryview(data)[:whole])]


def sound(record: Record, data: bytes | memoryview) -> bool:
    """Whether ``record`` and the data of its chunk (empty for a mark) are as they were written."""
    fields = _FIELDS.pack(record.offset, record.value, record.length, record.db, record.reserved)
    return len(data) == record.length and zlib.crc32(data, zlib.crc32(fields)) == record.crc


def read_records(fd: int, number: int, count: int) -> list[Record]:
    """Up to ``count`` records from record ``number`` on."""
    return unpack(os.pread(fd, count * RECORD_SIZE, HEADER_SIZE + number * RECORD_SIZE))


def find(fd: int, count: int, offset: int) -> int:
    """Number of the first of ``count`` records whose chunk ends after ``offset``; ``count`` when there is none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        record = read_records(fd, middle, 1)
        if not record or record[0].end > offset:
            high = middle
        else:
            low = middle + 1
    return low
