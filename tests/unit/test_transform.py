"""Filters, database map, prefix and hook on commands and keys: what is carried, split, filtered, impossible."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator

import pytest

from canal.commands import ServerKind
from canal.errors import ConfigError
from canal.rdb.dump import dump_payload
from sync.conditional import DELETE_IF, delete_fields
from sync.filters import KeyPattern
from sync.placing import REASONS
from sync.rewrite import Rewriter
from sync.rules import Dropped, Impossible
from sync.transform import Transform, TransformOptions, compose


def argv(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


def shown(result: object, command: list[bytes]) -> str:
    """`=` for the same object in the same database 0, `3=` in database 3; else `3:words`; `drop:…`; `no:…`."""
    if isinstance(result, Dropped):
        assert result.reason in REASONS
        return f"drop:{result.reason}"
    if isinstance(result, Impossible):
        return f"no:{result.reason}"
    assert isinstance(result, list)
    words = []
    for db, out in result:
        text = "=" if out is command else ":" + b" ".join(b"<lua>" if b"\n" in word else word for word in out).decode()
        words.append(f"{db or ''}{text}" if db or out is command else text[1:])
    return "; ".join(words)


def done(transform: Transform, text: str, db: int = 0) -> str:
    command = argv(text)
    return shown(transform.command(db, command), command)


def keys(*include: str, exclude: tuple[str, ...] = (), **more: object) -> Transform:
    return Transform(
        TransformOptions(
            include_keys=tuple(KeyPattern.parse(word) for word in include),
            exclude_keys=tuple(KeyPattern.parse(word) for word in exclude),
            **more,  # type: ignore[arg-type]
        )
    )


def test_nothing_configured_changes_nothing() -> None:
    transform = Transform(TransformOptions())
    assert transform.identity
    assert done(transform, "FLUSHALL") == "="
    assert done(transform, "MODULE.SET a", 3) == "3="
    assert transform.key(2, b"k", "string") == (2, b"k")
    assert transform.invert(2, b"k") == (2, b"k")


RESERVED_KEYS = [
    ("DEL redis-canal:links", "drop:reserved"),
    ("DEL redis-canal:links a redis-canal:x b", "DEL a b"),
    ("UNLINK a redis-canal:links", "UNLINK a"),
    ("MSET a 1 redis-canal:x 2", "MSET a 1"),
    ("SET redis-canal:x v", "drop:reserved"),
    ("HSET redis-canal:x f v", "drop:reserved"),
    ("SET a redis-canal:x", "="),
    ("RENAME a redis-canal:x", "DEL a"),
    ("COPY redis-canal:x a", "no:COPY: it makes a key that is carried from a key that is not"),
    ("XGROUP CREATE redis-canal:x g $", "drop:reserved"),
    ("PUBLISH redis-canal:x m", "="),
    ("SUNIONSTORE redis-canal:x a", "drop:reserved"),
]


@pytest.mark.parametrize(("text", "expected"), RESERVED_KEYS)
def test_reserved_keys_are_left_out_even_with_nothing_configured(text: str, expected: str) -> None:
    assert done(Transform(TransformOptions()), text) == expected
    if not expected.startswith("drop"):
        mapped = done(Transform(TransformOptions(db_map={0: 1, 1: 0})), text)
        assert mapped.startswith(("1", "=")) or expected.startswith("no:") or text.startswith("PUBLISH")


MIXED = "it writes keys that are carried and keys that are not"
FROM_OUTSIDE = "it makes a key that is carried from keys that are not"
FROM_ONE_OUTSIDE = "it makes a key that is carried from a key that is not"

BY_PREFIX = [
    ("SET a1 v", "="),
    ("SET b1 v", "drop:key"),
    ("INCR b1", "drop:key"),
    ("DEL a1 b1 a2", "DEL a1 a2"),
    ("UNLINK a1 a2", "="),
    ("DEL b1 b2", "drop:key"),
    ("MSET a1 1 b1 2 a2 3", "MSET a1 1 a2 3"),
    ("MSETNX b1 1 b2 2", "drop:key"),
    ("MSETEX 3 a1 1 b1 2 a2 3 PXAT 5", "MSETEX 2 a1 1 a2 3 PXAT 5"),
    ("MSETEX 1 b1 1", "drop:key"),
    ("TOUCH a1 b1", "TOUCH a1"),
    ("PFCOUNT a1 b1", "drop:key"),
    ("PFCOUNT a1 a2", "="),
    ("RENAME a1 a2", "="),
    ("RENAME a1 b1", "DEL a1"),
    ("RENAME b1 b2", "drop:key"),
    ("RENAME b1 a1", f"no:RENAME: {FROM_ONE_OUTSIDE}"),
    ("COPY a1 b1", "drop:key"),
    ("COPY b1 a1", f"no:COPY: {FROM_ONE_OUTSIDE}"),
    ("COPY a1 a2 DB 3 REPLACE", "="),
    ("MOVE a1 3", "="),
    ("MOVE b1 3", "drop:key"),
    ("SMOVE a1 b1 m", "SREM a1 m"),
    ("SMOVE b1 a1 m", "SADD a1 m"),
    ("SMOVE b1 b2 m", "drop:key"),
    ("SMOVE a1 a2 m", "="),
    ("RPOPLPUSH a1 b1", "RPOP a1"),
    ("LMOVE a1 b1 LEFT RIGHT", "LPOP a1"),
    ("LMOVE a1 b1 right LEFT", "RPOP a1"),
    ("LMOVE b1 a1 LEFT LEFT", "no:LMOVE: it moves an element of a key that is not carried into one that is"),
    ("SUNIONSTORE a1 a2 a3", "="),
    ("SUNIONSTORE a1 a2 b1", f"no:SUNIONSTORE: {FROM_OUTSIDE}"),
    ("SUNIONSTORE b1 a1 a2", "drop:key"),
    ("ZUNIONSTORE a1 2 b1 b2", f"no:ZUNIONSTORE: {FROM_OUTSIDE}"),
    ("BITOP AND b1 a1", "drop:key"),
    ("PFMERGE a1 b1", f"no:PFMERGE: {FROM_OUTSIDE}"),
    ("GEORADIUS b1 1 1 1 km STORE a1", f"no:GEORADIUS: {FROM_OUTSIDE}"),
    ("GEORADIUS a1 1 1 1 km STORE b1", "drop:key"),
    ("SORT a1 STORE a2", "="),
    ("SORT a1 BY w_* STORE a2", "no:SORT: BY and GET read keys by pattern, which cannot be filtered by key"),
    ("SORT a1 BY nosort GET # STORE a2", "="),
    ("SORT a1 STORE b1", "drop:key"),
    ("BLPOP a1 b1 0", f"no:BLPOP: {MIXED}"),
    ("EVAL code 1 a1", "="),
    ("EVAL code 2 a1 b1", f"no:EVAL: {MIXED}"),
    ("EVAL code 1 b1", "drop:key"),
    ("EVAL code 0", "no:EVAL: it declares no keys, so that it cannot be filtered by key"),
    ("MODULE.SET a1 x", "no:MODULE.SET is unknown: its keys cannot be told, so that it cannot be filtered by key"),
    ("PUBLISH ch m", "="),
    ("FUNCTION LOAD code", "="),
    ("XGROUP CREATE a1 g $", "="),
    ("XGROUP CREATE b1 g $", "drop:key"),
    ("SWAPDB 0 1", "no:SWAPDB under a filter: one of the databases, or a part of it, is not carried"),
    ("DEL redis-canal:x", "drop:reserved"),
]


@pytest.mark.parametrize(("text", "expected"), BY_PREFIX)
def test_keys_on_both_sides_of_a_filter(text: str, expected: str) -> None:
    assert done(keys("prefix:a"), text) == expected


def test_other_patterns_and_exclude() -> None:
    transform = keys("user:*", "regex:^s[0-9]+$", exclude=("*:tmp",))
    assert [done(transform, f"SET {key} v") for key in ("user:1", "s12", "s", "user:1:tmp")] == [
        "=",
        "=",
        "drop:key",
        "drop:key",
    ]


ADDED = [
    ("SET k v", "SET p:k v"),
    ("MSET k v l w", "MSET p:k v p:l w"),
    ("ZUNIONSTORE d 2 2 d WEIGHTS 2 1", "ZUNIONSTORE p:d 2 p:2 p:d WEIGHTS 2 1"),
    ("RENAME a b", "RENAME p:a p:b"),
    ("COPY a b DB 3", "COPY p:a p:b DB 3"),
    ("XREADGROUP GROUP g c STREAMS s t > >", "XREADGROUP GROUP g c STREAMS p:s p:t > >"),
    ("EVAL code 1 k k", "EVAL code 1 p:k k"),
    ("BITOP NOT d s", "BITOP NOT p:d p:s"),
    ("SMOVE a b m", "SMOVE p:a p:b m"),
    ("LMOVE a b LEFT LEFT", "LMOVE p:a p:b LEFT LEFT"),
    ("MSETEX 1 k v KEEPTTL", "MSETEX 1 p:k v KEEPTTL"),
    ("FLUSHDB ASYNC", "EVAL <lua> 0 redis-canal: 1 p:*"),
    ("PUBLISH k m", "="),
]


@pytest.mark.parametrize(("text", "expected"), ADDED)
def test_a_prefix_is_added_to_every_key(text: str, expected: str) -> None:
    assert done(Transform(TransformOptions(add_prefix=b"p:")), text) == expected


def test_a_prefix_is_removed_or_replaced_and_keys_without_it_are_not_carried() -> None:
    removed = Transform(TransformOptions(remove_prefix=b"old:"))
    assert done(removed, "MSET old:a 1 b 2") == "MSET a 1"
    assert done(removed, "SET b 2") == "drop:key"
    assert done(removed, "SET old:redis-canal:x 2") == "drop:reserved"
    assert removed.invert(0, b"a") == (0, b"old:a")
    assert removed.invert(0, b"redis-canal:checkpoint:t/0") is None
    replaced = Transform(TransformOptions(remove_prefix=b"old:", add_prefix=b"new:"))
    assert done(replaced, "GETSET old:a 1") == "GETSET new:a 1"
    assert replaced.invert(1, b"new:a") == (1, b"old:a")
    assert replaced.invert(1, b"old:a") is None


def test_databases_are_filtered_and_mapped() -> None:
    transform = Transform(TransformOptions(include_databases=frozenset({0, 1}), db_map={0: 5, 1: 6}))
    assert done(transform, "SET k v", 0) == "5="
    assert done(transform, "SET k v", 2) == "drop:database"
    assert done(transform, "DEL a b", 1) == "6="
    assert done(transform, "FLUSHDB", 1) == "6:FLUSHDB"
    assert done(transform, "FLUSHDB", 3) == "drop:database"
    assert done(transform, "FLUSHALL SYNC", 9) == "5:FLUSHDB SYNC; 6:FLUSHDB SYNC"
    assert done(transform, "SWAPDB 0 1") == "SWAPDB 5 6"
    assert done(transform, "SWAPDB 2 3") == "drop:database"
    assert done(transform, "SWAPDB 0 3").startswith("no:SWAPDB")
    assert done(transform, "MOVE k 1", 0) == "5:MOVE k 6"
    assert done(transform, "MOVE k 3", 0) == "5:DEL k"
    assert done(transform, "move k 3", 0) == "5:DEL k"
    assert done(transform, "MOVE k 1", 3) == "no:MOVE: the key comes from a database that is not carried"
    assert done(transform, "MOVE k 4", 3) == "drop:database"
    assert done(transform, "COPY a b DB 1 REPLACE", 0) == "5:COPY a b DB 6 REPLACE"
    assert done(transform, "COPY a b DB 3", 0) == "drop:database"
    assert done(transform, "COPY a b DB 0", 3) == f"no:COPY: {FROM_ONE_OUTSIDE}"
    assert done(transform, "COPY a b", 0) == "5="
    assert done(transform, "PUBLISH ch m", 9) == "9="
    assert done(transform, "MODULE.SET k", 0) == "5="
    assert done(transform, "EVAL code 0", 0) == "5="
    assert done(transform, "EVAL code 0", 3) == "drop:database"
    assert transform.key(0, b"k") == (5, b"k")
    assert transform.key(2, b"k") == Dropped("database")
    assert [transform.invert(db, b"k") for db in (0, 1, 2, 5, 6)] == [None, None, None, (0, b"k"), (1, b"k")]


def test_flushall_without_a_list_of_databases_goes_through_all_that_the_source_has() -> None:
    transform = Transform(TransformOptions(exclude_databases=frozenset({1}), databases=4))
    assert done(transform, "FLUSHALL") == "FLUSHDB; 2:FLUSHDB; 3:FLUSHDB"
    swapped = Transform(TransformOptions(db_map={0: 1, 1: 0}, databases=3))
    assert done(swapped, "FLUSHALL") == "1:FLUSHDB; FLUSHDB; 2:FLUSHDB"
    assert done(swapped, "SWAPDB 0 1") == "SWAPDB 1 0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TransformOptions(db_map={1: 0}), "database 1 goes to 0, and so does 0 itself"),
        (TransformOptions(db_map={1: 5, 2: 5}), "two databases of the source have the same target"),
        (TransformOptions(add_prefix=b"redis-canal:x"), "redis-canal's own"),
        (TransformOptions(include_types=frozenset({"strings"})), "types strings are not known"),
        (TransformOptions(hook="nothing"), "expected module:function"),
        (TransformOptions(hook="no_such_module_here:f"), "cannot import no_such_module_here"),
        (TransformOptions(hook="json:no_such_function"), "no function no_such_function"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: TransformOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transform(options)


def test_a_database_may_take_the_place_of_one_that_is_not_carried() -> None:
    Transform(TransformOptions(db_map={1: 0}, exclude_databases=frozenset({0})))
    Transform(TransformOptions(db_map={1: 0, 0: 1}))
    Transform(TransformOptions(db_map={1: 5, 2: 5}, exclude_databases=frozenset({2, 5})))


FLUSH = [
    (keys("prefix:a*", exclude=("*tmp",)), "EVAL <lua> 0 redis-canal: 1 a\\** *tmp"),
    (keys("user:*", "b?"), "EVAL <lua> 0 redis-canal: 2 user:* b?"),
    (keys(exclude=("x*",)), "EVAL <lua> 0 redis-canal: 1 * x*"),
    (keys("regex:a"), "no:"),
    (keys(include_types=frozenset({"hash"})), "no:"),
    (keys("a*", add_prefix=b"p"), "no:"),
]


@pytest.mark.parametrize(("transform", "expected"), FLUSH)
def test_flushdb_removes_only_what_is_this_links(transform: Transform, expected: str) -> None:
    result = done(transform, "FLUSHDB")
    assert result == expected if not expected.endswith(":") else result.startswith(expected)


def typed(*include: str, exclude: tuple[str, ...] = ()) -> Transform:
    return Transform(TransformOptions(include_types=frozenset(include), exclude_types=frozenset(exclude)))


BY_TYPE = [
    ("HSET k f v", "drop:type"),
    ("LPUSH k v", "="),
    ("SET k v", "DEL k"),
    ("SET k v NX", "drop:type"),
    ("MSET a 1 b 2", "DEL a b"),
    ("SUNIONSTORE d a b", "DEL d"),
    ("APPEND k v", "drop:type"),
    ("DEL k", "="),
    ("EXPIRE k 5", "="),
    ("RENAME a b", "EVAL <lua> 2 a b"),
    ("COPY a b DB 2", "2:DEL b; COPY a b DB 2 REPLACE"),
    ("COPY a b REPLACE", "DEL b; ="),
    ("MOVE a 2", "="),
    ("SORT a STORE b", "no:SORT … STORE may read a type that is filtered"),
    ("ZUNIONSTORE d 1 a", "DEL d"),
    ("EVAL code 1 k", "no:EVAL: what a script writes cannot be filtered by type"),
    ("MODULE.SET k", "no:MODULE.SET is unknown: its type cannot be told"),
    ("VADD k VALUES 1 1 e", "drop:type"),
    ("FLUSHALL", "no:"),
    ("PUBLISH c m", "="),
]


@pytest.mark.parametrize(("text", "expected"), BY_TYPE)
def test_types_in_the_stream(text: str, expected: str) -> None:
    result = done(typed("list"), text)
    assert result == expected if not expected.endswith(":") else result.startswith(expected)


def test_conditional_deletes_are_filtered_as_the_deletes_that_they_stand_for() -> None:
    """They were scripts to the filter: an expired key's delete was left out, whatever its type."""
    key = [b"EVAL", DELETE_IF, b"1", b"k", b"1700000000000", b"1", b"redis-canal:held:t/0"]
    field = delete_fields(b"k", [(b"f", 1_700_000_000_000)])[0]
    assert typed("list").command(0, key) == [(0, key)]
    assert typed("list").command(0, field) == Dropped("type")
    assert typed("hash").command(0, field) == [(0, field)]
    scripts = Transform(TransformOptions(exclude_commands=frozenset({"EVAL"})))
    assert scripts.command(0, key) == [(0, key)] and scripts.command(0, field) == [(0, field)]
    deletes = Transform(TransformOptions(exclude_commands=frozenset({"DEL"})))
    assert deletes.command(0, key) == Dropped("command") and deletes.command(0, field) == [(0, field)]
    moved = Transform(TransformOptions(add_prefix=b"p:"))
    assert moved.command(0, key) == [(0, [*key[:3], b"p:k", *key[4:]])]
    assert moved.command(0, field) == [(0, [*field[:3], b"p:k", *field[4:]])]


def test_zunionstore_may_read_sets() -> None:
    assert done(typed("zset"), "ZUNIONSTORE d 1 a") == "no:ZUNIONSTORE may read sets, which are filtered"
    assert done(typed("zset", "set"), "ZUNIONSTORE d 1 a") == "="


def test_the_type_of_a_restore_stands_in_its_payload() -> None:
    transform = typed(exclude=("string",))
    payload = dump_payload(0, b"\x01v", 10)
    assert transform.command(0, [b"RESTORE", b"k", b"0", payload]) == Dropped("type")
    assert transform.command(0, [b"RESTORE", b"k", b"0", payload, b"REPLACE"]) == [(0, [b"DEL", b"k"])]
    hash_payload = dump_payload(4, b"\x01\x01f\x01v", 10)
    command = [b"RESTORE", b"k", b"0", hash_payload]
    assert transform.command(0, command) == [(0, command)]


def test_types_in_the_snapshot_and_in_the_sweep() -> None:
    transform = typed("hash", "module")
    assert transform.needs_type
    assert transform.key(0, b"k", "string") == Dropped("type")
    assert transform.key(0, b"k", "vectorset") == (0, b"k")
    assert transform.invert(0, b"k", "hash") == (0, b"k")
    assert transform.invert(0, b"k", "string") is None
    assert transform.invert(0, b"k") is None


def test_commands_by_name() -> None:
    transform = Transform(TransformOptions(exclude_commands=frozenset({"flushall", "PUBLISH"})))
    assert done(transform, "FLUSHALL") == "drop:command"
    assert done(transform, "publish c m") == "drop:command"
    assert done(transform, "SET k v") == "="
    only = Transform(TransformOptions(include_commands=frozenset({"set"})))
    assert done(only, "SET k v") == "=" and done(only, "DEL k") == "drop:command"


def test_what_is_left_out_of_a_split_command_is_told() -> None:
    told: list[str] = []
    transform = Transform(TransformOptions(include_keys=(KeyPattern.parse("prefix:a"),)), told.append)
    transform.command(0, argv("DEL a1 b1 b2 redis-canal:x"))
    transform.command(0, argv("RENAME a1 b1"))
    transform.command(0, argv("DEL b1 b2"))  # whole: the caller counts it
    assert sorted(told) == ["key", "key", "key", "reserved"]


# --- the hook ------------------------------------------------------------------------------------------------


@pytest.fixture
def hooks() -> Iterator[types.ModuleType]:
    module = types.ModuleType("canal_test_hooks")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def hooked(hooks: types.ModuleType, function: object, **options: object) -> Transform:
    hooks.hook = function  # type: ignore[attr-defined]
    return Transform(TransformOptions(hook="canal_test_hooks:hook", **options))  # type: ignore[arg-type]


def test_a_hook_sees_carried_commands_in_their_place_and_decides(hooks: types.ModuleType) -> None:
    def hook(db: int, command: list[bytes]) -> list[tuple[int, list[bytes]]]:
        if command[0] == b"DEL":
            return []
        return [(db, command), (db, [b"SADD", b"log", command[1]])]

    transform = hooked(hooks, hook, db_map={0: 2, 2: 0})
    assert not transform.identity
    assert done(transform, "SET k v") == "2=; 2:SADD log k"
    assert done(transform, "DEL k") == "drop:hook"
    assert transform.hooked([(3, [b"DEL", b"k"])]) == Dropped("hook")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda db, command: 1 / 0, "the hook failed on SET: ZeroDivisionError"),
        (lambda db, command: [b"SET"], "the hook returned b'SET' for SET"),
        (lambda db, command: [(0, ["SET", "k", "v"])], "expected .database, .name"),
        (lambda db, command: [(-1, [b"SET"])], "the hook returned"),
        (lambda db, command: 5, "the hook failed on SET: TypeError"),
    ],
)
def test_a_hook_that_fails_makes_a_dead_letter(hooks: types.ModuleType, function: object, message: str) -> None:
    result = hooked(hooks, function).command(0, argv("SET k v"))
    assert isinstance(result, Impossible)
    assert re.search(message, result.reason)


def test_a_sweep_leaves_everything_under_a_hook_that_cannot_be_undone(hooks: types.ModuleType) -> None:
    def hook(db: int, command: list[bytes]) -> list[tuple[int, list[bytes]]]:
        return [(db, command)]

    assert hooked(hooks, hook).invert(0, b"k") is None
    hook.invert = lambda db, key: (db, key.removeprefix(b"h:")) if key.startswith(b"h:") else None  # type: ignore[attr-defined]
    transform = hooked(hooks, hook, add_prefix=b"p:")
    assert transform.invert(0, b"h:p:k") == (0, b"k")
    assert transform.invert(0, b"p:k") is None


def test_compose_transforms_first_and_rewrites_then() -> None:
    redis6 = ServerKind("redis", (6, 0, 16))
    adjust = compose(keys("prefix:a", add_prefix=b"p:"), Rewriter(ServerKind("redis", (7, 0)), redis6))
    assert adjust(3, argv("SET a v EX 1"), 1000, 0) == [(3, argv("SET p:a v")), (3, argv("PEXPIREAT p:a 2000"))]
    assert adjust(0, argv("SET b v"), 0, 0) == Dropped("key")
    assert adjust(0, argv("SCRIPT FLUSH"), 0, 0) == Dropped("script-flush")
    assert isinstance(adjust(0, argv("ZADD a GT INCR 1 m"), 0, 0), Impossible)
