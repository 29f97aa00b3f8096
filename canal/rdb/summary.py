"""What is in an RDB, counted while it is read: memory does not grow with the number of keys."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from canal.rdb.decode import rdb_errors
from canal.rdb.elements import PACKED, Cursor
from canal.rdb.events import Aux, End, Event, Function, Header, Key, KeyEnd, KeyStart, ModuleAux, ValuePart
from canal.rdb.packed import listpack, ziplist, zipmap
from canal.rdb.types import (
    GRAMMAR,
    HASH_LISTPACK,
    HASH_LISTPACK_EX,
    HASH_LISTPACK_EX_PRE_GA,
    HASH_METADATA,
    HASH_ZIPLIST,
    HASH_ZIPMAP,
    LIST_QUICKLIST,
    LIST_QUICKLIST_2,
    LIST_ZIPLIST,
    MODULE_2,
    REDIS,
    SET_INTSET,
    SET_LISTPACK,
    STREAMS,
    STRING,
    ZSET_LISTPACK,
    ZSET_ZIPLIST,
    encoding_name,
    type_name,
)
from canal.rdb.walk import walk_elements

TOP: Final = 10

# Entries of the packed blob that make one element of the collection.
_ZIPLISTS: Final = {LIST_ZIPLIST: 1, ZSET_ZIPLIST: 2, HASH_ZIPLIST: 2}
_LISTPACKS: Final = {
    SET_LISTPACK: 1,
    ZSET_LISTPACK: 2,
    HASH_LISTPACK: 2,
    HASH_LISTPACK_EX: 3,
    HASH_LISTPACK_EX_PRE_GA: 3,
}
_UNKNOWN_COUNT: Final = 65535


@dataclass(slots=True)
class Group:
    """Keys of one database, type and encoding. ``bytes``: of their values as they stand in the file."""

    db: int
    type: str
    encoding: str
    keys: int = 0
    with_ttl: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Big:
    """A key worth naming; ordered by its first field, the measure it was chosen by."""

    measure: int
    db: int
    key: bytes
    type: str
    encoding: str
    bytes: int
    elements: int


@dataclass(slots=True)
class Summary:
    """Fed event by event with ``add``; complete when ``end`` is set."""

    header: Header | None = None
    end: End | None = None
    aux: dict[bytes, bytes] = field(default_factory=dict)
    functions: list[bytes] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    groups: dict[tuple[int, int], Group] = field(default_factory=dict)
    _largest: list[Big] = field(default_factory=list)
    _longest: list[Big] = field(default_factory=list)
    _start: KeyStart | None = None
    _size: int = 0

    def add(self, event: Event) -> None:
        """Count one event. Raises RdbError where a value's own counts are broken."""
        if isinstance(event, Key):
            with rdb_errors(event.key, event.end - len(event.value)):
                elements = count_elements(event.type, event.value, event.fields)
            self._key(event, len(event.value), elements)
        elif isinstance(event, ValuePart):
            self._size += len(event.data)
        elif isinstance(event, KeyStart):
            self._start, self._size = event, 0
        elif isinstance(event, KeyEnd):
            assert self._start is not None
            self._key(self._start, self._size, self._start.count)
        elif isinstance(event, Aux):
            self.aux[event.key] = event.value
        elif isinstance(event, Function):
            self.functions.append(event.code)
        elif isinstance(event, ModuleAux):
            self.modules.append(event.module)
        elif isinstance(event, Header):
            self.header = event
        elif isinstance(event, End):
            self.end = event

    def _key(self, key: Key | KeyStart, size: int, elements: int) -> None:
        group = self.groups.get((key.db, key.type))
        if group is None:
            group = Group(key.db, type_name(key.type), encoding_name(key.type))
            self.groups[key.db, key.type] = group
        group.keys += 1
        group.bytes += size
        group.with_ttl += key.expire_ms is not None
        _keep(self._largest, size, key, group, size, elements)
        if key.type not in (STRING, MODULE_2):
            _keep(self._longest, elements, key, group, size, elements)

    @property
    def largest(self) -> list[Big]:
        """The keys with the most bytes, greatest first."""
        return sorted(self._largest, reverse=True)

    @property
    def longest(self) -> list[Big]:
        """The collections with the most elements, greatest first."""
        return sorted(self._longest, reverse=True)

    @property
    def keys(self) -> int:
        return sum(group.keys for group in self.groups.values())

    def databases(self) -> Iterator[tuple[int, int, int]]:
        """(database, keys, keys with a deadline), ascending."""
        for db in sorted({group.db for group in self.groups.values()}):
            groups = [group for group in self.groups.values() if group.db == db]
            yield db, sum(group.keys for group in groups), sum(group.with_ttl for group in groups)


def _keep(heap: list[Big], measure: int, key: Key | KeyStart, group: Group, size: int, elements: int) -> None:
    if len(heap) == TOP and measure <= heap[0].measure:
        return
    big = Big(measure, key.db, key.key, group.type, group.encoding, size, elements)
    if len(heap) < TOP:
        heapq.heappush(heap, big)
    else:
        heapq.heapreplace(heap, big)


def count_elements(value_type: int, value: bytes, fields: tuple[bytes, ...] | None = None) -> int:
    """Elements of a collection, bytes of a string's text, 0 for modules, from the counts that the value itself states.

    Raises Malformed or Short.
    """
    cursor = Cursor(value)
    if fields is not None:
        return len(fields)
    if value_type == STRING:
        return len(cursor.string())
    if value_type == MODULE_2:
        return 0
    if value_type in STREAMS:
        nodes = cursor.length()
        cursor.pos, _, _ = walk_elements(value, cursor.pos, nodes, GRAMMAR[REDIS][value_type][1].body)
        return cursor.length()
    if value_type in (LIST_QUICKLIST, LIST_QUICKLIST_2):
        return sum(_node(value_type, cursor) for _ in range(cursor.length()))
    if value_type in _ZIPLISTS:
        return _ziplist_count(cursor.string()) // _ZIPLISTS[value_type]
    if value_type in _LISTPACKS:
        if value_type == HASH_LISTPACK_EX:
            cursor.int64()
        return _listpack_count(cursor.string()) // _LISTPACKS[value_type]
    if value_type == SET_INTSET:
        return int.from_bytes(cursor.string()[4:8], "little")
    if value_type == HASH_ZIPMAP:
        return len(zipmap(cursor.string()))
    if value_type == HASH_METADATA:
        cursor.int64()
    return cursor.length()


def _node(value_type: int, cursor: Cursor) -> int:
    if value_type == LIST_QUICKLIST:
        return _ziplist_count(cursor.string())
    container = cursor.length()
    blob = cursor.string()
    return _listpack_count(blob) if container == PACKED else 1


def _ziplist_count(blob: bytes) -> int:
    count = int.from_bytes(blob[8:10], "little")
    return count if count < _UNKNOWN_COUNT else len(ziplist(blob))


def _listpack_count(blob: bytes) -> int:
    count = int.from_bytes(blob[4:6], "little")
    return count if count < _UNKNOWN_COUNT else len(listpack(blob))
