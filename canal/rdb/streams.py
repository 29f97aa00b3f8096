"""Streams: entries from their packed nodes, and the counters, groups, consumers and pending entries behind them.

Formats: Redis src/t_stream.c (the node layout is drawn above streamAppendItem), src/rdb.c; what Redis 8.6 and 8.8 add
was deduced from their files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from canal.rdb.elements import Cursor
from canal.rdb.packed import Entry, listpack, text
from canal.rdb.types import STREAMS
from canal.rdb.wire import Malformed

StreamId = tuple[int, int]  # milliseconds, sequence
StreamEntry = tuple[StreamId, list[bytes]]  # id; fields and values in turn

_DELETED: Final = 1
_SAME_FIELDS: Final = 2
_U64: Final = (1 << 64) - 1


@dataclass(slots=True)
class Pending:
    """An entry delivered and not acknowledged. ``consumer``: None when it was given back (XNACK)."""

    id: StreamId
    delivered_ms: int
    count: int
    consumer: bytes | None


@dataclass(slots=True)
class Consumer:
    """``active_ms``: None where the format does not have it, -1 when never active."""

    name: bytes
    seen_ms: int
    active_ms: int | None


@dataclass(slots=True)
class Group:
    """``entries_read``: None where it is not known. ``pending`` in order of id."""

    name: bytes
    last_id: StreamId
    entries_read: int | None
    consumers: list[Consumer] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)


@dataclass(slots=True)
class Idempotence:
    """What Redis 8.6 remembers of idempotent XADDs: ``producers`` are (producer, [(idempotence id, entry id)])."""

    duration_s: int
    max_size: int
    producers: list[tuple[bytes, list[tuple[bytes, StreamId]]]]
    added: int
    duplicates: int


@dataclass(slots=True)
class StreamTail:
    """What stands behind a stream's entries; counters are None where the format lacks them (before Redis 7.0)."""

    length: int
    last_id: StreamId
    first_id: StreamId | None
    max_deleted_id: StreamId | None
    entries_added: int | None
    groups: list[Group]
    idempotence: Idempotence | None


@dataclass(slots=True)
class StreamValue:
    """A whole stream."""

    entries: list[StreamEntry]
    tail: StreamTail


def id_text(stream_id: StreamId) -> bytes:
    return b"%d-%d" % stream_id


def stream_entries(cursor: Cursor, count: int) -> Iterator[StreamEntry]:
    """The entries of ``count`` nodes at the cursor, deleted ones left out. Raises Malformed or Short."""
    for _ in range(count):
        at = cursor.pos
        name = cursor.string()
        if len(name) != 16:
            raise Malformed(f"expected a stream node's id of 16 bytes, got {len(name)}", at)
        blob = cursor.string()
        try:
            yield from _node(_raw_id(name), listpack(blob))
        except Malformed as bad:
            raise Malformed(f"stream node {id_text(_raw_id(name)).decode()}: {bad.message}", at) from None
        except (IndexError, TypeError):
            raise Malformed(f"stream node {id_text(_raw_id(name)).decode()} ends within an entry", at) from None


def _raw_id(raw: bytes) -> StreamId:
    return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")


def _node(master: StreamId, items: list[Entry]) -> Iterator[StreamEntry]:
    """count, deleted, number of fields, the fields, 0; then entries: flags, ms and sequence less the node's, fields,
    length.
    """
    shared = _count(items[2], len(items))
    names = [text(item) for item in items[3 : 3 + shared]]
    pos = 4 + shared
    size = len(items)
    while pos < size:
        flags = _integer(items[pos])
        # The differences are signed 64-bit numbers, and wrap.
        ms, seq = (master[0] + _integer(items[pos + 1])) & _U64, (master[1] + _integer(items[pos + 2])) & _U64
        pos += 3
        if flags & _SAME_FIELDS:
            content: list[bytes] = []
            for name, value in zip(names, items[pos : pos + shared], strict=False):
                content += (name, text(value))
            pos += shared
        else:
            pairs = _count(items[pos], size)
            content = [text(item) for item in items[pos + 1 : pos + 1 + 2 * pairs]]
            pos += 1 + 2 * pairs
        pos += 1
        if pos > size:
            raise Malformed("an entry that leaves its node", 0)
        if not flags & _DELETED:
            yield (ms, seq), content


def _integer(item: Entry) -> int:
    if isinstance(item, int):
        return item
    raise Malformed(f"expected a number, got {item[:40]!r}", 0)


def _count(item: Entry, most: int) -> int:
    n = _integer(item)
    if not 0 <= n <= most:
        raise Malformed(f"expected a count of at most {most}, got {n}", 0)
    return n


def read_tail(value_type: int, cursor: Cursor) -> StreamTail:
    """What stands behind the nodes of a stream of this type, up to the end. Raises Malformed or Short."""
    version = STREAMS[value_type]
    length = cursor.length()
    last = _id(cursor)
    first = deleted = added = None
    if version >= 2:
        first, deleted, added = _id(cursor), _id(cursor), cursor.length()
    groups = [_group(cursor, version) for _ in range(cursor.length())]
    idempotence = _idempotence(cursor) if version >= 4 else None
    cursor.finish()
    return StreamTail(length, last, first, deleted, added, groups, idempotence)


def _id(cursor: Cursor) -> StreamId:
    return cursor.length(), cursor.length()


def _group(cursor: Cursor, version: int) -> Group:
    name, last = cursor.string(), _id(cursor)
    read = cursor.length() if version >= 2 else None
    group = Group(name, last, None if read is None or read >= 1 << 63 else read)
    by_id: dict[StreamId, Pending] = {}
    for _ in range(cursor.length()):
        entry = Pending(_raw_id(cursor.raw(16)), cursor.int64(), cursor.length(), None)
        by_id[entry.id] = entry
        group.pending.append(entry)
    for _ in range(cursor.length()):
        consumer = Consumer(cursor.string(), cursor.int64(), cursor.int64() if version >= 3 else None)
        group.consumers.append(consumer)
        for _ in range(cursor.length()):
            _find(by_id, cursor).consumer = consumer.name
    for _ in range(cursor.length() if version >= 5 else 0):
        _find(by_id, cursor)
    return group


def _find(by_id: dict[StreamId, Pending], cursor: Cursor) -> Pending:
    at = cursor.pos
    stream_id = _raw_id(cursor.raw(16))
    entry = by_id.get(stream_id)
    if entry is None:
        raise Malformed(f"pending entry {id_text(stream_id).decode()} is not among those of its group", at)
    return entry


def _idempotence(cursor: Cursor) -> Idempotence:
    duration, size = cursor.length(), cursor.length()
    producers = []
    for _ in range(cursor.length()):
        name = cursor.string()
        producers.append((name, [(cursor.string(), _id(cursor)) for _ in range(cursor.length())]))
    return Idempotence(duration, size, producers, cursor.length(), cursor.length())


def read_stream(value_type: int, value: bytes) -> StreamValue:
    """A whole stream value. Raises Malformed or Short."""
    cursor = Cursor(value)
    entries = list(stream_entries(cursor, cursor.length()))
    return StreamValue(entries, read_tail(value_type, cursor))
