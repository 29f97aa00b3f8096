"""Every golden dump reads as the server that wrote it said, however its bytes arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.rdb.decode import ArrayValue, HashValue, ModuleValue, Value, decode
from canal.rdb.events import End, Event, Header, Key
from canal.rdb.reader import RdbReader
from canal.rdb.streams import StreamValue
from canal.rdb.summary import count_elements
from canal.rdb.types import type_name
from tests.support.effort import stride
from tests.support.golden import FILES, NAMES, decoded, expected, near
from tests.support.rdb_apply import read

VERSIONS = {
    "redis-2.8": 6,
    "redis-3.2": 7,
    "redis-4.0": 8,
    "redis-5.0": 9,
    "redis-6.0": 9,
    "redis-6.2": 9,
    "redis-7.0": 10,
    "redis-7.4": 12,
    "redis-8.2": 12,
    "redis-8.6": 13,
    "redis-8.10": 15,
    "valkey-8.1": 11,
    "valkey-9.1": 80,
}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_golden_dump_holds_what_its_server_said(path: Path) -> None:
    events = list(read(path.read_bytes()))

    header, end = events[0], events[-1]
    flavor = path.parent.name.split("-")[0]
    server = path.parent.name.rsplit(".", 1)[0]
    magic = "valkey" if server == "valkey-9.1" else "redis"
    assert header == Header(VERSIONS[server], magic)
    assert isinstance(end, End) and end.checked and end.offset == path.stat().st_size
    keys = [event for event in events if isinstance(event, Key)]
    assert type_name(keys[0].type) == path.stem.split("-")[0], flavor
    for key, told in zip(keys, expected(path), strict=True):
        assert near(decoded(key, magic), told), key


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_input_cut_at_any_byte_gives_the_same_events(path: Path) -> None:
    data = path.read_bytes()
    whole = list(read(data, piece=len(data)))
    at_once = 1 if len(data) < 3000 else 13

    assert list(read(data, piece=at_once)) == whole
    for cut in range(0, len(data), stride(max(1, len(data) // 40))):
        assert _in_two(data, cut) == whole


def _in_two(data: bytes, cut: int) -> list[Event]:
    reader = RdbReader()
    events = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
    reader.finish()
    return events


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_elements_are_counted_as_they_are(path: Path) -> None:
    """The summary believes the counts that a value states; here they are right."""
    reader = RdbReader()
    for key in reader.feed(path.read_bytes()):
        if isinstance(key, Key):
            value = decode(key.type, key.value, reader.flavor, key.fields)
            assert count_elements(key.type, key.value, key.fields) == _size(value)


def _size(value: Value) -> int:
    if isinstance(value, HashValue):
        return len(value.fields)
    if isinstance(value, ArrayValue):
        return len(value.items)
    if isinstance(value, StreamValue):
        return len(value.entries)
    return 0 if isinstance(value, ModuleValue) else len(value)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_reading_may_go_on_at_every_key(path: Path) -> None:
    data = path.read_bytes()
    reader = RdbReader()
    events = reader.feed(data)
    keys = [event for event in events if isinstance(event, Key)]
    for number, key in enumerate(keys):
        point = reader.resume_point(key.db, key.end)
        rest = RdbReader(resume=type(point).from_json(point.to_json()))
        later = rest.feed(data[key.end :])
        rest.finish()
        assert [event for event in later if isinstance(event, Key)] == keys[number + 1 :]


def test_every_encoding_has_its_golden_dump() -> None:
    """Zipmaps, which no server at hand writes, are in test_rdb_reader.py."""
    stems = {path.stem for path in FILES}
    for kind in ("list-linkedlist", "list-ziplist", "list-quicklist", "list-quicklist-2"):
        assert kind in stems
    for kind in ("set-hashtable", "set-intset", "set-listpack", "zset-skiplist-ascii", "zset-skiplist"):
        assert kind in stems
    for kind in ("zset-ziplist", "zset-listpack", "hash-hashtable", "hash-ziplist", "hash-listpack"):
        assert kind in stems
    for kind in ("hash-hashtable-ttl", "hash-listpack-ttl", "hash-template-listpack", "hash-template-array"):
        assert kind in stems
    for version in (1, 2, 3, 4, 5):
        assert f"stream-stream-{version}" in stems
    for form in ("6bit", "14bit", "32bit", "int8", "int16", "int32", "lzf"):
        assert f"string-string-{form}" in stems
    assert {"array-sliced-array", "module-module-2"} <= stems
