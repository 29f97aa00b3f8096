"""Handshake, snapshot framing and acknowledgements, however the bytes are cut and whatever they are."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from canal.acks import GETACK, MARGIN, AckPolicy
from canal.bulk import MARK_SIZE, BulkReader
from canal.errors import AuthError, NotRedis, ProtocolError, Unready
from canal.handshake import Continue, FullResync, Handshake, Step
from canal.position import Position

ID = "0123456789abcdef0123456789abcdef01234567"
PING = b"*1\r\n$4\r\nPING\r\n"
MARK = b"q" * 20 + b"z" * 20

ANSWERS = st.sampled_from([b"+OK\r\n", b"-ERR Unrecognized REPLCONF option: x\r\n"])
LAST = st.sampled_from(
    [b"+FULLRESYNC " + ID.encode() + b" 77\r\n", b"+CONTINUE\r\n", b"+CONTINUE " + b"a" * 40 + b"\r\n"]
)
KEEPALIVES = st.integers(0, 3).map(lambda count: b"\n" * count)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places (taken modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def run(made: Handshake, pieces: list[bytes]) -> tuple[bytes, FullResync | Continue | None, bytes]:
    """All that was sent, the result, and what was left over."""
    sent, result, rest = made.start(), None, b""
    for piece in pieces:
        if result is not None:
            rest += piece
            continue
        step: Step = made.receive(piece)
        sent += step.send
        result = step.result
        rest += piece[step.used :]
    return sent, result, rest


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    lines = [b"+PONG\r\n", draw(ANSWERS), draw(ANSWERS), draw(ANSWERS), draw(LAST)]
    return b"".join(draw(KEEPALIVES) + line for line in lines)


@given(conversations(), st.binary(max_size=30), st.lists(st.integers(0, 1000), max_size=20))
def test_cuts_make_no_difference(talk: bytes, rest: bytes, cuts: list[int]) -> None:
    whole = run(Handshake(Position(ID, 5)), [talk + rest])
    assert whole[1] is not None and whole[2] == rest
    assert run(Handshake(Position(ID, 5)), split(talk + rest, cuts)) == whole
    assert run(Handshake(Position(ID, 5)), [bytes([byte]) for byte in talk + rest]) == whole


@given(
    st.integers(0, 5),
    st.lists(
        st.one_of(st.binary(max_size=60), ANSWERS, LAST, st.sampled_from([b"+PONG\r\n", b"-", b"-ERR\r\n"])), max_size=8
    ),
    st.booleans(),
)
def test_garbage_is_read_or_is_one_of_the_documented_errors(good: int, garbage: list[bytes], password: bool) -> None:
    made = Handshake(None, password="p" if password else None)
    made.start()
    usual = [b"+PONG\r\n", *([b"+OK\r\n"] if password else []), b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"][:good]
    try:
        for piece in [*usual, *garbage]:
            if made.receive(piece).result is not None:
                return
    except (AuthError, NotRedis, ProtocolError, Unready) as error:
        assert str(error).isprintable()


RDBS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"q", b"z", MARK[:20], MARK[:39], MARK[1:], b"\n$"]), max_size=12).map(b"".join),
)


def read(data: bytes, pieces: list[bytes]) -> tuple[list[int | None], bytes, bytes]:
    headers: list[int | None] = []
    rdb, rest = bytearray(), b""
    reader = BulkReader(headers.append, rdb.extend)
    for piece in pieces:
        if not reader.done:
            used = reader.feed(bytearray(piece), 0, len(piece))
            assert used == len(piece) or reader.done
            piece = piece[used:]
        rest += piece
    assert reader.done and reader.received == len(rdb)
    return headers, bytes(rdb), rest


@given(RDBS, st.booleans(), st.binary(max_size=60), st.lists(st.integers(0, 1000), max_size=30), KEEPALIVES)
def test_a_snapshot_ends_where_it_ends(rdb: bytes, diskless: bool, rest: bytes, cuts: list[int], first: bytes) -> None:
    if diskless:
        rdb = rdb.split(MARK)[0]
        while MARK in rdb + MARK[:-1]:  # an end that runs into the mark would end earlier, on a real replica too
            rdb = rdb[:-1]
        data = first + b"$EOF:" + MARK + b"\r\n" + rdb + MARK + rest
    else:
        data = first + b"$%d\r\n" % len(rdb) + rdb + rest
    expected = ([None if diskless else len(rdb)], rdb, rest)
    assert read(data, [data]) == expected
    assert read(data, split(data, cuts)) == expected
    assert read(data, [bytes([byte]) for byte in data]) == expected


@given(st.lists(st.binary(max_size=90), max_size=10))
def test_garbage_as_a_snapshot(pieces: list[bytes]) -> None:
    reader = BulkReader(lambda _: None, lambda _: None)
    try:
        for piece in pieces:
            if not reader.done:
                assert 0 <= reader.feed(bytearray(piece), 0, len(piece)) <= len(piece)
    except (ProtocolError, Unready):
        pass
    assert reader.received <= sum(map(len, pieces))
    assert len(MARK) == MARK_SIZE


EVENTS = st.lists(
    st.tuples(st.floats(0, 1.5), st.sampled_from([GETACK, PING, PING + GETACK, b"*1\r\n$4\r\nINCR\r\n", b"x" * 700])),
    max_size=20,
)


@given(EVENTS)
def test_the_exact_offset_is_told_only_in_answer_and_in_silence(events: list[tuple[float, bytes]]) -> None:
    policy = AckPolicy(0.0)
    now, sent, asked_at, answered = 0.0, 1000, None, False
    for wait, block in events:
        now += wait
        due = asked_at is not None and not answered and now - asked_at >= 1.0
        offset = policy.offset(sent, sent, now)
        assert offset == (sent if due else sent - MARGIN)
        answered = answered or due
        sent += len(block)
        policy.received(memoryview(block), now)
        if GETACK in block:
            if asked_at is None or answered:
                asked_at, answered = now, False
        elif block != PING:
            asked_at = None
