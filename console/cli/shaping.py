"""The options of ``run`` that say what a link carries and what it becomes: filters, databases, prefixes, hook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from canal.errors import ConfigError

if TYPE_CHECKING:
    from sync.transform import TransformOptions

F = TypeVar("F", bound=Callable[..., Any])
_PATTERN_HELP = "prefix:TEXT, regex:EXPRESSION, or a glob."

_OPTIONS = (
    click.option("--include-db", type=click.IntRange(0), multiple=True, metavar="N", help="Carry only this database."),
    click.option("--exclude-db", type=click.IntRange(0), multiple=True, metavar="N", help="Leave this database out."),
    click.option("--include-key", multiple=True, metavar="PATTERN", help=f"Carry only such keys: {_PATTERN_HELP}"),
    click.option("--exclude-key", multiple=True, metavar="PATTERN", help="Leave such keys out."),
    click.option("--include-type", multiple=True, metavar="TYPE", help="Carry only this type: string, list, hash …"),
    click.option("--exclude-type", multiple=True, metavar="TYPE", help="Leave this type out."),
    click.option("--include-command", multiple=True, metavar="NAME", help="Of the stream, carry only this command."),
    click.option("--exclude-command", multiple=True, metavar="NAME", help="Leave this command of the stream out."),
    click.option("--db-map", multiple=True, metavar="FROM:TO", help="Database FROM of the source becomes TO."),
    click.option("--remove-prefix", default="", metavar="TEXT", help="Carry keys that begin so, without it."),
    click.option("--add-prefix", default="", metavar="TEXT", help="Begin every key with this at the target."),
    click.option("--hook", default="", metavar="MODULE:FUNCTION", help="Python function that changes or drops units."),
)


def shaping_options(function: F) -> F:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def transform(given: dict[str, Any]) -> TransformOptions:
    """The TransformOptions of the options. Raises ConfigError, also for combinations that cannot be."""
    from sync.filters import KeyPattern
    from sync.transform import Transform, TransformOptions

    def patterns(words: Iterable[str]) -> tuple[KeyPattern, ...]:
        return tuple(KeyPattern.parse(word) for word in words)

    made = TransformOptions(
        include_databases=frozenset(given["include_db"]),
        exclude_databases=frozenset(given["exclude_db"]),
        include_keys=patterns(given["include_key"]),
        exclude_keys=patterns(given["exclude_key"]),
        include_types=frozenset(given["include_type"]),
        exclude_types=frozenset(given["exclude_type"]),
        include_commands=frozenset(given["include_command"]),
        exclude_commands=frozenset(given["exclude_command"]),
        db_map=dict(map(_pair, given["db_map"])),
        add_prefix=given["add_prefix"].encode(),
        remove_prefix=given["remove_prefix"].encode(),
        hook=given["hook"],
    )
    Transform(made)  # what contradicts itself is said now, and not when the link starts
    return made


def _pair(text: str) -> tuple[int, int]:
    source, colon, target = text.partition(":")
    if not (colon and source.isascii() and source.isdigit() and target.isascii() and target.isdigit()):
        raise ConfigError(f"--db-map: expected FROM:TO, two database numbers, got {text!r}")
    return int(source), int(target)
