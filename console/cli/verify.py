"""``redis-canal verify``: compare two servers by content, without a daemon."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from console.cli.options import endpoint, side_options
from console.cli.output import Format, duration, emit, emit_document, output_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canal.endpoint import Endpoint
    from sync.verify import Options, Progress, Report
    from sync.verify.repair import Where

LIMIT = 10_000


def comparison_options(function: Any) -> Any:
    """What to compare, and how hard: also of ``task verify``."""
    options = (
        click.option("--db", "databases", type=click.IntRange(0), multiple=True, metavar="N", help="Only this one."),
        click.option("--pattern", metavar="GLOB", help="Only keys that match, as in SCAN MATCH."),
        click.option("--sample", type=click.IntRange(1), metavar="N", help="Only so many keys, chosen at random."),
        click.option(
            "--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Looks at what differs."
        ),
        click.option(
            "--pause", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS", help="Between them."
        ),
        click.option("--ttl-tolerance", type=click.IntRange(0), default=1, show_default=True, metavar="MS"),
        click.option("--rate", type=click.FloatRange(0), default=0, metavar="N", help="Keys a second at most."),
        click.option(
            "--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="Differences to remember."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def options_of(given: dict[str, Any]) -> Options:
    """What `comparison_options` were given."""
    from canal.errors import ConfigError
    from sync.verify import Options

    if given["sample"] and given["pattern"]:
        raise ConfigError("give --sample or --pattern, not both: a sample is drawn from all keys")
    return Options(
        databases=given["databases"] or None,
        pattern=given["pattern"].encode() if given["pattern"] else None,
        sample=given["sample"] or 0,
        ttl_tolerance_ms=given["ttl_tolerance"],
        rounds=given["rounds"],
        pause_s=given["pause"],
        rate=given["rate"],
        keep=given["limit"],
    )


@click.command(name="verify", short_help="Compare two servers by content.")
@click.option(
    "--source",
    required=True,
    metavar="URL",
    help="First side: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
)
@click.option("--target", required=True, metavar="URL", help="Second side.")
@side_options("source")
@side_options("target")
@comparison_options
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Remember there how far it is; the next call with this file goes on.",
)
@click.option("--repair", is_flag=True, help="Afterwards give both sides the same, while writes go on.")
@click.option(
    "--by",
    type=click.Choice(["auto", "echo", "write"]),
    default="auto",
    show_default=True,
    help="Have each key's home write it again in place, for the link to bring over; or write to the target.",
)
@click.option(
    "--home", "homes", multiple=True, metavar="WORD", help="Whose state wins: source (default), target, hash …"
)
@click.option("--source-dc", default="source", show_default=True, metavar="NAME", help="For --home hash.")
@click.option("--target-dc", default="target", show_default=True, metavar="NAME", help="For --home hash.")
@click.option("--yes", is_flag=True, help="Repair without asking.")
@output_option
def command(**given: Any) -> int:
    """Compare the keys of two servers: type, value, deadline, function libraries; in both directions.

    Works while writes go on: a difference counts only if every round saw the same. Nothing is written but by --repair.
    Exit code 0 when equal (in the end), 1 when different.
    """
    import asyncio

    source, target = (endpoint(side, given[side], given) for side in ("source", "target"))
    options = options_of(given)
    with progress_bar() as progress:
        report = asyncio.run(_compare(source, target, options, progress, given["state"]))
    if given["repair"] and not report.equal:
        report = _repair(source, target, options, report, given)
    print_report(report, cast(Format, given["output"]))
    return 0 if report.equal else 1


def _repair(source: Endpoint, target: Endpoint, options: Options, report: Report, given: dict[str, Any]) -> Report:
    """Say what would be done, ask, do it, and look again."""
    import asyncio

    from sync.verify.repair import Remedy, choose_means, repair

    home = _home(given)
    both = any(home((one.db, one.key)) == "second" for one in report.differences)
    means = given["by"] if given["by"] != "auto" else asyncio.run(choose_means(source, target, both))
    remedy = Remedy(means, home)
    click.echo(f"{summary(report)}", err=True)
    click.echo(f"repair: {remedy.words(report.differences, source.label, target.label)}", err=True)
    if not given["yes"] and not click.confirm("Repair?", err=True):
        return report
    with progress_bar() as progress:
        remedy.progress = progress
        return asyncio.run(repair(source, target, options, report, remedy))


def _home(given: dict[str, Any]) -> Callable[[tuple[int, bytes]], Where]:
    from sync.homes import Homes

    words = given["homes"] or ("source",)
    if words in (("source",), ("target",)):
        side: Where = "first" if words == ("source",) else "second"
        return lambda place: side
    homes = Homes(words, (given["source_dc"], given["target_dc"]))
    return lambda place: "first" if homes.home(place) == given["source_dc"] else "second"


async def _compare(
    source: Endpoint, target: Endpoint, options: Options, progress: Progress, file: Path | None
) -> Report:
    from sync.verify import compare
    from sync.verify.bookmark import StateFile

    if file is None:
        return await compare(source, target, options, progress)
    state = StateFile(file, f"{source.label} {target.label} {options.databases} {options.pattern!r}")
    report = await compare(source, target, options, progress, save=state.save, resume=state.load())
    state.done()
    return report


@contextmanager
def progress_bar() -> Iterator[Callable[[Report], None]]:
    """A bar on a terminal's stderr, else nothing."""
    if not sys.stderr.isatty():
        yield lambda report: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("comparing"), BarColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=None, words="")

        def show(report: Report) -> None:
            words = f"{report.keys:,} keys, {report.different:,} differ"
            if report.rounds:
                words += f", round {report.rounds}"
            done = report.first_keys + report.second_keys
            bar.update(shown, total=max(report.total, done) or None, completed=done, words=words)

        yield show


def print_report(report: Report, form: Format) -> None:
    """The differences on stdout; in words how it went on stderr, so that the table can be piped."""
    if form in ("json", "yaml"):
        emit_document(report.as_dict(), form)
        return
    if report.differences:
        emit(report.as_dict()["differences"], ["kind", "db", "key", "detail"], form)
    click.echo(summary(report), err=True)


def summary(report: Report) -> str:
    """One line that says how it went."""
    words = "equal" if report.equal else f"{report.different:,} differences"
    if report.repaired:
        words += f", {report.repaired:,} repaired"
    if report.overflow:
        words += f", {len(report.differences):,} of them remembered (--limit)"
    if report.unsettled:
        words += f", {report.unsettled:,} keys that changed all the time could not be compared"
    took = f" in {duration(report.seconds)}" if report.seconds >= 10 else ""
    return f"{words}: {report.keys:,} keys compared in {report.rounds} rounds{took}"
