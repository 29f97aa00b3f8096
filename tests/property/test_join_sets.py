"""Runs of SET joined to MSET: the same result for any commands, and every reply still names the user's command."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.resp import encode, parse
from tests.support.framings import FRAMINGS, NAMES

words = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"", b"\r\n", b"SET", b"a", b"b", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n", b"x" * 300]),
)
sets = st.tuples(st.sampled_from([b"SET", b"set", b"sEt"]), words, words).map(list)
others = st.one_of(
    st.lists(words, min_size=1, max_size=5),
    st.tuples(st.just(b"SET"), words, words, st.just(b"PXAT"), st.just(b"1")).map(list),
    st.tuples(st.sampled_from([b"GET", b"SEX", b"SETS", b"DEL"]), words, words).map(list),
)
streams = st.lists(st.one_of(sets, sets, sets, others), max_size=40)
both = pytest.mark.parametrize("framing", FRAMINGS, ids=NAMES)


def parsed(raw: bytes) -> list[list[bytes]]:
    out, at = [], 0
    while at < len(raw):
        found = parse(raw, at, len(raw))
        assert found is not None
        argv, at = found
        out.append(argv)
    return out


def expanded(stream: list[list[bytes]]) -> list[list[bytes]]:
    """Each MSET as SETs, and all spelled alike."""
    out: list[list[bytes]] = []
    for argv in stream:
        if argv[0] == b"MSET" and len(argv) % 2:
            pairs = zip(argv[1::2], argv[2::2], strict=True)
            out += [[b"SET", key, value] for key, value in pairs]
        else:
            out.append([b"SET", *argv[1:]] if len(argv) == 3 and argv[0].upper() == b"SET" else argv)
    return out


@both
@given(streams, st.integers(1, 12))
def test_joined_commands_are_the_same_commands(framing: ModuleType, stream: list[list[bytes]], most: int) -> None:
    raw = b"".join(map(encode, stream))
    runs: list[int] = []
    joined, count = framing.join_sets(raw, most, runs)
    assert framing.join_sets(raw, most) == (joined, count)
    result = parsed(joined)
    assert len(result) == count == len(runs)
    assert sum(runs) == len(stream)
    assert expanded(result) == expanded(stream)
    for argv, run in zip(result, runs, strict=True):
        assert run == 1 or (argv[0] == b"MSET" and len(argv) == 1 + 2 * run and run <= most)


@both
def test_what_cannot_be_joined_is_not_copied(framing: ModuleType) -> None:
    raw = encode([b"SET", b"a", b"1"]) + encode([b"INCR", b"n"]) + encode([b"SET", b"b", b"2"])
    joined, count = framing.join_sets(raw, 100)
    assert joined is raw
    assert count == 3


@both
def test_a_run_ends_where_something_else_stands_between(framing: ModuleType) -> None:
    stream = [[b"SET", b"a", b"1"], [b"SET", b"b", b"2"], [b"APPEND", b"a", b"3"], [b"SET", b"a", b"4"]]
    joined, _ = framing.join_sets(b"".join(map(encode, stream)), 100)
    assert parsed(joined) == [[b"MSET", b"a", b"1", b"b", b"2"], *stream[2:]]
