"""Which way each value takes to which server. The live matrix is tests/integration/test_rdb_versions.py."""

from __future__ import annotations

import pytest

from canal.errors import NotRedis
from canal.rdb.target import Loadable, Target, flavor_of, probe_payload
from canal.rdb.types import (
    ARRAY,
    HASH_LISTPACK,
    HASH_LISTPACK_EX,
    HASH_TEMPLATE_LISTPACK_REF,
    LIST_QUICKLIST_2,
    MODULE_2,
    SET_INTSET,
    SET_LISTPACK,
    STREAM_3,
    STREAM_5,
    STRING,
    VALKEY_HASH_2,
)


def plan(to: str, flavor: str, version: int, kind: int, size: int = 0, *, big: int = 0, meta: bool = False) -> str:
    name, _, number = to.partition(" ")
    loadable = Loadable(Target.of(name, number), flavor, version, big_bytes=big)
    found = loadable.plan(kind, size, meta=meta)
    return f"{found.action} {found.version}" if found.action.startswith("rest") else found.action


@pytest.mark.parametrize(
    ("version", "rdb"),
    [
        ("2.6.17", 6), ("2.8.17", 6), ("3.0.7", 6), ("3.2.6", 7), ("4.0.14", 8), ("5.0.10", 9), ("6.2.14", 9),
        ("7.0.15", 10), ("7.2.4", 11), ("7.4.1", 12), ("8.0.6", 12), ("8.2.3", 12), ("8.6.2", 13), ("8.8.0", 14),
        ("8.10.2", 15), ("9.0.0", 15),
    ],
)  # fmt: skip
def test_the_newest_version_a_redis_loads(version: str, rdb: int) -> None:
    assert Target.of("redis", version).rdb_version == rdb


@pytest.mark.parametrize(
    ("version", "rdb"), [("7.2.5", 11), ("8.0.1", 11), ("8.1.8", 11), ("9.0.0", 80), ("9.1.2", 80)]
)
def test_the_newest_version_a_valkey_loads(version: str, rdb: int) -> None:
    assert Target.of("valkey", version).rdb_version == rdb


def test_a_target_from_info() -> None:
    assert Target.from_info({"redis_version": "7.0.15"}) == Target("redis", (7, 0, 15), 10)
    valkey = {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}
    assert Target.from_info(valkey) == Target("valkey", (9, 1, 2), 80)
    assert str(Target.from_info(valkey)) == "Valkey 9.1.2"
    with pytest.raises(NotRedis, match="expected a version such as"):
        Target.from_info({})


@pytest.mark.parametrize(
    ("to", "flavor", "version", "kind", "expected"),
    [
        # Older to newer within a family, and what was there before they parted.
        ("redis 7.0.15", "redis", 9, STRING, "restore 9"),
        ("redis 8.2.3", "redis", 12, HASH_LISTPACK_EX, "restore 12"),
        ("valkey 9.1.2", "redis", 11, STREAM_3, "restore 11"),
        ("redis 8.2.3", "redis", 11, SET_LISTPACK, "restore 11"),
        # Newer to older: by what the encoding needs.
        ("redis 6.2.14", "redis", 10, SET_INTSET, "restamp 9"),
        ("redis 6.2.14", "redis", 10, LIST_QUICKLIST_2, "commands"),
        ("redis 7.0.15", "redis", 12, HASH_LISTPACK, "restamp 10"),
        ("redis 7.0.15", "redis", 12, SET_LISTPACK, "commands"),
        ("redis 7.0.15", "redis", 12, HASH_LISTPACK_EX, "commands"),
        # Between the families, once they had parted.
        ("valkey 8.1.8", "redis", 12, SET_LISTPACK, "restamp 11"),
        ("valkey 9.1.2", "redis", 12, SET_LISTPACK, "restamp 11"),
        ("valkey 9.1.2", "redis", 12, HASH_LISTPACK_EX, "commands"),
        ("valkey 9.1.2", "redis", 15, STREAM_5, "commands"),
        ("redis 8.2.3", "valkey", 80, SET_LISTPACK, "restamp 11"),
        ("redis 7.0.15", "valkey", 80, HASH_LISTPACK, "restamp 10"),
        ("redis 8.2.3", "valkey", 80, VALKEY_HASH_2, "commands"),
        ("valkey 8.1.8", "valkey", 80, VALKEY_HASH_2, "commands"),
        ("valkey 9.1.2", "valkey", 80, VALKEY_HASH_2, "restore 80"),
        # Never forged, never guessed.
        ("redis 7.0.15", "redis", 12, MODULE_2, "impossible"),
        ("redis 8.2.3", "redis", 12, MODULE_2, "restore 12"),
        ("redis 8.2.3", "redis", 15, ARRAY, "impossible"),
        ("redis 8.8.0", "redis", 15, ARRAY, "restamp 14"),
        ("redis 4.0.14", "redis", 9, STREAM_3, "impossible"),
        ("redis 8.10.2", "redis", 15, HASH_TEMPLATE_LISTPACK_REF, "commands"),
    ],
)
def test_the_way_of_a_value(to: str, flavor: str, version: int, kind: int, expected: str) -> None:
    assert plan(to, flavor, version, kind) == expected


def test_big_values_go_by_commands_where_commands_can() -> None:
    assert plan("redis 7.0.15", "redis", 10, STRING, 100, big=100) == "restore 10"
    assert plan("redis 7.0.15", "redis", 10, STRING, 101, big=100) == "commands"
    assert plan("redis 7.0.15", "redis", 10, MODULE_2, 101, big=100) == "restore 10"
    assert plan("redis 8.10.2", "redis", 15, ARRAY, 101, big=100) == "restore 15"


def test_module_metadata_of_a_key_passes_by_restore_as_it_is_or_not_at_all() -> None:
    assert plan("redis 8.10.2", "redis", 15, STRING, meta=True) == "restore 15"
    assert plan("redis 8.6.2", "redis", 15, STRING, meta=True) == "impossible"


def test_a_plan_says_why() -> None:
    loadable = Loadable(Target.of("redis", "6.2.14"), "redis", 12)
    assert loadable.plan(STRING).reason == "Redis 6.2.14 does not load RDB version 12 of redis"
    assert loadable.plan(SET_LISTPACK).reason == "Redis 6.2.14 does not know the encoding listpack"
    assert "a module's value cannot be converted" in loadable.plan(MODULE_2).reason


def test_a_probe_overrides_the_table() -> None:
    unknown = Target.of("redis", "11.0.0")
    assert not unknown.loads("redis", 17)
    assert unknown.with_rdb_version(17).loads("redis", 17)
    assert probe_payload(17)[:5] == b"\x00\x010\x11\x00"


def test_versions_tell_whose_they_are() -> None:
    assert [flavor_of(version) for version in (6, 11, 15, 79, 80, 81)] == ["redis"] * 4 + ["valkey"] * 2
