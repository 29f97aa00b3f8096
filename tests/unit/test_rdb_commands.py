"""Commands for a value: bounded pieces, exact scores, and what must not be made. Live servers: test_rdb_versions.py."""

from __future__ import annotations

import struct

import pytest

from canal.errors import RdbError
from canal.rdb.commands import BigKey, Bounds, Command, function_command, key_commands
from canal.rdb.events import Function, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.target import NotLoadable, Target
from tests.support.rdb_apply import read
from tests.support.rdb_build import key as record
from tests.support.rdb_build import length, listpack, little, lp_int, lp_text, rdb, string

NEW = Target.of("redis", "8.2.3")


def made(kind: int, value: bytes, target: Target = NEW, **options: object) -> list[Command]:
    key = Key(0, b"k", kind, value, None, None, None, 100, 200 + len(value))
    return list(key_commands(key, target, **options))  # type: ignore[arg-type]


def test_a_string() -> None:
    assert made(0, b"\xc1\x39\x30") == [[b"SET", b"k", b"12345"]]


def test_a_deadline_comes_last_and_a_rename_before_it() -> None:
    key = Key(0, b"k", 1, b"\x01\x01a", 1234567890123, 5, None, 0, 9)
    assert list(key_commands(key, NEW)) == [
        [b"DEL", b"k"],
        [b"RPUSH", b"k", b"a"],
        [b"PEXPIREAT", b"k", b"1234567890123"],
    ]
    assert list(key_commands(key, NEW, name=b"other", temporary=b"tmp")) == [
        [b"DEL", b"tmp"],
        [b"RPUSH", b"tmp", b"a"],
        [b"RENAME", b"tmp", b"other"],
        [b"PEXPIREAT", b"other", b"1234567890123"],
    ]


def test_commands_are_cut_by_number_and_by_size() -> None:
    value = length(10) + b"".join(string(b"%d" % i) for i in range(10))
    pushed = made(1, value, bounds=Bounds(max_items=4))[1:]
    assert [command[2:] for command in pushed] == [
        [b"0", b"1", b"2", b"3"],
        [b"4", b"5", b"6", b"7"],
        [b"8", b"9"],
    ]
    long = length(5) + b"".join(string(b"x" * 60) for _ in range(5))
    assert [len(command) - 2 for command in made(2, long, bounds=Bounds(max_bytes=100))[1:]] == [2, 2, 1]
    fields = length(3) + b"".join(string(b"f%d" % i) + string(b"v") for i in range(3))
    assert [len(command) - 2 for command in made(4, fields, bounds=Bounds(max_items=2))[1:]] == [4, 2]


@pytest.mark.parametrize(
    "score",
    [
        0.1 + 0.2,
        1e-320,
        1.7976931348623157e308,
        9007199254740993.0,
        -0.0,
        float("inf"),
        -float("inf"),
        123456789.12345679,
    ],
)
def test_scores_keep_every_digit(score: float) -> None:
    ((_, (verb, name, text, member)),) = [made(5, b"\x01\x01m" + struct.pack("<d", score))]
    assert (verb, name, member) == (b"ZADD", b"k", b"m")
    assert struct.pack("<d", float(text)) == struct.pack("<d", score)


def test_field_deadlines_follow_their_fields_at_once() -> None:
    entries = [lp_text(b"a"), lp_int(1), lp_int(5000), lp_text(b"b"), lp_int(2), lp_int(0), lp_text(b"c"), lp_int(3)]
    value = little(5000, 8) + string(listpack(*entries, lp_int(5000)))
    assert made(25, value)[1:] == [
        [b"HSET", b"k", b"a", b"1", b"b", b"2", b"c", b"3"],
        [b"HPEXPIREAT", b"k", b"5000", b"FIELDS", b"2", b"a", b"c"],
    ]
    assert [command[0] for command in made(25, value, bounds=Bounds(max_items=1))[1:]] == [
        b"HSET",
        b"HPEXPIREAT",
        b"HSET",
        b"HSET",
        b"HPEXPIREAT",
    ]


@pytest.mark.parametrize("target", [Target.of("redis", "7.2.4"), Target.of("valkey", "8.1.8")])
def test_nothing_is_made_of_a_hash_whose_deadlines_would_be_lost(target: Target) -> None:
    value = little(5000, 8) + length(2) + b"\x00\x01a\x01b" + b"\x01\x01c\x01d"
    with pytest.raises(NotLoadable, match=r"key b'k': hash fields with deadlines need Redis 7\.4 or Valkey 9\.0"):
        next(key_commands(Key(0, b"k", 24, value, None, None, None, 0, 0), target))
    without = little(5000, 8) + length(1) + b"\x00\x01a\x01b"
    assert made(24, without, target) == [[b"DEL", b"k"], [b"HSET", b"k", b"a", b"b"]]


def test_old_servers_get_the_commands_that_they_know() -> None:
    assert made(4, b"\x01\x01f\x01v", Target.of("redis", "3.2.6"))[1][0] == b"HMSET"
    with pytest.raises(NotLoadable, match=r"streams need Redis 5\.0; the target is Redis 4\.0\.14"):
        made(15, b"\x00" * 5, Target.of("redis", "4.0.14"))


@pytest.mark.parametrize("kind", [7, 28])
def test_modules_and_arrays_are_not_for_commands(kind: int) -> None:
    with pytest.raises(NotLoadable, match="RESTORE only"):
        made(kind, b"\x00")


def test_broken_bytes_name_the_key_and_the_place() -> None:
    with pytest.raises(RdbError, match=r"before its byte 4 \(at byte 200, key b'k'"):
        made(1, b"\x02\x01a")


def node(first: int, *entries: bytes) -> bytes:
    head = [lp_int(len(entries)), lp_int(0), lp_int(1), lp_text(b"f"), lp_int(0)]
    packed: list[bytes] = []
    for number, text in enumerate(entries):
        packed += [lp_int(2), lp_int(number), lp_int(0), lp_text(text), lp_int(4)]
    return b"\x10" + first.to_bytes(8, "big") + bytes(8) + string(listpack(*head, *packed))


def raw_id(ms: int) -> bytes:
    return ms.to_bytes(8, "big") + bytes(8)


def stream(pending: list[int], *, deleted: int = 0, added: int = 9) -> bytes:
    """Entries 10 and 11; a group with these pending ids for one consumer."""
    counters = length(2) + length(20) + length(0) + length(10) + length(0) + length(deleted) + length(0) + length(added)
    pel = length(len(pending)) + b"".join(raw_id(i) + little(777, 8) + length(3) for i in pending)
    consumer = string(b"c") + little(1, 8) + length(len(pending)) + b"".join(raw_id(i) for i in pending)
    group = string(b"g") + length(15) + length(0) + length(7) + pel + length(1) + consumer
    return length(1) + node(10, b"a", b"b") + counters + length(1) + group


def test_a_stream() -> None:
    assert made(19, stream([10, 11]))[1:] == [
        [b"XADD", b"k", b"10-0", b"f", b"a"],
        [b"XADD", b"k", b"11-0", b"f", b"b"],
        [b"XSETID", b"k", b"20-0", b"ENTRIESADDED", b"9", b"MAXDELETEDID", b"0-0"],
        [b"XGROUP", b"CREATE", b"k", b"g", b"15-0", b"ENTRIESREAD", b"7"],
        [b"XGROUP", b"CREATECONSUMER", b"k", b"g", b"c"],
        [
            b"XCLAIM",
            b"k",
            b"g",
            b"c",
            b"0",
            b"10-0",
            b"11-0",
            b"TIME",
            b"777",
            b"RETRYCOUNT",
            b"3",
            b"FORCE",
            b"JUSTID",
        ],
    ]


def test_pending_entries_without_their_message_get_stand_ins() -> None:
    commands = made(19, stream([3, 10, 14], deleted=14))
    assert [command[2] for command in commands if command[0] == b"XADD"] == [b"3-0", b"10-0", b"11-0", b"14-0"]
    # Older than all entries: trimmed away, which leaves the greatest deleted id alone. Later: deleted.
    assert [b"XTRIM", b"k", b"MAXLEN", b"3"] in commands
    assert [b"XDEL", b"k", b"14-0"] in commands
    assert commands[-1] == [b"XSETID", b"k", b"20-0", b"ENTRIESADDED", b"9", b"MAXDELETEDID", b"14-0"]


def test_stand_ins_never_exceed_what_the_stream_says_was_added() -> None:
    setids = [command for command in made(19, stream([3, 10], added=2)) if command[0] == b"XSETID"]
    assert [command[4] for command in setids] == [b"3", b"2"]


def test_before_redis_7_streams_have_no_counters() -> None:
    commands = made(19, stream([10]), Target.of("redis", "6.0.9"))
    assert [b"XSETID", b"k", b"20-0"] in commands
    assert [b"XGROUP", b"CREATE", b"k", b"g", b"15-0"] in commands
    assert [b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1", b"STREAMS", b"k", b"0"] in commands


@pytest.mark.parametrize("piece", [1, 50, 100_000])
@pytest.mark.parametrize("kind", [1, 2, 4, 5, 24, 19])
def test_parts_make_what_the_whole_value_makes(kind: int, piece: int) -> None:
    pairs = b"".join(string(b"f%d" % i) + string(b"v%d" % i) for i in range(30))
    value = {
        1: length(30) + b"".join(string(b"item %d" % i) for i in range(30)),
        2: length(30) + b"".join(string(b"item %d" % i) for i in range(30)),
        4: length(30) + pairs,
        5: length(30) + b"".join(string(b"item %d" % i) + struct.pack("<d", i / 3) for i in range(30)),
        24: little(1000, 8) + length(30) + b"".join(length(i) + b"\x01" + bytes([i]) + b"\x01v" for i in range(30)),
        19: stream([10, 11]),
    }[kind]
    commands: list[Command] = []
    for event in read(rdb(record(kind, b"k", value)), piece=piece, stream_above=60):
        if isinstance(event, KeyStart):
            big = BigKey(event, NEW, b"tmp", bounds=Bounds(max_items=7))
            commands += big.begin()
        elif isinstance(event, ValuePart):
            commands += big.part(event)
        elif isinstance(event, KeyEnd):
            commands += big.end()
    whole = made(kind, value, temporary=b"tmp")
    assert flat(commands) == flat(whole)
    assert all(len(command) < 25 for command in commands)


def flat(commands: list[Command]) -> list[object]:
    """Elements without regard to how commands are cut; what is done once stays a command."""
    elements: list[object] = []
    for command in commands:
        if command[0] in (b"RPUSH", b"SADD", b"HSET", b"ZADD"):
            elements += command[2:]
        elif command[0] != b"HPEXPIREAT":
            elements.append(command)
    deadlines = [(command[2], field) for command in commands if command[0] == b"HPEXPIREAT" for field in command[5:]]
    return [*elements, *sorted(deadlines)]


def test_a_string_in_parts_is_set_and_appended() -> None:
    big = BigKey(KeyStart(0, b"k", 0, b"", 6, 99, None, None, 0), NEW, b"tmp")
    parts = [command for text in (b"abc", b"def") for command in big.part(ValuePart(text, 0, 0))]
    assert [*big.begin(), *parts, *big.end()] == [
        [b"DEL", b"tmp"],
        [b"SET", b"tmp", b"abc"],
        [b"APPEND", b"tmp", b"def"],
        [b"RENAME", b"tmp", b"k"],
        [b"PEXPIREAT", b"k", b"99"],
    ]


def test_functions() -> None:
    assert function_command(Function(b"code"), NEW) == [b"FUNCTION", b"LOAD", b"REPLACE", b"code"]
    with pytest.raises(NotLoadable, match=r"functions need Redis 7\.0; the target is Redis 6\.2\.14"):
        function_command(Function(b"code"), Target.of("redis", "6.2.14"))
    with pytest.raises(NotLoadable, match="release candidate"):
        function_command(Function(b"code", pre_release=True), NEW)
