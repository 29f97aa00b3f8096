"""One segment: a file of raw stream bytes and its index, both named by the first offset, zero padded to 20 digits."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from canal.journal import index
from canal.journal.disk import write_all
from canal.journal.index import HEADER_SIZE, RECORD_SIZE, Header, Record

LOG: Final = ".log"
INDEX: Final = ".idx"
REJECTED: Final = ".rejected"
NAME: Final = re.compile(r"(\d{20})\.(log|idx)\Z")
_MODE: Final = 0o600
_VERIFY_BLOCK: Final = 4096  # records
_ZEROS: Final = 16  # so many at the end of a damaged chunk were never written


class Segment:
    """Where a segment is and how much of it is sound: the stream bytes ``[first, end)`` in ``records`` index records.

    Only the journal's writer thread changes the figures of the segment it appends to; others read them.
    """

    __slots__ = ("directory", "end", "first", "last_ms", "records", "replid")

    def __init__(self, directory: Path, first: int, replid: str) -> None:
        self.directory = directory
        self.first = first
        self.replid = replid
        self.end = first
        self.records = 0
        self.last_ms = 0  # when its newest chunk was received, unix milliseconds; 0: it has none

    @property
    def log_path(self) -> Path:
        """The file of raw stream bytes."""
        return self.directory / f"{self.first:020d}{LOG}"

    @property
    def index_path(self) -> Path:
        """The file that describes them."""
        return self.directory / f"{self.first:020d}{INDEX}"

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return self.end - self.first + HEADER_SIZE + self.records * RECORD_SIZE

    def delete(self) -> None:
        """Remove both files, the index first: without it nothing of the segment counts. Missing files are fine."""
        self.index_path.unlink(missing_ok=True)
        self.log_path.unlink(missing_ok=True)

    def reject(self) -> None:
        """Set both files aside under names that the journal does not read."""
        for path in (self.index_path, self.log_path):
            if path.exists():
                path.replace(path.with_name(path.name + REJECTED))


class SegmentWriter:
    """Appends to one segment. Every method may raise OSError; then `cut` back to the last chunk that was whole."""

    def __init__(self, segment: Segment, log: int, idx: int) -> None:
        self.segment = segment
        self._log = log
        self._idx = idx

    @classmethod
    def create(cls, segment: Segment, journal_id: bytes) -> SegmentWriter:
        """Make the files of a new, empty segment; leftovers of that name are replaced."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        log = os.open(segment.log_path, flags, _MODE)
        idx = -1
        try:
            idx = os.open(segment.index_path, flags, _MODE)
            write_all(idx, index.pack_header(Header(segment.first, journal_id, segment.replid)))
        except OSError:
            os.close(log)
            if idx >= 0:
                os.close(idx)
            raise
        return cls(segment, log, idx)

    @classmethod
    def reopen(cls, segment: Segment) -> SegmentWriter:
        """Go on with an existing segment; whatever stands after its sound part is cut off."""
        log = os.open(segment.log_path, os.O_RDWR)
        try:
            idx = os.open(segment.index_path, os.O_RDWR)
        except OSError:
            os.close(log)
            raise
        writer = cls(segment, log, idx)
        try:
            writer.cut()
        except OSError:
            writer.close()
            raise
        return writer

    def append(self, data: bytes | memoryview, received_ms: int) -> None:
        """Write one chunk at the segment's end: the bytes first, then the record that makes them count."""
        segment = self.segment
        write_all(self._log, data)
        write_all(self._idx, index.pack_chunk(segment.end, data, received_ms))
        segment.end += len(data)
        segment.records += 1
        segment.last_ms = received_ms

    def mark(self, boundary: int, db: int) -> None:
        """Write a mark; see `canal.journal.index`."""
        write_all(self._idx, index.pack_mark(self.segment.end, boundary, db))
        self.segment.records += 1

    def cut(self) -> None:
        """Cut both files to the part that counts, and go on from there."""
        segment = self.segment
        for fd, size in (
            (self._idx, HEADER_SIZE + segment.records * RECORD_SIZE),
            (self._log, segment.end - segment.first),
        ):
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)

    def truncate(self, offset: int) -> bool:
        """Cut the segment to end at ``offset``, inside it. False when the chunk to be split is damaged.

        The kept part of a chunk that is split is written again as a chunk of its own.
        """
        segment = self.segment
        number = index.find(self._idx, segment.records, offset)
        rest: Record | None = None
        data = b""
        for record in index.read_records(self._idx, number, 1):
            if record.length and record.offset < offset:
                rest = record
                data = os.pread(self._log, record.length, record.offset - segment.first)
                if not index.sound(record, data):
                    return False
        segment.records = number
        segment.end = rest.offset if rest else offset
        self.cut()
        if rest:
            self.append(data[: offset - rest.offset], rest.value)
        return True

    def sync(self) -> None:
        """Make everything appended survive a power loss: the bytes before the records that name them."""
        os.fdatasync(self._log)
        os.fdatasync(self._idx)

    def handles(self) -> list[int]:
        """Copies of the descriptors, in the order in which they have to be brought to the disk."""
        log = os.dup(self._log)
        try:
            return [log, os.dup(self._idx)]
        except OSError:
            os.close(log)
            raise

    def close(self) -> None:
        """Close both files; a disk that only now reports an error would be met again by the next reader."""
        for fd in (self._log, self._idx):
            with contextlib.suppress(OSError):
                os.close(fd)


def verify(segment: Segment) -> str | None:
    """Check every chunk; sets ``end``, ``records`` and ``last_ms`` to the sound part from the start.

    Returns None when that is all there is, else one line that says from which offset on and why the rest is not.
    Raises OSError when the files cannot be read.
    """
    log = os.open(segment.log_path, os.O_RDONLY)
    try:
        idx = os.open(segment.index_path, os.O_RDONLY)
        try:
            return _verify(segment, log, idx)
        finally:
            os.close(idx)
    finally:
        os.close(log)


def _verify(segment: Segment, log: int, idx: int) -> str | None:
    segment.end = segment.first
    segment.records = 0
    segment.last_ms = 0
    # The index first: bytes are written before their record, so a journal that is being written looks whole too.
    index_size = os.fstat(idx).st_size
    total = max(0, index_size - HEADER_SIZE) // RECORD_SIZE
    size = os.fstat(log).st_size
    while segment.records < total:
        for record in index.read_records(idx, segment.records, min(_VERIFY_BLOCK, total - segment.records)):
            trouble = _check(segment, record, log, size)
            if trouble is not None:
                return trouble
            segment.records += 1
            if record.length:
                segment.end = record.end
                segment.last_ms = record.value
    spare = size - (segment.end - segment.first)
    if spare:
        return f"{segment.log_path.name}: a torn write left {spare} bytes after offset {segment.end}"
    if (index_size - HEADER_SIZE) % RECORD_SIZE:
        return f"{segment.index_path.name}: a torn write left part of a record after offset {segment.end}"
    return None


def _check(segment: Segment, record: Record, log: int, size: int) -> str | None:
    """Why ``record`` is not the sound successor of what was checked before it; None when it is."""
    name = segment.log_path.name
    if record.offset != segment.end:
        if not any(record):
            return f"{segment.index_path.name}: zeros instead of records after offset {segment.end}"
        return f"{segment.index_path.name}: damaged record for the bytes from offset {segment.end} on"
    start = record.offset - segment.first
    if start + record.length > size:
        return f"{name}: a torn write left {max(0, size - start)} bytes of the chunk {record.offset}..{record.end}"
    data = os.pread(log, record.length, start) if record.length else b""
    if index.sound(record, data):
        return None
    if not record.length:
        return f"{segment.index_path.name}: damaged record after offset {segment.end}"
    written = len(data.rstrip(b"\0"))
    if len(data) - written >= min(_ZEROS, len(data)):
        part = "the " if not written else f"bytes {record.offset + written}..{record.end} of the "
        return f"{name}: zeros instead of {part}chunk {record.offset}..{record.end}"
    return f"{name}: the chunk {record.offset}..{record.end} does not have its checksum"
