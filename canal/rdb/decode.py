"""Values as Python objects: for tests, inspection and whoever needs to look inside. Commands have their own, lazier
way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from canal.errors import RdbError
from canal.rdb.elements import Cursor, whole_hash, whole_list, whole_set, whole_zset
from canal.rdb.records import module_name
from canal.rdb.streams import StreamValue, read_stream
from canal.rdb.types import ARRAY, MODULE_2, REDIS, type_name
from canal.rdb.wire import Malformed, Short, read_string


@dataclass(frozen=True, slots=True)
class HashValue:
    """``deadlines``: Unix milliseconds of the fields that have one."""

    fields: dict[bytes, bytes]
    deadlines: dict[bytes, int]


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """Redis 8.8: ``items`` by index; ``insert_index``: where ARINSERT goes on, None when it was never used."""

    items: dict[int, bytes | int | float]
    insert_index: int | None


@dataclass(frozen=True, slots=True)
class ModuleValue:
    """Opaque: only the module ``name`` (with its encoding version) knows what ``raw`` means."""

    name: str
    raw: bytes


Value = bytes | list[bytes] | set[bytes] | dict[bytes, float] | HashValue | StreamValue | ArrayValue | ModuleValue


@contextmanager
def rdb_errors(key: bytes | None = None, base: int = 0) -> Iterator[None]:
    """Turn what wire.py raises into RdbError; ``base``: offset of the value's first byte."""
    try:
        yield
    except Short as short:
        raise RdbError(f"a value ends before its byte {short.need}", base, key) from None
    except Malformed as bad:
        raise RdbError(bad.message, base + bad.at, key) from None


def decode(
    value_type: int,
    value: bytes,
    flavor: str = REDIS,
    fields: tuple[bytes, ...] | None = None,
    key: bytes | None = None,
) -> Value:
    """A value as it stands in an RDB of ``flavor``, as bytes, list, set, dict of scores, or one of the classes here.

    ``fields``: those of its template (Key.fields); ``key`` is for the message. Raises RdbError with an offset within
    the value.
    """
    with rdb_errors(key):
        return _decode(value_type, value, flavor, fields)


def _decode(value_type: int, value: bytes, flavor: str, fields: tuple[bytes, ...] | None) -> Value:
    match type_name(value_type):
        case "string":
            cursor = Cursor(value)
            plain = cursor.string()
            cursor.finish()
            return plain
        case "list":
            return list(whole_list(value_type, value))
        case "set":
            return set(whole_set(value_type, value))
        case "zset":
            return dict(whole_zset(value_type, value))
        case "hash":
            return _hash(value_type, flavor, value, fields)
        case "stream":
            return read_stream(value_type, value)
    if value_type == ARRAY:
        return _array(value)
    if value_type == MODULE_2:
        return ModuleValue(module_name(Cursor(value).length()), value)
    raise Malformed(f"value type {value_type} cannot be decoded", 0)


def _hash(value_type: int, flavor: str, value: bytes, fields: tuple[bytes, ...] | None) -> HashValue:
    found: dict[bytes, bytes] = {}
    deadlines: dict[bytes, int] = {}
    for field, content, deadline in whole_hash(value_type, flavor, value, fields):
        found[field] = content
        if deadline is not None:
            deadlines[field] = deadline
    return HashValue(found, deadlines)


def _array(value: bytes) -> ArrayValue:
    """Count, a flag and where it is set the insertion index, then index and tagged item; layout deduced from Redis
    8.10.
    """
    cursor = Cursor(value)
    count = cursor.length()
    insert_index = cursor.length() if cursor.raw(1) == b"\x01" else None
    items: dict[int, bytes | int | float] = {}
    for _ in range(count):
        index, at = cursor.length(), cursor.pos
        tag = cursor.raw(1)[0]
        if tag == 0:
            items[index], cursor.pos = read_string(value, cursor.pos)
        elif tag == 1:
            items[index] = cursor.int64()
        elif tag == 2:
            items[index] = cursor.double()
        elif tag == 3:
            items[index] = cursor.raw(cursor.raw(1)[0])
        else:
            raise Malformed(f"expected an array element, got tag {tag}", at)
    cursor.finish()
    return ArrayValue(items, insert_index)
