"""``redis-canal doctor``: looks at servers, permissions, clocks and disk, and says what to change."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canal.errors import CanalError, ConfigError
from console.cli.options import endpoint, side_options
from console.cli.output import Format, emit, output_option

if TYPE_CHECKING:
    from node.config.models import NodeConfig, TaskSpec
    from sync.diagnosis import Finding

_MARKS = {"ok": "ok", "note": "note", "warn": "WARN", "fail": "FAIL"}


@click.command(name="doctor", short_help="Check servers and settings, and say what to change.")
@click.option("--source", metavar="URL", help="Master to follow.")
@click.option("--target", metavar="URL", help="Master to write to.")
@side_options("source")
@side_options("target")
@click.option("--two-way", is_flag=True, help="Another link runs the other way.")
@click.option("-f", "--file", type=click.Path(dir_okay=False, path_type=Path), help="task.yaml, instead of two URLs.")
@click.option(
    "-c", "--config", "config_file", metavar="FILE", help="node.yaml: credentials, coordinator, all its tasks."
)
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the journal is to stand.")
@click.option("--problems", is_flag=True, help="Only what needs to be changed.")
@output_option
def command(output: Format, problems: bool, **given: Any) -> int:
    """Check a link's two servers (--source and --target, or -f task.yaml with -c node.yaml), or all tasks of a node
    (-c node.yaml alone). Nothing is written. Exit code 3 when something fails.
    """
    found = asyncio.run(_examine(click.get_current_context(), given))
    rows = [{**asdict(one), "level": _MARKS[one.level]} for one in found if not problems or one.advice]
    emit(rows, ["level", "side", "check", "found", "advice"], output)
    worst = sum(1 for one in found if one.level == "fail")
    warnings = sum(1 for one in found if one.level == "warn")
    click.echo(f"{worst} failure{'s' * (worst != 1)}, {warnings} warning{'s' * (warnings != 1)}", err=True)
    return 3 if worst else 0


async def _examine(ctx: click.Context, given: dict[str, Any]) -> list[Finding]:
    from sync.doctor import examine

    file, config_file = given["file"], given["config_file"] or (ctx.obj or {}).get("config")
    if given["source"] or given["target"]:
        if not (given["source"] and given["target"]):
            raise ConfigError("give both --source and --target")
        sides = [endpoint(side, given[side], given) for side in ("source", "target")]
        return await examine(*sides, two_way=given["two_way"], state_dir=given["state_dir"])
    if not (file or config_file):
        raise ConfigError("what is to be checked? Give --source and --target, -f task.yaml, or -c node.yaml")
    node = _node(ctx, config_file) if config_file else None
    found = [] if node is None else _of_node(node)
    for spec in [_load(file)] if file else _tasks(node):
        found += await _of_task(spec, node)
    return found


def _node(ctx: click.Context, config_file: str) -> NodeConfig:
    from console.cli.access import node_config

    return node_config(ctx, config_file, None)


def _load(file: Path) -> TaskSpec:
    from node.config import load_task

    return load_task(file)


def _of_node(node: NodeConfig) -> list[Finding]:
    """Credentials that cannot be read, the coordinator, and the disk."""
    from node.config.secrets import password
    from node.connect import coordinator_of
    from sync.diagnosis import Finding, disk

    out: list[Finding] = []
    for name, credential in node.credentials.items():
        try:
            password(name, credential)
            out.append(Finding("here", f"credential {name}", "ok", "can be read"))
        except CanalError as error:
            out.append(Finding("here", f"credential {name}", "fail", str(error), "give this user the file or variable"))
    try:
        coordinator = coordinator_of(node)
        try:
            coordinator.store.start()
            out.append(Finding("here", "coordinator", "ok", coordinator.store.place))
        finally:
            coordinator.store.close()
    except CanalError as error:
        out.append(
            Finding("here", "coordinator", "fail", str(error), "replication goes on without it, failover does not")
        )
    return [*out, *disk(node.state_dir, 0.0)]


def _tasks(node: NodeConfig | None) -> list[TaskSpec]:
    """What the node's coordinator holds; nothing when it cannot be reached, which `_of_node` has said."""
    from node.connect import coordinator_of
    from node.spec import read_spec

    if node is None:
        return []
    coordinator = coordinator_of(node)
    try:
        coordinator.store.start()
        return [read_spec(record) for record in coordinator.tasks.all().values()]
    except CanalError:
        return []
    finally:
        coordinator.store.close()


async def _of_task(spec: TaskSpec, node: NodeConfig | None) -> list[Finding]:
    from dataclasses import replace

    from node.config.secrets import resolve
    from sync.diagnosis import Finding
    from sync.doctor import examine

    credentials = {} if node is None else node.credentials
    try:
        sides = [
            resolve(side, config, credentials) for side, config in (("source", spec.source), ("target", spec.target))
        ]
    except CanalError as error:
        return [Finding(spec.task, "credentials", "fail", str(error), "name credentials that node.yaml has (-c FILE)")]
    found = await examine(*sides, two_way=spec.two_way is not None)
    return [replace(one, side=f"{spec.task} {one.side}") for one in found]
