"""Leaving out what is overwritten or deleted later: the same data in the end, for any commands."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.resp import encode, parse
from tests.support.compactions import COMPACTIONS, NAMES

Data = dict[tuple[int, bytes], bytes]
both = pytest.mark.parametrize("compaction", COMPACTIONS, ids=NAMES)
keys = st.sampled_from([b"a", b"b", b"c", b"\r\n"])
values = st.sampled_from([b"", b"1", b"\r\n*1"])
timed = st.tuples(st.just(b"SET"), keys, values, st.sampled_from([b"PXAT", b"pxat"]), st.sampled_from([b"0", b"9"]))
commands = st.one_of(
    st.tuples(st.sampled_from([b"SET", b"set", b"Set"]), keys, values),
    timed,
    st.tuples(st.just(b"SET"), keys, values, st.sampled_from([b"NX", b"KEEPTTL", b"GET"])),
    st.tuples(st.sampled_from([b"APPEND", b"append", b"RESTORE"]), keys, values),
    st.tuples(st.sampled_from([b"DEL", b"UNLINK", b"del"]), keys),
    st.tuples(st.just(b"DEL"), keys, keys),
    st.tuples(st.just(b"MSET"), keys, values, keys, values),
    st.tuples(st.sampled_from([b"RENAME", b"COPY", b"EVAL"]), keys, keys),
    st.tuples(st.just(b"MOVE"), keys, st.sampled_from([b"0", b"1"])),
    st.tuples(st.just(b"FLUSHALL")),
).map(list)
pieces = st.lists(st.tuples(st.integers(0, 1), st.lists(commands, min_size=1, max_size=8)), max_size=6)


def carry_out(stream: list[tuple[int, list[bytes]]]) -> tuple[Data, Data]:
    """A model server whose values are logs of what was done to them: data and deadlines."""
    data: Data = {}
    deadlines: Data = {}
    for db, argv in stream:
        step(data, deadlines, db, argv)
    return data, deadlines


def step(data: Data, deadlines: Data, db: int, argv: list[bytes]) -> None:
    name, place = argv[0].upper(), (db, argv[1] if len(argv) > 1 else b"")
    if name == b"FLUSHALL":
        data.clear()
        deadlines.clear()
    elif name == b"SET":
        assign(data, deadlines, place, argv)
    elif name == b"MSET":
        for key, value in zip(argv[1::2], argv[2::2], strict=True):
            assign(data, deadlines, (db, key), [b"SET", key, value])
    elif name in (b"DEL", b"UNLINK"):
        for key in argv[1:]:
            data.pop((db, key), None)
            deadlines.pop((db, key), None)
    elif name in (b"APPEND", b"RESTORE"):
        data[place] = data.get(place, b"") + b"|" + encode(argv)
    elif name == b"MOVE":
        if place in data:
            data[int(argv[2]), argv[1]] = data.pop(place)
    elif place in data:  # what reads one key and writes another
        data[db, argv[2]] = data.get((db, argv[2]), b"") + data[place] + name


def assign(data: Data, deadlines: Data, place: tuple[int, bytes], argv: list[bytes]) -> None:
    option = argv[3].upper() if len(argv) > 3 else b""
    if option == b"PXAT" and argv[4] == b"0":
        return  # an error
    if option == b"NX" and place in data:
        return
    data[place] = argv[2] + (data.get(place, b"") if option == b"GET" else b"")  # as if GET mattered
    if option == b"PXAT":
        deadlines[place] = argv[4]
    elif option != b"KEEPTTL":
        deadlines.pop(place, None)


def parsed(raw: bytes) -> Iterator[list[bytes]]:
    at = 0
    while at < len(raw):
        found = parse(raw, at, len(raw))
        assert found is not None
        argv, at = found
        yield argv


@both
@given(pieces, pieces)
def test_the_data_is_the_same(compaction: ModuleType, before: list, stream: list) -> None:  # type: ignore[type-arg]
    """Whatever stood there before."""
    there = [(db, argv) for db, some in before for argv in some]
    doomed: dict[int, set[bytes]] = {}
    result: list[tuple[int, list[bytes]]] = []
    for db, some in reversed(stream):
        raw, kept = compaction.needless(b"".join(map(encode, some)), db, doomed)
        left = list(parsed(raw))
        assert left == [some[number] for number in kept]
        result[:0] = [(db, argv) for argv in left]
    whole = [(db, argv) for db, some in stream for argv in some]
    assert carry_out(there + result) == carry_out(there + whole)


@both
def test_a_counter_that_is_deleted_in_the_end_leaves_the_delete(compaction: ModuleType) -> None:
    stream = [[b"SET", b"k", b"1"], *[[b"INCR", b"k"]] * 9, [b"HSET", b"other", b"f", b"v"], [b"DEL", b"k"]]
    raw, kept = compaction.needless(b"".join(map(encode, stream)), 0, {})
    assert list(parsed(raw)) == stream[-2:]
    assert kept == [10, 11]


@both
def test_what_is_read_by_another_key_stays(compaction: ModuleType) -> None:
    stream = [[b"SET", b"k", b"1"], [b"COPY", b"k", b"j"], [b"SET", b"k", b"2"]]
    raw = b"".join(map(encode, stream))
    assert compaction.needless(raw, 0, {}) == (raw, [0, 1, 2])
