"""FLUSHALL, FLUSHDB and SWAPDB reach redis-canal's own keys by where they go, not by where they come from."""

from __future__ import annotations

import pytest

from canal.commands import ServerKind
from canal.resp import encode
from sync.filters import KeyPattern
from sync.rewrite import Rewriter
from sync.rules import Rules
from sync.transform import Transform, TransformOptions, compose
from sync.unit import Unit, UnitReader

REDIS = ServerKind("redis", (7, 0, 15))


def units(options: TransformOptions, *commands: list[bytes], db: int = 0) -> list[Unit]:
    adjust = compose(Transform(options), Rewriter(REDIS, REDIS))
    reader = UnitReader(0, db, Rules(source_dc="a", drop=frozenset(), plain={}, adjust=adjust))
    return reader.feed(0, b"".join(encode(command) for command in commands), 0)


def test_a_flush_that_is_mapped_to_database_0_keeps_the_reserved_keys() -> None:
    options = TransformOptions(include_databases=frozenset({3}), db_map={3: 0})
    (unit,) = units(options, [b"FLUSHDB"], db=3)
    assert unit.solo and unit.pieces[0].db == 0
    assert b"EVAL" in unit.pieces[0].raw and b"FLUSHDB" in unit.pieces[0].raw


def test_a_flush_that_is_mapped_away_from_database_0_is_an_ordinary_one() -> None:
    (unit,) = units(TransformOptions(include_databases=frozenset({0}), db_map={0: 3}), [b"FLUSHALL"])
    assert not unit.solo
    assert unit.pieces[0].db == 3 and unit.pieces[0].raw == encode([b"FLUSHDB"])


def test_each_database_of_a_flushall_is_judged_by_itself() -> None:
    (unit,) = units(TransformOptions(exclude_databases=frozenset({1}), databases=3), [b"FLUSHALL"])
    assert unit.solo
    assert [(piece.db, b"EVAL" in piece.raw) for piece in unit.pieces] == [(0, True), (2, False)]


@pytest.mark.parametrize(("mapped", "solo"), [({1: 0, 0: 1}, True), ({}, False)])
def test_swapdb_by_where_it_goes(mapped: dict[int, int], solo: bool) -> None:
    (unit,) = units(TransformOptions(db_map=mapped, exclude_commands=frozenset({"NONE"})), [b"SWAPDB", b"1", b"2"])
    assert unit.solo is solo


def test_the_script_that_removes_only_this_links_keys_is_not_wrapped_again() -> None:
    (unit,) = units(TransformOptions(include_keys=(KeyPattern.parse("prefix:a"),)), [b"FLUSHDB"])
    assert not unit.solo
    assert unit.pieces[0].raw.count(b"EVAL") == 1
