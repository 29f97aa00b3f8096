"""``redis-canal conflicts`` and ``task conflicts``: which keys were written by several datacenters at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from console.cli.access import node_config, opened, where_options
from console.cli.dead_letters import NoLetter, directory_options, link_directory
from console.cli.output import Format, emit, output_option

_COLUMNS: Final = ["at", "db", "key", "winner", "first", "second"]
_limit = click.option(
    "-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="The newest so many."
)


@click.command(name="conflicts", short_help="List keys that several datacenters wrote at once.")
@_limit
@directory_options
@output_option
def command(limit: int, state_dir: Path, task: str | None, output: Format) -> int:
    """List concurrent writes of the same key that a link found, newest last: both writes, and whose state stays.

    The newest some thousand are kept, each key at most once a second.
    """
    from sync.conflictlog import read_conflicts

    found = read_conflicts(link_directory(state_dir, task))
    emit(list(_rows(found[-limit:])), _COLUMNS, output, ["reason"])
    return 0


@click.command(name="conflicts", short_help="List concurrent writes that a task found.")
@click.argument("task")
@_limit
@where_options
@output_option
def of_task(task: str, limit: int, output: Format, **given: Any) -> int:
    """List the conflicts that TASK found, where its journal stands on this machine; needs -c node.yaml."""
    from node.coordination.plan import ShardId
    from node.spec import shard_dir
    from sync.conflictlog import read_conflicts

    state_dir = node_config(click.get_current_context(), given["config_file"], given["state_dir"]).state_dir
    with opened(given) as access:
        uid = access.coordinator.tasks.get(task).uid
        views = access.coordinator.tasks.shards(task)
    rows: list[dict[str, Any]] = []
    for view in views:
        directory = shard_dir(state_dir, uid, ShardId(task, view.id.shard))
        if not (directory / "link.json").exists():
            raise NoLetter(f"shard {view.id} has no journal on this machine: it runs on {view.holder or 'no node'}")
        rows += [{"shard": view.id.shard, **row} for row in _rows(read_conflicts(directory)[-limit:])]
    emit(rows, ["shard", *_COLUMNS], output, ["reason"])
    return 0


def _rows(lines: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for line in lines:
        yield {
            **line,
            "at": datetime.fromtimestamp(float(line.get("at", 0)), UTC).isoformat(timespec="milliseconds"),
            "first": _write(line.get("first")),
            "second": _write(line.get("second")),
        }


def _write(found: Any) -> str:
    return f"{found['dc']}:{found['offset']}" if isinstance(found, dict) and {"dc", "offset"} <= found.keys() else ""
