"""``redis-canal verify``: compare two servers by content, without a daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from console.cli.options import endpoint, side_options
from console.cli.output import Format, emit, emit_document, output_option

if TYPE_CHECKING:
    from canal.endpoint import Endpoint
    from sync.verify import Options, Progress, Report


@click.command(name="verify", short_help="Compare two servers by content.")
@click.option("--source", required=True, metavar="URL", help="First side: redis://, rediss:// or unix://.")
@click.option("--target", required=True, metavar="URL", help="Second side.")
@side_options("source")
@side_options("target")
@click.option("--db", "databases", type=click.IntRange(0), multiple=True, metavar="N", help="Only this database.")
@click.option("--pattern", metavar="GLOB", help="Only keys that match, as in SCAN MATCH.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Looks at what differs.")
@click.option(
    "--pause", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS", help="Between them."
)
@click.option("--ttl-tolerance", type=click.IntRange(0), default=1, show_default=True, metavar="MS")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="Differences to remember.")
@output_option
def command(**given: Any) -> int:
    """Compare all keys of two servers: type, value, deadline, function libraries; in both directions.

    Works while writes go on: a difference counts only if every round still sees it. Nothing is written. Exit code
    0 when equal, 1 when different.
    """
    import asyncio

    from sync.verify import Options

    source, target = (endpoint(side, given[side], given) for side in ("source", "target"))
    options = Options(
        databases=given["databases"] or None,
        pattern=given["pattern"].encode() if given["pattern"] else None,
        ttl_tolerance_ms=given["ttl_tolerance"],
        rounds=given["rounds"],
        pause_s=given["pause"],
        keep=given["limit"],
    )
    report = asyncio.run(_compare(source, target, options))
    _print(report, cast(Format, given["output"]))
    return 0 if report.equal else 1


async def _compare(source: Endpoint, target: Endpoint, options: Options) -> Report:
    from sync.verify import compare

    if not sys.stderr.isatty():
        return await compare(source, target, options)
    from rich.console import Console

    with Console(stderr=True).status("comparing") as shown:
        return await compare(source, target, options, _show_on(shown))


def _show_on(shown: Any) -> Progress:
    def show(report: Report) -> None:
        words = f"comparing: {report.keys:,} keys of the source, {report.second_keys:,} of the target looked for"
        shown.update(words + (f", round {report.rounds} done" if report.rounds else ""))

    return show


def _print(report: Report, form: Format) -> None:
    """The differences on stdout; in words how it went on stderr, so that the table can be piped."""
    if form in ("json", "yaml"):
        emit_document(report.as_dict(), form)
        return
    if report.differences:
        emit(report.as_dict()["differences"], ["kind", "db", "key", "detail"], form)
    words = "equal" if report.equal else f"{len(report.differences):,} differences"
    if report.overflow:
        words += " and more that were not remembered (--limit)"
    click.echo(f"{words}: {report.keys:,} keys compared in {report.rounds} rounds", err=True)
