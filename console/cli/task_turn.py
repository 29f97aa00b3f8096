"""``redis-canal task promote`` and ``task reverse``: change which datacenter is written to, as planned or by force."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from console.cli.access import Access, opened, where_options, who

if TYPE_CHECKING:
    from console.turn import Turn


def turn_options(function: Any) -> Any:
    """What both commands take."""
    options = (
        click.option(
            "--pause-writes", is_flag=True, help="Hold writes at the source (CLIENT PAUSE) until this is done."
        ),
        click.option(
            "--force", is_flag=True, help="The source is gone: go on with what has arrived; says what is lost."
        ),
        click.option("--no-verify", is_flag=True, help="Do not compare the two sides."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        where_options,
        click.option("--timeout", type=click.FloatRange(0.1), default=300.0, show_default=True, metavar="SECONDS"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(short_help="Make a task's target fit to be written to.")
@click.argument("task")
@turn_options
def promote(task: str, **given: Any) -> int:
    """Make TASK's target fit to be written to: drain, prove both sides equal, stop the task.

    Stop the writers first, or use --pause-writes. Exit code 1, with the task left running, when the source is still
    written to or the sides differ. Tasks of a two-way pair stay running.
    """
    with opened(given) as access:
        turn = _turn(access, task, given)
        _ask(turn, given)
        turn.promote()
    return 0


@click.command(short_help="Promote, then replicate the other way.")
@click.argument("task")
@click.option(
    "--as", "name", metavar="NAME", help="Name of the task in the other direction (default: <target>-<source>)."
)
@click.option(
    "--at",
    metavar="FILE",
    help="node.yaml (or console.yaml) of the target's datacenter, where that has its own coordinator.",
)
@turn_options
def reverse(task: str, name: str | None, at: str | None, **given: Any) -> int:
    """Promote TASK's target, then replicate from it to the old source.

    No snapshot is needed when both sides were proven equal. With --force the new task is created but not started: start
    it once the old source is back; what only that had is then replaced.
    """
    with opened(given) as access, contextlib.ExitStack() as stack:
        turn = _turn(access, task, given)
        there = access.coordinator
        if at is not None:
            where = {"config_file": at, "state_dir": None, "dc": turn.spec.target.datacenter}
            there = stack.enter_context(opened(where)).coordinator
        turn.refuse_back(there, name)
        _ask(turn, given)
        turn.promote()
        turn.replicate_back(there, name)
    return 0


def _turn(access: Access, task: str, given: dict[str, Any]) -> Turn:
    from console.turn import How, Turn

    how = How(given["pause_writes"], given["force"], not given["no_verify"], given["timeout"], who())
    return Turn(access.coordinator, access.credentials, task, how, lambda line: click.echo(line, err=True))


def _ask(turn: Turn, given: dict[str, Any]) -> None:
    if not given["yes"]:
        click.confirm(turn.question, abort=True, err=True)


__all__ = ["promote", "reverse"]
