"""The elements of collections, one at a time, from a whole value or from a part of one.

``Values`` names what is being read: type, flavor, and what stood before the elements. Its methods are generators, so
that a consumer of a long value holds one element at a time. Raise Malformed or Short.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import Final, TypeVar, final

from canal.rdb.packed import Entry, intset, listpack, text, ziplist, zipmap
from canal.rdb.types import (
    HASH_LISTPACK,
    HASH_LISTPACK_EX,
    HASH_LISTPACK_EX_PRE_GA,
    HASH_METADATA,
    HASH_METADATA_PRE_GA,
    HASH_TEMPLATE_ARRAY_REF,
    HASH_TEMPLATE_LISTPACK,
    HASH_TEMPLATE_LISTPACK_REF,
    HASH_ZIPLIST,
    HASH_ZIPMAP,
    LIST,
    LIST_QUICKLIST,
    LIST_ZIPLIST,
    SET,
    SET_INTSET,
    VALKEY,
    VALKEY_HASH_2,
    ZSET,
    ZSET_2,
    ZSET_ZIPLIST,
)
from canal.rdb.wire import Malformed, Short, read_length, read_string

PLAIN: Final = 1  # a quicklist node that is one element, not a listpack of them
PACKED: Final = 2

HashField = tuple[bytes, bytes, int | None]  # field, value, deadline in Unix milliseconds
T = TypeVar("T")
_WORDS: Final = {253: math.nan, 254: math.inf, 255: -math.inf}
_DOUBLE: Final = struct.Struct("<d")


@final
class Cursor:
    """A position in bytes that moves as items are read. Each read raises Short or Malformed."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos

    def length(self) -> int:
        value, self.pos = read_length(self.data, self.pos)
        return value

    def string(self) -> bytes:
        value, self.pos = read_string(self.data, self.pos)
        return value

    def raw(self, size: int) -> bytes:
        end = self.pos + size
        if end > len(self.data):
            raise Short(end)
        piece = self.data[self.pos : end]
        self.pos = end
        return piece

    def int64(self) -> int:
        return int.from_bytes(self.raw(8), "little", signed=True)

    def double(self) -> float:
        value: float = _DOUBLE.unpack(self.raw(8))[0]
        return value

    def finish(self) -> None:
        """Raises Malformed when bytes are left."""
        if self.pos != len(self.data):
            raise Malformed(f"{len(self.data) - self.pos} bytes follow the end of the value", self.pos)


def list_items(value_type: int, cursor: Cursor, count: int) -> Iterator[bytes]:
    """Items of ``count`` elements (list, or quicklist nodes) at the cursor."""
    for _ in range(count):
        if value_type == LIST:
            yield cursor.string()
        elif value_type == LIST_QUICKLIST:
            yield from map(text, _within(cursor, ziplist))
        else:
            at = cursor.pos
            container = cursor.length()
            if container == PLAIN:
                yield cursor.string()
            elif container == PACKED:
                yield from map(text, _within(cursor, listpack))
            else:
                raise Malformed(f"expected a quicklist node of kind 1 or 2, got {container}", at)


def zset_items(value_type: int, cursor: Cursor, count: int) -> Iterator[tuple[bytes, float]]:
    """(member, score) of ``count`` elements at the cursor."""
    for _ in range(count):
        member = cursor.string()
        at = cursor.pos
        score = cursor.double() if value_type == ZSET_2 else ascii_double(cursor)
        yield member, _a_number(score, at)


def ascii_double(cursor: Cursor) -> float:
    """A score of RDB versions before 8: a length byte and its text; 253 to 255 are NaN, inf and -inf."""
    at = cursor.pos
    length = cursor.raw(1)[0]
    if length in _WORDS:
        return _WORDS[length]
    return _score(cursor.raw(length), at)


def hash_items(
    value_type: int, flavor: str, cursor: Cursor, count: int, base_ms: int, fields: Iterator[bytes]
) -> Iterator[HashField]:
    """``count`` fields at the cursor. ``base_ms``: the earliest deadline, where the layout counts from it."""
    if flavor == VALKEY and value_type == VALKEY_HASH_2:
        for _ in range(count):
            field, value, deadline = cursor.string(), cursor.string(), cursor.int64()
            yield field, value, None if deadline < 0 else deadline
    elif value_type in (HASH_METADATA, HASH_METADATA_PRE_GA):
        for _ in range(count):
            ttl = cursor.length()
            field, value = cursor.string(), cursor.string()
            yield field, value, (base_ms + ttl - 1 if value_type == HASH_METADATA else ttl) if ttl else None
    elif value_type == HASH_TEMPLATE_ARRAY_REF:
        for _ in range(count):
            at = cursor.pos
            template_field = next(fields, None)
            if template_field is None:
                raise Malformed("more values than the hash template has fields", at)
            yield template_field, cursor.string(), None
    else:
        for _ in range(count):
            field = cursor.string()
            yield field, cursor.string(), None


def whole_list(value_type: int, value: bytes) -> Iterator[bytes]:
    """All items of a list value."""
    cursor = Cursor(value)
    if value_type == LIST_ZIPLIST:
        yield from map(text, _within(cursor, ziplist))
    else:
        yield from list_items(value_type, cursor, cursor.length())
    cursor.finish()


def whole_set(value_type: int, value: bytes) -> Iterator[bytes]:
    """All members of a set value."""
    cursor = Cursor(value)
    if value_type == SET:
        for _ in range(cursor.length()):
            yield cursor.string()
    elif value_type == SET_INTSET:
        yield from (b"%d" % member for member in _within(cursor, intset))
    else:
        yield from map(text, _within(cursor, listpack))
    cursor.finish()


def whole_zset(value_type: int, value: bytes) -> Iterator[tuple[bytes, float]]:
    """All (member, score) of a sorted set value."""
    cursor = Cursor(value)
    if value_type in (ZSET, ZSET_2):
        yield from zset_items(value_type, cursor, cursor.length())
    else:
        entries = _within(cursor, ziplist if value_type == ZSET_ZIPLIST else listpack)
        for member, score in _groups(entries, 2):
            yield text(member), _a_number(float(score) if isinstance(score, int) else _score(score, 0), 0)
    cursor.finish()


def whole_hash(
    value_type: int, flavor: str, value: bytes, fields: tuple[bytes, ...] | None = None
) -> Iterator[HashField]:
    """All fields of a hash value. ``fields``: of its template, for the types that refer to one."""
    cursor = Cursor(value)
    if value_type == HASH_ZIPMAP:
        for pair in _within(cursor, zipmap):
            yield *pair, None
    elif value_type in (HASH_ZIPLIST, HASH_LISTPACK):
        for name, content in _groups(_within(cursor, ziplist if value_type == HASH_ZIPLIST else listpack), 2):
            yield text(name), text(content), None
    elif value_type in (HASH_LISTPACK_EX, HASH_LISTPACK_EX_PRE_GA):
        if value_type == HASH_LISTPACK_EX:
            cursor.int64()  # the earliest deadline; the deadlines themselves are absolute
        for name, content, deadline in _groups(_within(cursor, listpack), 3):
            yield text(name), text(content), _deadline(deadline)
    elif value_type in (HASH_TEMPLATE_LISTPACK, HASH_TEMPLATE_LISTPACK_REF):
        yield from _template_listpack(value_type, cursor, fields)
    elif value_type == HASH_TEMPLATE_ARRAY_REF:
        names = _template_fields(cursor, fields)
        yield from hash_items(value_type, flavor, cursor, len(names), 0, iter(names))
    else:
        base_ms = cursor.int64() if value_type == HASH_METADATA else 0
        yield from hash_items(value_type, flavor, cursor, cursor.length(), base_ms, iter(()))
    cursor.finish()


def _template_fields(cursor: Cursor, fields: tuple[bytes, ...] | None) -> tuple[bytes, ...]:
    at = cursor.pos
    number = cursor.length()
    if fields is None:
        raise Malformed(f"hash template {number} is not known here", at)
    return fields


def _template_listpack(value_type: int, cursor: Cursor, fields: tuple[bytes, ...] | None) -> Iterator[HashField]:
    """A listpack of values; before them the template's number, or before the listpack the fields themselves."""
    if value_type == HASH_TEMPLATE_LISTPACK:
        fields = tuple(cursor.string() for _ in range(cursor.length()))
    at = cursor.pos
    values = _within(cursor, listpack)
    if value_type == HASH_TEMPLATE_LISTPACK_REF or (fields is not None and len(values) == len(fields) + 1):
        values = values[1:]
    if fields is None or len(values) != len(fields):
        raise Malformed(f"a hash template of {len(fields or ())} fields with {len(values)} values", at)
    for field, value in zip(fields, values, strict=True):
        yield field, text(value), None


def _deadline(entry: Entry) -> int | None:
    if not isinstance(entry, int) or entry < 0:
        raise Malformed(f"expected a field's deadline, got {entry!r}", 0)
    return entry or None


def _within(cursor: Cursor, unpack: Callable[[bytes], list[T]]) -> list[T]:
    """The string at the cursor, unpacked; an error tells where that string stands, too."""
    at = cursor.pos
    blob = cursor.string()
    try:
        return unpack(blob)
    except Malformed as bad:
        raise Malformed(f"{bad.message} (at byte {bad.at} of the packed string)", at) from None
    except IndexError:
        raise Malformed(f"a packed string of {len(blob)} bytes that ends within an entry", at) from None


def _groups(entries: list[Entry], size: int) -> Iterator[tuple[Entry, ...]]:
    if len(entries) % size:
        raise Malformed(f"expected groups of {size} entries, got {len(entries)} entries", 0)
    return zip(*[iter(entries)] * size, strict=True)


def _score(digits: bytes, at: int) -> float:
    try:
        return float(digits)
    except ValueError:
        raise Malformed(f"expected a score, got {digits[:40]!r}", at) from None


def _a_number(score: float, at: int) -> float:
    if math.isnan(score):
        raise Malformed("a score that is not a number", at)
    return score
