"""Streams as commands, such that XINFO STREAM FULL says the same on both sides as far as commands can set it.

What commands cannot set: when consumers were last seen and active, and (on Redis 8.6) the counters of idempotent
XADDs. What takes care: entries whose ids left gaps, counters that count deleted entries, groups that read further than
entries exist, and pending entries whose message is gone. XCLAIM makes a pending entry only for a message that exists;
so a stand-in with its id is added among the entries, claimed, and removed again: by XTRIM when it is older than all
real entries, which leaves max-deleted-entry-id alone, else by XDEL, which can raise it only where the source's own is
at least as great.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from canal.rdb.elements import Cursor
from canal.rdb.streams import (
    Group,
    Idempotence,
    Pending,
    StreamEntry,
    StreamId,
    StreamTail,
    id_text,
    read_tail,
    stream_entries,
)
from canal.rdb.target import Target
from canal.rdb.types import GRAMMAR, REDIS
from canal.rdb.walk import walk_elements
from canal.rdb.wire import Short, read_length

Command = list[bytes]

# Where a target has no way to hold a pending entry without a consumer, it is given to this one, to be claimed from.
RETURNED: Final = b"redis-canal:returned"
_MAKER_GROUP: Final = b"redis-canal:maker"
_STAND_IN: Final = [b"", b""]


class StreamMaker:
    """Makes one stream: ``whole`` from a whole value; or ``part``… and ``tail`` from the parts of a big one."""

    def __init__(self, value_type: int, name: bytes, target: Target, max_items: int) -> None:
        self._type = value_type
        self._name = name
        self._target = target
        self._max_items = max_items
        self._made = False
        self._has_counters = target.at_least((7, 0))

    def whole(self, value: bytes) -> Iterator[Command]:
        count, start = read_length(value, 0)
        end, walked, need = walk_elements(value, start, count, GRAMMAR[REDIS][self._type][1].body)
        if walked < count:
            raise Short(need)
        tail = read_tail(self._type, Cursor(value, end))
        wanted = sorted({entry.id for group in tail.groups for entry in group.pending})
        stand_ins = _StandIns(wanted)
        for entry_id, content in stand_ins.among(stream_entries(Cursor(value, start), count)):
            self._made = True
            yield [b"XADD", self._name, id_text(entry_id), *content]
        yield from self._finish(tail, stand_ins)

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        for entry_id, content in stream_entries(Cursor(data), count):
            self._made = True
            yield [b"XADD", self._name, id_text(entry_id), *content]

    def tail(self, data: bytes) -> Iterator[Command]:
        yield from self._finish(read_tail(self._type, Cursor(data)), _StandIns([]))

    def _finish(self, tail: StreamTail, stand_ins: _StandIns) -> Iterator[Command]:
        if not self._made:
            # An empty stream comes into being by a group.
            yield [b"XGROUP", b"CREATE", self._name, _MAKER_GROUP, b"0", b"MKSTREAM"]
            yield [b"XGROUP", b"DESTROY", self._name, _MAKER_GROUP]
        yield from self._counters(tail, stand_ins)
        if tail.idempotence is not None and self._target.at_least((8, 6), None):
            yield from self._idempotence(tail.idempotence)
        for group in tail.groups:
            yield from self._group(group)
        if stand_ins.older:
            yield [b"XTRIM", self._name, b"MAXLEN", b"%d" % (stand_ins.real + len(stand_ins.later))]
        for at in range(0, len(stand_ins.later), self._max_items):
            yield [b"XDEL", self._name, *map(id_text, stand_ins.later[at : at + self._max_items])]
        if self._has_counters and (stand_ins.older or stand_ins.later):
            yield from self._counters(tail, _StandIns([]))

    def _counters(self, tail: StreamTail, present: _StandIns) -> Iterator[Command]:
        """Before the groups, as XGROUP CREATE bounds entries-read by entries-added; once more without the stand-ins."""
        command = [b"XSETID", self._name, id_text(tail.last_id)]
        if self._has_counters:
            added = tail.length if tail.entries_added is None else tail.entries_added
            added = max(added, present.real + len(present.older) + len(present.later))
            deleted = tail.max_deleted_id or (0, 0)
            command += [b"ENTRIESADDED", b"%d" % added, b"MAXDELETEDID", id_text(deleted)]
        yield command

    def _idempotence(self, memory: Idempotence) -> Iterator[Command]:
        size = b"%d" % memory.max_size
        yield [b"XCFGSET", self._name, b"IDMP-DURATION", b"%d" % memory.duration_s, b"IDMP-MAXSIZE", size]
        for producer, records in memory.producers:
            for key, entry_id in records:
                yield [b"XIDMPRECORD", self._name, producer, key, id_text(entry_id)]

    def _group(self, group: Group) -> Iterator[Command]:
        create = [b"XGROUP", b"CREATE", self._name, group.name, id_text(group.last_id)]
        if group.entries_read is not None and self._has_counters:
            create += [b"ENTRIESREAD", b"%d" % group.entries_read]
        yield create
        for consumer in group.consumers:
            yield self._consumer(group.name, consumer.name)
        for (owner, delivered_ms, count), entries in groupby(group.pending, _delivery):
            ids = [id_text(entry.id) for entry in entries]
            for at in range(0, len(ids), self._max_items):
                yield self._pending(group.name, owner, delivered_ms, count, ids[at : at + self._max_items])

    def _consumer(self, group: bytes, name: bytes) -> Command:
        if self._target.at_least((6, 2)):
            return [b"XGROUP", b"CREATECONSUMER", self._name, group, name]
        # Reading the history of a consumer that has none makes it, and nothing else.
        return [b"XREADGROUP", b"GROUP", group, name, b"COUNT", b"1", b"STREAMS", self._name, b"0"]

    def _pending(self, group: bytes, owner: bytes | None, delivered_ms: int, count: int, ids: list[bytes]) -> Command:
        times = b"%d" % count
        if owner is None and self._target.at_least((8, 8), None):
            head = [b"XNACK", self._name, group, b"SILENT", b"IDS", b"%d" % len(ids)]
            return [*head, *ids, b"RETRYCOUNT", times, b"FORCE"]
        head = [b"XCLAIM", self._name, group, RETURNED if owner is None else owner, b"0"]
        return [*head, *ids, b"TIME", b"%d" % delivered_ms, b"RETRYCOUNT", times, b"FORCE", b"JUSTID"]


def _delivery(entry: Pending) -> tuple[bytes | None, int, int]:
    return entry.consumer, entry.delivered_ms, entry.count


class _StandIns:
    """The ids of pending entries whose message is gone, put among the entries in order."""

    def __init__(self, wanted: list[StreamId]) -> None:
        self._wanted = wanted
        self.older: list[StreamId] = []  # than all real entries
        self.later: list[StreamId] = []
        self.real = 0

    def among(self, entries: Iterator[StreamEntry]) -> Iterator[StreamEntry]:
        at = 0
        for entry in entries:
            while at < len(self._wanted) and self._wanted[at] < entry[0]:
                yield self._stand_in(self._wanted[at])
                at += 1
            if at < len(self._wanted) and self._wanted[at] == entry[0]:
                at += 1
            self.real += 1
            yield entry
        for stream_id in self._wanted[at:]:
            yield self._stand_in(stream_id)

    def _stand_in(self, stream_id: StreamId) -> StreamEntry:
        (self.later if self.real else self.older).append(stream_id)
        return stream_id, _STAND_IN
