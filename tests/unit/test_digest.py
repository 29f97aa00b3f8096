"""Which keys a stretch of the stream writes, as a link would carry it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.errors import CanalError
from canal.position import Position
from canal.resp import encode
from sync.beyond import has_stream_from
from sync.digest import Digest, Unknowable
from sync.dirtyset import DirtySet
from sync.homes import FUNCTIONS, Place
from sync.tag import Tagger, checkpoint_key
from sync.target.fence import ServerInfo

AT = Position("a" * 40, 1000)


def tagged(origin: str, *commands: list[bytes]) -> list[list[bytes]]:
    tag = Tagger(checkpoint_key("t", "0"), "uid", origin, None).make(Position("c" * 40, 5), 0)
    return [[b"MULTI"], tag, *commands, [b"EXEC"]]


def digest(*commands: list[bytes], after: int = -1, cut: int = 1 << 20, expired: set[Place] | None = None) -> Digest:
    made = Digest(
        DirtySet(), AT, 0, "x", frozenset({"y", "z"}), lambda place, at, end: place in (expired or set()), after
    )
    data = b"".join(map(encode, commands))
    for at in range(0, len(data), cut):
        made.feed(data[at : at + cut], 5_000)
    return made


def keys_of(made: Digest, *asked: str | Place) -> list[bool]:
    return [((0, one.encode()) if isinstance(one, str) else one) in made.keys for one in asked]


COMMANDS = [
    [b"SET", b"set", b"1"],
    [b"hset", b"hash", b"f", b"v"],
    [b"MSET", b"m1", b"1", b"m2", b"2"],
    [b"DEL", b"d1"],
    [b"DEL", b"d2", b"d3"],
    [b"RENAME", b"from", b"to"],
    [b"SELECT", b"3"],
    [b"INCR", b"three"],
    [b"MULTI"],
    [b"LPUSH", b"in", b"v"],
    [b"UNLINK", b"un"],
    [b"EXEC"],
    [b"MOVE", b"moved", b"5"],
    [b"SELECT", b"0"],
    [b"PUBLISH", b"channel", b"message"],
    *tagged("y", [b"SET", b"peers", b"1"], [b"DEL", b"peers2"], [b"MSET", b"peers3", b"1"]),
    *tagged("z", [b"SET", b"directs", b"1"]),
    *tagged("w", [b"SET", b"passed", b"1"], [b"DEL", b"passed2"], [b"RENAME", b"passed3", b"passed4"]),
    [b"SET", b"redis-canal:mine", b"1"],
    [b"FUNCTION", b"LOAD", b"REPLACE", b"#!lua name=lib\n"],
    [b"PING"],
    [b"SET", b"last", b"1"],
]
WRITTEN = ["set", "hash", "m1", "m2", "d1", "d2", "d3", "from", "to", "passed", "passed2", "passed3", "passed4", "last"]
WRITTEN_ELSEWHERE: list[Place] = [(3, b"three"), (3, b"in"), (3, b"un"), (3, b"moved"), (5, b"moved")]
NOT = ["three", "peers", "peers2", "peers3", "directs", "redis-canal:mine", "channel", "moved"]


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_what_the_link_would_carry_counts_as_written(cut: int) -> None:
    made = digest(*COMMANDS, cut=cut)
    assert all(keys_of(made, *WRITTEN, *WRITTEN_ELSEWHERE, (FUNCTIONS, b"lib")))
    assert not any(keys_of(made, *NOT))
    assert len(made.keys) == len(WRITTEN) + len(WRITTEN_ELSEWHERE) + 1
    assert made.position.offset == made.next == AT.offset + sum(len(encode(one)) for one in COMMANDS)
    assert made.db == 0


@given(st.integers(0, len(COMMANDS)), st.integers(1, 400))
def test_reading_goes_on_where_it_says(stop: int, cut: int) -> None:
    """From ``position`` on with a new reader, as after a crash, nothing is missing."""
    before = digest(*COMMANDS[:stop], cut=cut)
    data = b"".join(map(encode, COMMANDS))
    after = Digest(before.keys, before.position, before.db, "x", frozenset({"y", "z"}), lambda *_: False)
    after.feed(data[before.position.offset - AT.offset :], 0)
    assert after.keys.packed() == digest(*COMMANDS).keys.packed()


def test_what_the_other_side_has_does_not_count() -> None:
    first = [[b"SET", b"k%d" % number, b"1"] for number in range(5)]
    seen = AT.offset + sum(len(encode(one)) for one in first[:3])
    for cut in (1, 11, 1 << 20):
        made = digest(*first, after=seen, cut=cut)
        assert keys_of(made, *(f"k{number}" for number in range(5))) == [False, False, False, True, True]


def test_the_delete_of_an_expired_key_is_nobodys_write() -> None:
    gone = {(0, b"gone"), (0, b"renewed"), (0, b"again")}
    made = digest(
        [b"SET", b"renewed", b"1"],
        [b"DEL", b"gone"],
        [b"DEL", b"renewed"],
        [b"UNLINK", b"again"],
        [b"SET", b"again", b"2"],
        [b"DEL", b"users"],
        expired=gone,
    )
    assert keys_of(made, "gone", "renewed", "again", "users") == [False, True, True, True]
    assert not any(keys_of(digest([b"MULTI"], [b"DEL", b"gone"], [b"EXEC"], expired=gone), "gone"))


@pytest.mark.parametrize(
    "command",
    [
        [b"FLUSHALL"],
        [b"FLUSHDB"],
        [b"SWAPDB", b"0", b"1"],
        [b"FUNCTION", b"FLUSH"],
        [b"FUNCTION", b"RESTORE", b"x"],
        [b"EVAL", b"return 1", b"1", b"k"],
        [b"MODULE.OF", b"k", b"nobody", b"knows"],
    ],
    ids=lambda command: command[0].decode(),
)
def test_commands_that_do_not_name_their_keys_end_it(command: list[bytes]) -> None:
    with pytest.raises(Unknowable, match="does not name the keys that it changed"):
        digest([b"SET", b"k", b"1"], command)
    with pytest.raises(Unknowable):
        digest([b"MULTI"], command, [b"EXEC"])
    assert not len(digest(*tagged("y", command)).keys)  # the other side's own


def test_what_is_no_stream_ends_it() -> None:
    with pytest.raises(CanalError):
        digest([b"SET", b"k", b"1"]).feed(b"garbage\r\n", 0)


def test_more_keys_than_may_be_known_end_it() -> None:
    made = Digest(DirtySet(max_keys=10), AT, 0, "x", frozenset({"y"}), lambda *_: False)
    data = b"".join(encode([b"SET", b"k%d" % number, b"1"]) for number in range(100_000))
    with pytest.raises(Unknowable, match="more than 10 keys"):
        made.feed(data, 0)
        len(made.keys)  # counted now and then
        made.feed(encode([b"PING"]), 0)


@pytest.mark.parametrize(
    ("replid", "offset", "served"),
    [("a", 99, True), ("a", 98, False), ("a", 200, True), ("a", 201, False), ("b", 149, True), ("b", 150, False)],
)
def test_a_source_is_asked_only_for_what_it_has(replid: str, offset: int, served: bool) -> None:
    """Bytes 100 to 200 are in its backlog; up to 149 its history is another's, too."""
    source = ServerInfo("7.0.0", "redis", "r", "a" * 40, replid2="b" * 40, second_offset=150, backlog_first=100)
    source = replace(source, offset=200)
    assert has_stream_from(source, Position(replid * 40, offset)) is served
    assert not has_stream_from(source, Position("c" * 40, 120))
    assert not has_stream_from(replace(source, backlog_first=0), Position("a" * 40, 120))
