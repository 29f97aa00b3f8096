"""The command table: keys by access, names in any case, what is plain."""

from __future__ import annotations

import pytest

from canal.commands import (
    COMMANDS,
    ONE_KEY,
    PLAIN,
    Flag,
    ServerKind,
    all_keys,
    builds_on_old_value,
    destination_db,
    is_plain_set,
    is_write,
    key_positions,
    lookup,
    needed_keys,
    read_keys,
    with_keys,
    written_in,
    written_keys,
)
from canal.commands.keyspec import integer, parse_word


def argv(text: str) -> list[bytes]:
    return [b"" if word == "''" else word.encode() for word in text.split()]


def names(keys: list[tuple[int, bytes]]) -> str:
    return " ".join(key.decode() for _, key in keys)


# command, keys written, keys read by other keys, keys whose former value matters
CASES = [
    ("SET a b", "a", "", ""),
    ("SET a b PXAT 5", "a", "", ""),
    ("SET a b NX", "a", "", "a"),
    ("SET a b KEEPTTL", "a", "", "a"),
    ("SET a b IFEQ NX", "a", "", "a"),
    ("set a NX", "a", "", ""),
    ("MSET a 1 b 2", "a b", "", ""),
    ("MSETNX a 1 b 2", "a b", "", "a b"),
    ("MSETEX 2 a 1 b 2 PXAT 5", "a b", "", ""),
    ("MSETEX 2 a 1 b 2 XX", "a b", "", "a b"),
    ("MSETEX 1 a NX", "a", "", ""),
    ("INCR a", "a", "", "a"),
    ("DEL a b c", "a b c", "", ""),
    ("UNLINK a", "a", "", ""),
    ("EXPIRE a 5", "a", "", "a"),
    ("RENAME a b", "a b", "a", "a"),
    ("RENAMENX a b", "a b", "a", "a b"),
    ("COPY a b", "b", "a", "a b"),
    ("COPY a b DB 3 REPLACE", "b", "a", "a"),
    ("MOVE a 3", "a", "a", "a"),
    ("RESTORE a 0 x", "a", "", "a"),
    ("RESTORE a 0 x REPLACE ABSTTL", "a", "", ""),
    ("SORT a STORE b", "b", "a", "a"),
    ("SORT a BY STORE GET STORE LIMIT STORE 0 STORE c STORE b", "b", "a", "a"),
    ("SORT a", "", "a", "a"),
    ("GEORADIUS g 15 37 200 km STORE d", "d", "g", "g"),
    ("GEORADIUS g 15 37 200 km STORE d STOREDIST e", "e", "g", "g"),
    ("georadiusbymember g STORE 200 km STORE d", "d", "g", "g"),
    ("GEOSEARCHSTORE d g FROMMEMBER m BYRADIUS 1 km ASC", "d", "g", "g"),
    ("BITOP AND d a b", "d", "a b", "a b"),
    ("PFMERGE d a b", "d", "a b", "d a b"),
    ("SUNIONSTORE d a b", "d", "a b", "a b"),
    ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d", "a b", "a b"),
    ("ZDIFFSTORE d 1 a", "d", "a", "a"),
    ("ZRANGESTORE d s 0 -1", "d", "s", "s"),
    ("LMOVE a b LEFT RIGHT", "a b", "a", "a b"),
    ("SMOVE a b m", "a b", "a", "a b"),
    ("BLPOP a b 0", "a b", "", "a b"),
    ("LMPOP 2 a b LEFT COUNT 3", "a b", "", "a b"),
    ("BZMPOP 0 1 a MIN", "a", "", "a"),
    ("XGROUP CREATE s g $", "s", "", "s"),
    ("XREADGROUP GROUP g c COUNT 1 STREAMS a b > >", "a b", "", "a b"),
    ("XADD s 1-1 f v", "s", "", "s"),
    ("MIGRATE h 1 k 0 10", "k", "", ""),
    ("MIGRATE h 1 '' 0 10 AUTH2 KEYS p REPLACE KEYS a b", "a b", "", ""),
    ("EVAL KEYS[1] 2 a b x", "a b", "a b", "a b"),
    ("FCALL f 0 x", "", "", ""),
    ("FLUSHALL", "", "", ""),
    ("FUNCTION LOAD x", "", "", ""),
    ("PUBLISH ch m", "", "", ""),
    ("PFDEBUG GETREG a", "a", "", "a"),
    ("JSON.MSET a $ 1 b $ 2", "a b", "", "a b"),
    ("TS.MADD a 1 2 b 1 2", "a b", "", "a b"),
    ("CMS.MERGE d 2 a b WEIGHTS 1 2", "d", "a b", "d a b"),
    ("VADD v VALUES 1 0.5 e", "v", "", "v"),
]


@pytest.mark.parametrize(("text", "written", "read", "needed"), CASES)
def test_keys_by_what_the_command_does_with_them(text: str, written: str, read: str, needed: str) -> None:
    command = argv(text)
    assert names(written_keys(command)) == written
    assert names(read_keys(command)) == read
    assert names(needed_keys(command)) == needed
    assert builds_on_old_value(command) == bool(needed)


def test_a_key_is_named_by_its_index_too() -> None:
    assert written_keys(argv("BITOP NOT d a")) == [(2, b"d")]
    assert all_keys(argv("ZUNIONSTORE d 2 a b")) == [(1, b"d"), (3, b"a"), (4, b"b")]


@pytest.mark.parametrize("spelling", [b"ZADD", b"zadd", b"zAdD"])
def test_lookup_takes_any_case(spelling: bytes) -> None:
    info = lookup(spelling)
    assert info is not None and info.name == b"ZADD" and info.type == "zset"


def test_unknown_commands_have_no_row_and_no_keys_but_count_as_writes() -> None:
    assert lookup(b"MYMODULE.SET") is None
    assert written_keys(argv("MYMODULE.SET a b")) == []
    assert is_write(argv("MYMODULE.SET a b"))
    assert not is_write(argv("PUBLISH ch m"))


def test_with_keys_changes_keys_only() -> None:
    command = argv("ZUNIONSTORE d 2 2 d WEIGHTS 2 d")
    assert with_keys(command, lambda key: b"p:" + key) == argv("ZUNIONSTORE p:d 2 p:2 p:d WEIGHTS 2 d")
    assert command[1] == b"d"


def test_commands_that_write_into_another_database() -> None:
    assert written_in(1, argv("MOVE k 3")) == [(1, b"k"), (3, b"k")]
    assert written_in(1, argv("COPY s d REPLACE DB 3")) == [(3, b"d")]
    assert written_in(1, argv("COPY s d")) == [(1, b"d")]
    assert written_in(1, argv("MSET a 1 b 2")) == [(1, b"a"), (1, b"b")]
    assert destination_db(argv("MOVE k x")) is None
    assert destination_db(argv("SET DB 3")) is None


@pytest.mark.parametrize("info", COMMANDS, ids=lambda info: info.name.decode())
def test_short_or_odd_arguments_never_raise(info) -> None:  # type: ignore[no-untyped-def]
    for size in range(12):
        for filler in (b"", b"7", b"-1", b"STORE", b"KEYS", b"9999999999999999999999", b"DB", b"STREAMS"):
            command = [info.name, *[filler] * size]
            for index, key in all_keys(command):
                assert command[index] == key
            written_in(0, command)


def test_plain_holds_both_spellings_and_nothing_that_must_be_looked_at() -> None:
    assert {name.upper() for name in PLAIN} == {name for name in PLAIN if name.isupper()}
    assert {name.lower() for name in PLAIN} == {name for name in PLAIN if name.islower()}
    for name in b"INCR LPUSH HSET SADD ZADD DEL UNLINK APPEND PEXPIREAT PUBLISH XCLAIM XGROUP RENAME MOVE".split():
        assert name in PLAIN
    for name in (
        b"SET SETEX PSETEX EXPIRE PEXPIRE GETEX RESTORE SELECT MULTI EXEC PING REPLCONF FLUSHALL FLUSHDB SWAPDB"
        b" FUNCTION SCRIPT EVAL EVALSHA FCALL XADD HEXPIRE HPEXPIRE HSETEX HGETEX MSETEX INCREX MIGRATE SPOP BLPOP"
    ).split():
        assert name not in PLAIN


def test_commands_of_one_key_have_it_first_whatever_follows() -> None:
    assert {b"SET", b"set", b"INCR", b"HSET", b"XADD", b"RESTORE", b"EXPIRE"} <= ONE_KEY
    assert not {b"DEL", b"MSET", b"XGROUP", b"RENAME", b"EVAL", b"SORT", b"BITOP"} & ONE_KEY
    for name in ONE_KEY:
        for more in ([], [b"STORE", b"b"], [b"2", b"KEYS", b"c"], [b"NX"]):
            assert [index for index, _ in key_positions([name, b"a", *more])] == [1], name


def test_set_without_options_is_plain() -> None:
    assert is_plain_set(3, b"SET") and is_plain_set(3, b"set")
    assert not is_plain_set(5, b"SET") and not is_plain_set(3, b"GET")


def test_versions() -> None:
    copy, delifeq, msetex, incr = (lookup(name) for name in (b"COPY", b"DELIFEQ", b"MSETEX", b"INCR"))
    assert copy and delifeq and msetex and incr
    assert not copy.exists_on("redis", (6, 0, 16)) and copy.exists_on("redis", (6, 2, 0))
    assert copy.exists_on("valkey", (8, 0, 1))
    assert not delifeq.exists_on("redis", (8, 10, 2)) and delifeq.exists_on("valkey", (9, 0, 0))
    assert not msetex.exists_on("valkey", (9, 0, 0)) and msetex.exists_on("valkey", (9, 1, 2))
    assert incr.exists_on("redis", (2, 8, 17))


def test_flags_that_do_not_go_together() -> None:
    for info in COMMANDS:
        flags = Flag(info.flags)
        assert not (Flag.CONTROL in flags and Flag.WRITE in flags), info.name
        if Flag.ALLKEYS in flags:
            assert not info.keys and info.finder is None, info.name
        if Flag.DELETES in flags:
            assert Flag.IDEMPOTENT in flags or info.name == b"MIGRATE", info.name


@pytest.mark.parametrize(("text", "value"), [(b"12", 12), (b"-3", -3), (b"", None), (b"1.5", None), (b"x", None)])
def test_integer(text: bytes, value: int | None) -> None:
    assert integer(text) == value


def test_a_bad_specification_is_refused() -> None:
    with pytest.raises(ValueError, match="expected W, U, R or M"):
        parse_word("Q1")


def test_server_kinds() -> None:
    redis7 = ServerKind.from_info({"redis_version": "7.0.15"})
    valkey9 = ServerKind.from_info({"redis_version": "7.2.4", "valkey_version": "9.1.0-rc1", "server_name": "valkey"})
    assert redis7 == ServerKind("redis", (7, 0, 15)) and str(valkey9) == "valkey 9.1.0"
    assert redis7.at_least((7, 0)) and not redis7.at_least((7, 2))
    assert valkey9.at_least((99,)) and not valkey9.at_least((1,), None) and not valkey9.at_least((1,), (9, 2))
    assert redis7.same_or_newer_than(ServerKind("redis", (6, 2, 14)))
    assert not redis7.same_or_newer_than(ServerKind("redis", (7, 2, 4)))
    assert not valkey9.same_or_newer_than(redis7)
    with pytest.raises(ValueError, match="got 'redis' 'unknown'"):
        ServerKind.parse("redis", "unknown")
