"""``redis-canal dead-letters``: the commands that a link's target refused, as a queue to be worked off."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from canal.errors import CanalError, ConfigError
from console.cli.access import node_config, opened, where_options, who
from console.cli.options import endpoint, side_options
from console.cli.output import Format, emit, emit_document, output_option

if TYPE_CHECKING:
    from sync.letters import Letter, Settled

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 200


class NoLetter(CanalError):
    """There is no such dead letter."""

    exit_code = 3


def directory_options(function: F) -> F:
    """--state-dir and --task, which lead to one link's directory."""
    function = click.option("--task", metavar="TASK", help="Which one, where the directory holds several links.")(
        function
    )
    return click.option(
        "--state-dir",
        required=True,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory of a link, or the state directory of `run` or of a node that holds it.",
    )(function)


def choice_options(function: F) -> F:
    """The letters meant: their ids, or --all."""
    function = click.option("--all", "everything", is_flag=True, help="All that wait.")(function)
    return click.argument("ids", nargs=-1)(function)


def link_directory(state_dir: Path, task: str | None) -> Path:
    """The one link directory meant. Raises ConfigError that lists what is there."""
    found = [state_dir] if (state_dir / "link.json").exists() else []
    found = found or sorted(path.parent for path in state_dir.glob("*/link.json"))
    found = found or sorted(path.parent for path in state_dir.glob("tasks/*/*/link.json"))
    names = {path: path.parent.name if path.parent.parent.name == "tasks" else path.name for path in found}
    if task is not None:
        found = [path for path in found if names[path] == task or names[path].rpartition(".")[0] == task]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{state_dir} holds no link{f' of task {task}' if task else ''}: expected link.json there")
    listed = ", ".join(sorted({names[path] for path in found}))
    raise ConfigError(f"{state_dir} holds several links ({listed}): name one with --task, or its own directory")


@click.group(name="dead-letters", short_help="Work off commands that a target refused.")
def command() -> None:
    """Commands that a target refused for good. Until each is dealt with, the two sides differ in its key."""


@command.command(name="list")
@click.option("--settled", is_flag=True, help="Those that were dealt with, too.")
@directory_options
@output_option
def list_letters(settled: bool, state_dir: Path, task: str | None, output: Format) -> int:
    """List the letters that wait, oldest first."""
    from sync.letters import read_letters

    letters = [one for one in read_letters(link_directory(state_dir, task)) if settled or one.settled is None]
    rows = [_row(letter) for letter in letters]
    emit(rows, ["id", "at", "db", "command", "key", "error"], output, ["offset", "times", "settled", "settled_by"])
    return 0


@click.command(name="dead-letters", short_help="List the dead letters of a task.")
@click.argument("task")
@where_options
@output_option
def of_task(task: str, output: Format, **given: Any) -> int:
    """List the dead letters of TASK that wait, where its journal stands on this machine; needs -c node.yaml.

    `redis-canal dead-letters` works them off, with the directory that this prints.
    """
    from node.coordination.plan import ShardId
    from node.spec import shard_dir
    from sync.letters import read_letters

    state_dir = node_config(click.get_current_context(), given["config_file"], given["state_dir"]).state_dir
    with opened(given) as access:
        uid = access.coordinator.tasks.get(task).uid
        views = access.coordinator.tasks.shards(task)
    rows: list[dict[str, Any]] = []
    for view in views:
        directory = shard_dir(state_dir, uid, ShardId(task, view.id.shard))
        if not (directory / "link.json").exists():
            raise NoLetter(f"shard {view.id} has no journal on this machine: it runs on {view.holder or 'no node'}")
        click.echo(f"shard {view.id.shard}: --state-dir {directory}", err=True)
        waiting = [letter for letter in read_letters(directory) if letter.settled is None]
        rows += [{"shard": view.id.shard, **_row(letter)} for letter in waiting]
    emit(rows, ["shard", "id", "at", "db", "command", "key", "error"], output, ["offset", "times"])
    return 0


@command.command()
@click.argument("letter")
@directory_options
@output_option
def show(letter: str, state_dir: Path, task: str | None, output: Format) -> int:
    """Show one LETTER with its whole command."""
    (found,) = _chosen(link_directory(state_dir, task), (letter,), everything=False, settled=True)
    raw = [base64.b64encode(word).decode() for word in found.argv]
    arguments = [_text(word, 1000) for word in found.argv]
    emit_document({**_row(found), "replid": found.replid, "arguments": arguments, "arguments_base64": raw}, output)
    return 0


@command.command(short_help="Send letters to the target again.")
@choice_options
@click.option("--target", required=True, metavar="URL", help="The link's target.")
@side_options("target")
@directory_options
def retry(ids: tuple[str, ...], everything: bool, state_dir: Path, task: str | None, **given: Any) -> int:
    """Send letters to the target again, oldest first, at most once each. The link must be stopped.

    Right after the cause is mended (a key of the wrong type removed, a permission given) and if the key was not written
    since; otherwise fetch the key.
    """
    import asyncio

    from sync.reapply import reapply

    directory = link_directory(state_dir, task)
    letters = _chosen(directory, ids, everything=everything)
    done = asyncio.run(reapply(endpoint("target", given["target"], given), directory, letters, who()))
    click.echo(f"{done} applied", err=True)
    return 0


@command.command(short_help="Have the link fetch the keys of letters.")
@choice_options
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Fetch this key, whether it has a letter or not.")
@click.option("--db", type=click.IntRange(0), default=0, help="Of --key.")
@directory_options
def refetch(
    ids: tuple[str, ...], everything: bool, keys: tuple[str, ...], db: int, state_dir: Path, task: str | None
) -> int:
    """Have the link fetch the keys of letters from the source as they are now. Always safe.

    The link does it itself, at once when it runs, else when it starts; commands to the key are passed over until then.
    So it also frees a link that stopped at a letter. For a link that renames keys or databases, name the source's key
    with --key and --db.
    """
    from canal.commands import written_in
    from sync.letters import ask_refetch, settle

    directory = link_directory(state_dir, task)
    letters = [] if keys and not (ids or everything) else _chosen(directory, ids, everything=everything)
    places = dict.fromkeys([(db, key.encode()) for key in keys])
    for letter in letters:
        written = written_in(letter.db, list(letter.argv))
        if not written:
            raise ConfigError(f"letter {letter.id} ({_text(letter.argv[0])}) writes no key that is known; name --key")
        places.update(dict.fromkeys(written))
    ask_refetch(directory, places)
    settle(directory, [letter.id for letter in letters], "refetch asked for", who())
    click.echo(f"{len(places)} keys will be fetched by the link", err=True)
    return 0


@command.command(short_help="Acknowledge letters as dealt with.")
@choice_options
@directory_options
def ack(ids: tuple[str, ...], everything: bool, state_dir: Path, task: str | None) -> int:
    """Acknowledge letters: they were dealt with otherwise, or do not matter."""
    from sync.letters import settle

    directory = link_directory(state_dir, task)
    how: Settled = "acknowledged"
    settle(directory, [letter.id for letter in _chosen(directory, ids, everything=everything)], how, who())
    return 0


def _chosen(directory: Path, ids: tuple[str, ...], *, everything: bool, settled: bool = False) -> list[Letter]:
    """The letters meant, oldest first. Raises `NoLetter` for an id that is not there."""
    from sync.letters import read_letters

    letters = read_letters(directory)
    if everything:
        return [letter for letter in letters if letter.settled is None]
    if not ids:
        raise click.UsageError("name letters by their ids, or --all")
    known = {letter.id: letter for letter in letters if settled or letter.settled is None}
    for name in ids:
        if name not in known:
            raise NoLetter(f"no letter {name} waits in {directory}")
    return [letter for letter in known.values() if letter.id in ids]


def _row(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "at": datetime.fromtimestamp(letter.at, UTC).isoformat(timespec="seconds"),
        "db": letter.db,
        "command": _text(letter.argv[0]).upper() if letter.argv else "",
        "key": _text(letter.argv[1]) if len(letter.argv) > 1 else None,
        "error": letter.error,
        "offset": letter.offset,
        "times": letter.times,
        "settled": cast("str | None", letter.settled),
        "settled_by": letter.settled_by or None,
    }


def _text(word: bytes, most: int = _SHOWN) -> str:
    text = word[:most].decode("utf-8", "backslashreplace")
    return text + "…" if len(word) > most else text
