"""Filters, database map, prefixes and hook from the command line."""

from __future__ import annotations

import click
import pytest

from canal.errors import ConfigError
from console.cli.shaping import shaping_options, transform
from sync.filters import KeyPattern
from sync.transform import TransformOptions


@click.command()
@shaping_options
def command(**given: object) -> None:
    """Only its parameters are of interest."""


def made(*arguments: str) -> TransformOptions:
    return transform(command.make_context("run", list(arguments)).params)


def test_nothing_given_changes_nothing() -> None:
    assert made() == TransformOptions()


def test_every_option_arrives() -> None:
    found = made(
        "--include-db", "0", "--include-db", "3", "--exclude-key", "tmp:*", "--include-key", "prefix:user:",
        "--exclude-type", "stream", "--exclude-command", "publish", "--db-map", "3:5", "--add-prefix", "sh:",
    )  # fmt: skip
    assert found == TransformOptions(
        include_databases=frozenset({0, 3}),
        include_keys=(KeyPattern("prefix", b"user:"),),
        exclude_keys=(KeyPattern("glob", b"tmp:*"),),
        exclude_types=frozenset({"stream"}),
        exclude_commands=frozenset({"publish"}),
        db_map={3: 5},
        add_prefix=b"sh:",
    )


@pytest.mark.parametrize("text", ["3", "3:", ":5", "a:b", "-1:2", "1:2:3", "²:1"])
def test_a_database_map_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--db-map: expected FROM:TO"):
        made("--db-map", text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--include-key", "regex:("),
        ("--include-type", "strings"),
        ("--add-prefix", "redis-canal:x"),
        ("--db-map", "1:5", "--db-map", "2:5"),
        ("--hook", "no_such_module_here:function"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        made(*arguments)
