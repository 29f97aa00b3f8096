"""Framing, for any commands cut anywhere, and for any bytes at all."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canal.errors import ProtocolError
from canal.resp import LIMIT, NEED_MORE, SPECIAL, encode, need, parse
from tests.support.framings import FRAMINGS, NAMES

PLAIN = {b"SET": 3, b"GET": 0, b"XADD": -4}
FAR = 1 << 60

words = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"SET", b"GET", b"XADD", b"$1\r\n", b"*1\r\n$4\r\nPING\r\n", b"x" * 300]),
)
commands = st.lists(words, min_size=1, max_size=6)
streams = st.lists(commands, max_size=12)
both = pytest.mark.parametrize("framing", FRAMINGS, ids=NAMES)


def plain(argv: list[bytes]) -> bool:
    wanted = PLAIN.get(argv[0], -1)
    return len(argv) < -wanted if wanted < 0 else wanted in (0, len(argv))


@both
@given(streams, st.integers(1, 20), st.integers(1, 400))
def test_scan_and_parse_together_find_every_command(
    framing: ModuleType, stream: list[list[bytes]], most: int, size: int
) -> None:
    """Whatever the bounds are, each command is met once, in order, at its exact place."""
    raw = [encode(argv) for argv in stream]
    buf = b"".join(raw)
    ends = [len(b"".join(raw[: n + 1])) for n in range(len(raw))]
    pos = number = 0
    while pos < len(buf):
        after, count, why = framing.scan(buf, pos, len(buf), FAR, most, size, PLAIN)
        assert count <= most
        assert all(plain(argv) for argv in stream[number : number + count])
        number += count
        assert after == (ends[number - 1] if number else 0)
        assert after - pos <= size or count == 1
        pos = after
        if why == SPECIAL:
            assert not plain(stream[number])
            found = parse(buf, pos, len(buf))
            assert found == (stream[number], ends[number])
            pos, number = found[1], number + 1
        elif why == NEED_MORE:
            assert pos == len(buf)
        else:
            assert why == LIMIT
    assert number == len(stream)


@both
@given(streams.filter(bool), st.data())
def test_a_cut_at_every_byte_changes_nothing(
    framing: ModuleType, stream: list[list[bytes]], data: st.DataObject
) -> None:
    buf = b"".join(encode(argv) for argv in stream)
    cut = data.draw(st.integers(0, len(buf)))
    whole = framing.scan(buf, 0, len(buf), FAR, 1000, 1 << 20, PLAIN)
    after, count, why = framing.scan(buf[:cut], 0, cut, FAR, 1000, 1 << 20, PLAIN)
    assert after <= whole[0]
    if why == SPECIAL:
        assert (after, count) == whole[:2]
    else:
        rest = framing.scan(buf, after, len(buf), FAR, 1000, 1 << 20, PLAIN)
        assert (rest[0], count + rest[1], rest[2]) == whole
    if after < cut and why == NEED_MORE:
        asked = need(buf[:cut], after, cut)
        found = parse(buf, after, len(buf))
        assert found is not None
        assert cut - after < asked <= found[1] - after


garbage = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from([b"*", b"$", b"\r\n", b"\r", b"\n", b"1", b"0", b"-1", b"9999999999", b"SET", b"x"]),
        max_size=40,
    ).map(b"".join),
)


@both
@given(garbage)
@example(b"*")
@example(b"*1\r")
@example(b"*1\r\n$")
def test_any_bytes_give_an_answer_or_a_protocol_error(framing: ModuleType, data: bytes) -> None:
    try:
        after, count, why = framing.scan(data, 0, len(data), FAR, 1000, 1 << 20, PLAIN)
    except ProtocolError as error:
        assert error.offset is not None
        assert 0 <= error.offset < len(data)
    else:
        assert 0 <= after <= len(data) + 2
        assert why in (NEED_MORE, SPECIAL, LIMIT)
        assert count >= 0
    for work in (parse, need):
        try:
            work(data, 0, len(data))
        except ProtocolError as error:
            assert error.offset is not None


@given(garbage)
def test_plain_and_compiled_framing_agree(data: bytes) -> None:
    def outcome(framing: ModuleType) -> object:
        try:
            return framing.scan(data, 0, len(data), FAR, 1000, 1 << 20, PLAIN)
        except ProtocolError as error:
            return str(error), error.offset

    assert len({repr(outcome(framing)) for framing in FRAMINGS}) == 1
