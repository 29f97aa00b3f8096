"""Reads the journal's files, chunk by chunk, and believes none without its checksum. Blocking; used in a thread."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from canal.journal import index
from canal.journal.chunk import Chunk, JournalDamaged
from canal.journal.index import Record
from canal.journal.segment import Segment

View = tuple[int, Sequence[Segment], int]
"""A number that changes with each cut or reset, the segments, and the offset up to which they may be read."""

_RECORDS: Final = 1024


class Cursor:
    """A place in the journal that moves on with each `read`. ``view`` gives what may be read, None for nothing now."""

    def __init__(self, view: Callable[[], View | None]) -> None:
        self._view = view
        self._segment: Segment | None = None
        self._log = -1
        self._idx = -1
        self._offset = -1
        self._number = 0  # of the record that holds ``_offset``
        self._records: list[Record] = []  # read ahead, from ``_number`` on

    def read(self, offset: int, max_bytes: int) -> list[Chunk]:
        """Consecutive chunks from ``offset`` on, of about ``max_bytes`` or one; empty when no more is written yet.

        Raises JournalDamaged when what is there is not what was written, or ``offset`` is before the journal's start.
        """
        view = self._view()
        if view is None:
            self.forget()
            return []
        _, segments, limit = view
        if offset >= limit:
            return []
        try:
            segment = self._go_to(segments, offset)
            return self._read(segment, offset, limit, max_bytes)
        except OSError as error:
            self.forget()
            raise JournalDamaged(f"the journal cannot be read at offset {offset}: {error}", offset, limit) from None
        except JournalDamaged:
            self.forget()
            now = self._view()
            if now is None or now[0] != view[0]:  # a cut or a reset came in between: what was read is void, not damaged
                return []
            raise

    def forget(self) -> None:
        """Close the files; the next `read` finds its place anew."""
        segment, self._segment = self._segment, None
        self._records = []
        self._offset = -1
        if segment is not None:
            os.close(self._log)
            os.close(self._idx)

    def _go_to(self, segments: Sequence[Segment], offset: int) -> Segment:
        number = bisect_right(segments, offset, key=_first) - 1
        if number < 0:
            start = segments[0].first
            raise JournalDamaged(f"offset {offset} is not in the journal any more, it begins at {start}", offset, start)
        segment = segments[number]
        if segment is not self._segment:
            self.forget()
            log = os.open(segment.log_path, os.O_RDONLY)
            try:
                self._idx = os.open(segment.index_path, os.O_RDONLY)
            except OSError:
                os.close(log)
                raise
            self._log = log
            self._segment = segment
        if offset != self._offset:
            self._number = index.find(self._idx, segment.records, offset)
            self._records = []
            self._offset = offset
        return segment

    def _read(self, segment: Segment, offset: int, limit: int, max_bytes: int) -> list[Chunk]:
        records = self._next_records(segment, limit, max_bytes)
        chunks = [record for record in records if record.length]
        if not chunks or not chunks[0].offset <= offset < chunks[0].end:
            raise JournalDamaged(
                f"{segment.index_path.name}: no sound record for the bytes from offset {offset} on", offset, limit
            )
        begin = chunks[0].offset
        block = os.pread(self._log, chunks[-1].end - begin, begin - segment.first)
        out: list[Chunk] = []
        for record in chunks:
            data = block[record.offset - begin : record.end - begin]
            if not index.sound(record, data):
                if out:
                    break  # hand out what is sound; the next read meets the damage
                raise JournalDamaged(
                    f"{segment.log_path.name}: the chunk {record.offset}..{record.end} does not have its checksum",
                    record.offset,
                    record.end,
                )
            out.append(Chunk(record.offset, data, record.value))
        self._offset = out[-1].end
        self._consume(self._offset)
        if begin < offset:
            first = out[0]
            out[0] = Chunk(offset, first.data[offset - begin :], first.received_ms)
        return out

    def _next_records(self, segment: Segment, limit: int, max_bytes: int) -> list[Record]:
        """The records from the cursor's place on, up to ``max_bytes`` of chunks and not beyond ``limit``.

        It ends before a record that does not follow on the one before; the next call then begins with that.
        """
        while True:
            if not self._records:
                self._records = index.read_records(
                    self._idx, self._number, min(_RECORDS, segment.records - self._number)
                )
            total = 0
            taken = 0
            end = self._records[0].offset if self._records else 0
            for record in self._records:
                if record.offset != end or record.end > limit or (total and total + record.length > max_bytes):
                    break
                end = record.end
                total += record.length
                taken += 1
            if total or not taken or taken < len(self._records):
                return self._records[:taken]
            self._number += taken  # nothing but marks
            self._records = []

    def _consume(self, offset: int) -> None:
        """Step over the records that end at or before ``offset``."""
        count = 0
        for record in self._records:
            if record.end > offset:
                break
            count += 1
        self._number += count
        self._records = self._records[count:]


def _first(segment: Segment) -> int:
    return segment.first
