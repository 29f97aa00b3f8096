"""Values as commands for a target that cannot load their bytes, in pieces of bounded size.

Every command holds at most ``max_items`` elements and about ``max_bytes`` bytes (one element may be longer). Values
are walked lazily, so that neither the commands nor the decoded elements of a big value are ever all in memory. A value
is made from nothing: the caller sends the commands of one key in order, under the key's own name within one
transaction, or under a temporary name that readers do not look at, renamed at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from canal.rdb.decode import rdb_errors
from canal.rdb.dump import decode_string
from canal.rdb.elements import (
    Cursor,
    HashField,
    hash_items,
    list_items,
    whole_hash,
    whole_list,
    whole_set,
    whole_zset,
    zset_items,
)
from canal.rdb.events import Function, Key, KeyStart, ValuePart
from canal.rdb.stream_commands import StreamMaker
from canal.rdb.target import NotLoadable, Target
from canal.rdb.types import HASH_METADATA, MAY_HAVE_DEADLINES, REDIS, type_name

Command = list[bytes]

MAX_ITEMS: Final = 512
MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a single command may get."""

    max_items: int = MAX_ITEMS
    max_bytes: int = MAX_BYTES


def key_commands(
    key: Key,
    target: Target,
    *,
    flavor: str = REDIS,
    name: bytes | None = None,
    temporary: bytes | None = None,
    bounds: Bounds = Bounds(),
) -> Iterator[Command]:
    """Commands that make ``key`` equal on the target, whatever stood there before; its deadline comes last.

    ``name``: how it is called there, if not as at the source. ``temporary``: make it under this name and rename it at
    the end. Raises RdbError for bytes that cannot be decoded, and NotLoadable (before the first command) for what
    commands cannot make.
    """
    final = key.key if name is None else name
    made = final if temporary is None else temporary
    with rdb_errors(key.key, key.end - len(key.value)):
        if type_name(key.type) == "string":
            yield [b"SET", made, decode_string(key.value)]
        else:
            maker = _maker(key, made, target, flavor, bounds)
            maker.check(key.value)
            yield [b"DEL", made]
            yield from maker.whole(key.value)
    yield from _finish(final, temporary, key.expire_ms)


def _finish(final: bytes, temporary: bytes | None, expire_ms: int | None) -> Iterator[Command]:
    if temporary is not None:
        yield [b"RENAME", temporary, final]
    if expire_ms is not None:
        yield [b"PEXPIREAT", final, b"%d" % expire_ms]


class BigKey:
    """A value that arrives in parts, made under a temporary name: ``begin``, ``part`` for each ValuePart, ``end``.

    Each method gives the commands that are due; none holds more than its part. Raises RdbError and NotLoadable as
    key_commands does. Of a stream, pending entries whose message was deleted are left out: their ids cannot be made
    once the entries after them exist.
    """

    def __init__(
        self,
        start: KeyStart,
        target: Target,
        temporary: bytes,
        *,
        flavor: str = REDIS,
        name: bytes | None = None,
        bounds: Bounds = Bounds(),
    ) -> None:
        self.start = start
        self.temporary = temporary
        self.name = start.key if name is None else name
        self._string = type_name(start.type) == "string"
        self._first = True
        self._maker = None if self._string else _maker(start, temporary, target, flavor, bounds)

    def begin(self) -> Iterator[Command]:
        yield [b"DEL", self.temporary]

    def part(self, part: ValuePart) -> Iterator[Command]:
        if self._maker is None:
            yield [b"SET" if self._first else b"APPEND", self.temporary, part.data]
            self._first = False
            return
        with rdb_errors(self.start.key, part.offset):
            if part.tail:
                yield from self._maker.tail(part.data)
            else:
                yield from self._maker.part(part.data, part.count)

    def end(self) -> Iterator[Command]:
        yield from _finish(self.name, self.temporary, self.start.expire_ms)


class _Maker:
    """Makes one collection under one name. ``whole`` from a whole value; ``part`` from raw elements; ``tail`` for
    streams.
    """

    def __init__(self, source: Key | KeyStart, name: bytes, target: Target, flavor: str, bounds: Bounds) -> None:
        self.key = source.key
        self.type = source.type
        self.name = name
        self.target = target
        self.flavor = flavor
        self.bounds = bounds
        self.fields = source.fields
        self.head = source.head if isinstance(source, KeyStart) else b""

    def check(self, value: bytes) -> None:
        """Raises NotLoadable for a value that ``whole`` could make only in part."""

    def whole(self, value: bytes) -> Iterator[Command]:
        raise NotImplementedError

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        raise NotImplementedError

    def tail(self, data: bytes) -> Iterator[Command]:
        raise NotImplementedError

    def _pieces(self, verb: bytes, elements: Iterable[tuple[bytes, ...]]) -> Iterator[Command]:
        """``verb name element…``, cut where a command would grow beyond the bounds."""
        command = [verb, self.name]
        items = size = 0
        for element in elements:
            command += element
            items += 1
            size += sum(map(len, element))
            if items >= self.bounds.max_items or size >= self.bounds.max_bytes:
                yield command
                command = [verb, self.name]
                items = size = 0
        if items:
            yield command


class _List(_Maker):
    def whole(self, value: bytes) -> Iterator[Command]:
        return self._pieces(b"RPUSH", ((item,) for item in whole_list(self.type, value)))

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        return self._pieces(b"RPUSH", ((item,) for item in list_items(self.type, Cursor(data), count)))


class _Set(_Maker):
    def whole(self, value: bytes) -> Iterator[Command]:
        return self._pieces(b"SADD", ((member,) for member in whole_set(self.type, value)))

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        cursor = Cursor(data)
        return self._pieces(b"SADD", ((cursor.string(),) for _ in range(count)))


class _SortedSet(_Maker):
    def whole(self, value: bytes) -> Iterator[Command]:
        return self._pieces(b"ZADD", _scored(whole_zset(self.type, value)))

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        return self._pieces(b"ZADD", _scored(zset_items(self.type, Cursor(data), count)))


def _scored(items: Iterable[tuple[bytes, float]]) -> Iterator[tuple[bytes, bytes]]:
    """Score before member; repr() gives the shortest text that reads back as the same double, inf and -0.0 included."""
    return ((repr(score).encode(), member) for member, score in items)


class _Hash(_Maker):
    """HSET, then the deadlines of fields, those that share one together."""

    def __init__(self, source: Key | KeyStart, name: bytes, target: Target, flavor: str, bounds: Bounds) -> None:
        super().__init__(source, name, target, flavor, bounds)
        self._has_deadlines = target.at_least((7, 4), (9, 0))
        self._verb = b"HSET" if target.at_least((4, 0)) else b"HMSET"
        self._remaining = iter(source.fields or ())
        self._base_ms = int.from_bytes(self.head[:8], "little", signed=True) if self.type == HASH_METADATA else 0

    def check(self, value: bytes) -> None:
        if not self._has_deadlines and self.type in MAY_HAVE_DEADLINES:
            for _, _, deadline in whole_hash(self.type, self.flavor, value, self.fields):
                self._refuse(deadline)

    def _refuse(self, deadline: int | None) -> None:
        if deadline is not None and not self._has_deadlines:
            message = f"hash fields with deadlines need Redis 7.4 or Valkey 9.0; the target is {self.target}"
            raise NotLoadable(f"key {self.key!r}: {message}")

    def whole(self, value: bytes) -> Iterator[Command]:
        return self._fields(whole_hash(self.type, self.flavor, value, self.fields))

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        cursor = Cursor(data)
        return self._fields(hash_items(self.type, self.flavor, cursor, count, self._base_ms, self._remaining))

    def _fields(self, fields: Iterable[HashField]) -> Iterator[Command]:
        """A batch of fields and at once its deadlines, so that no list of deadlines grows with the hash."""
        command = [self._verb, self.name]
        deadlines: dict[int, list[bytes]] = {}
        items = size = 0
        for field, value, deadline in fields:
            command += (field, value)
            if deadline is not None:
                self._refuse(deadline)
                deadlines.setdefault(deadline, []).append(field)
            items += 1
            size += len(field) + len(value)
            if items >= self.bounds.max_items or size >= self.bounds.max_bytes:
                yield from self._flush(command, deadlines)
                command = [self._verb, self.name]
                deadlines = {}
                items = size = 0
        if items:
            yield from self._flush(command, deadlines)

    def _flush(self, command: Command, deadlines: dict[int, list[bytes]]) -> Iterator[Command]:
        yield command
        for deadline, fields in deadlines.items():
            yield [b"HPEXPIREAT", self.name, b"%d" % deadline, b"FIELDS", b"%d" % len(fields), *fields]


class _Stream(_Maker):
    def __init__(self, source: Key | KeyStart, name: bytes, target: Target, flavor: str, bounds: Bounds) -> None:
        super().__init__(source, name, target, flavor, bounds)
        if not target.at_least((5, 0)):
            raise NotLoadable(f"streams need Redis 5.0; the target is {target}")
        self._stream = StreamMaker(source.type, name, target, bounds.max_items)

    def whole(self, value: bytes) -> Iterator[Command]:
        return self._stream.whole(value)

    def part(self, data: bytes, count: int) -> Iterator[Command]:
        return self._stream.part(data, count)

    def tail(self, data: bytes) -> Iterator[Command]:
        return self._stream.tail(data)


_MAKERS: Final = {"list": _List, "set": _Set, "zset": _SortedSet, "hash": _Hash, "stream": _Stream}


def _maker(source: Key | KeyStart, name: bytes, target: Target, flavor: str, bounds: Bounds) -> _Maker:
    kind = type_name(source.type)
    maker = _MAKERS.get(kind)
    if maker is None:
        raise NotLoadable(f"key {source.key!r}: a value of type {kind} can be brought by RESTORE only")
    return maker(source, name, target, flavor, bounds)


def function_command(function: Function, target: Target) -> Command:
    """FUNCTION LOAD REPLACE of a library. Raises NotLoadable where the target has no functions."""
    if function.pre_release:
        raise NotLoadable("a function library of a Redis 7.0 release candidate: no release loads that form")
    if not target.at_least((7, 0)):
        raise NotLoadable(f"functions need Redis 7.0; the target is {target}")
    return [b"FUNCTION", b"LOAD", b"REPLACE", function.code]
