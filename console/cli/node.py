"""``redis-canal node``: start, list and drain the daemons of a datacenter."""

from __future__ import annotations

import time
from typing import Any

import click

from console.cli.access import node_config, opened, wait_options, wait_until, where_options
from console.cli.config import report
from console.cli.output import Format, emit, output_option


@click.group(name="node", short_help="Start, list and drain nodes.")
def command() -> None:
    """Start, list and drain nodes: the daemons that run tasks."""


@command.command(short_help="Run the daemon in the foreground.")
@click.option("-c", "--config", "config_file", metavar="FILE", help="node.yaml (also REDIS_CANAL_CONFIG).")
@click.option("--state-dir", metavar="DIR", help="Replaces state_dir; alone it is enough for a node of this machine.")
@click.option("-v", "--verbose", count=True, help="Debug messages; twice for those of libraries too.")
@click.option("--json-logs", is_flag=True, help="One JSON object per log line.")
@click.pass_context
def start(ctx: click.Context, config_file: str | None, state_dir: str | None, verbose: int, json_logs: bool) -> int:
    """Run the daemon in the foreground until SIGTERM; it then gives its shards back.

    SIGHUP reads the configuration again. A second SIGTERM stops at once.
    """
    import logging
    import os

    from console.cli import logs
    from console.cli.about import package_version
    from node.config import ConfigProblems

    try:
        config = node_config(ctx, config_file, state_dir)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    from canal import formats
    from node.daemon import Daemon, run_daemon

    formats.write(config.format)

    os.umask(0o077)  # journals and letters hold the data itself
    logs.setup(verbose, json_logs)
    if not verbose:
        for room in ("canal", "sync", "node"):
            logging.getLogger(room).setLevel(config.log_level.upper())
        logging.getLogger("node.coordination.kazoo").setLevel(logging.ERROR)
    run_daemon(
        Daemon(config, version=package_version(), reload=lambda: node_config(ctx, config_file, state_dir)),
    )
    return 0


@command.command(name="list")
@where_options
@output_option
def list_nodes(output: Format, **given: Any) -> int:
    """List the nodes that are alive, and those that are to drain."""
    with opened(given) as access:
        facts = access.coordinator.facts()
        held = list(facts.held.values())
    rows = []
    for name in sorted({*facts.nodes, *facts.draining}):
        record = facts.nodes.get(name)
        rows.append(
            {
                "node": name,
                "state": "down" if record is None else "draining" if name in facts.draining else "ready",
                "shards": held.count(name),
                "max_shards": record.max_shards if record else None,
                "datacenter": record.datacenter if record else None,
                "host": record.host if record else None,
                "pid": record.pid if record else None,
                "version": record.version if record else None,
                "http": record.http if record else None,
                "started": _when(record.started) if record else None,
                "writes_format": record.writes if record else None,
                "knows_format": record.knows if record else None,
            }
        )
    emit(
        rows,
        ("node", "state", "shards", "max_shards", "http"),
        output,
        ("datacenter", "host", "pid", "version", "started", "writes_format", "knows_format"),
    )
    return 0


@command.command(short_help="Have a node hand its shards to others.")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let the node take shards again.")
@where_options
@wait_options
def drain(name: str, undo: bool, wait: bool, timeout: float, **given: Any) -> int:
    """Have node NAME hand its shards to the others and take none, until --undo."""
    with opened(given) as access:
        coordinator = access.coordinator
        facts = coordinator.facts()
        if name not in facts.nodes and not undo and name not in facts.draining:
            click.echo(f"node {name} is not alive; it will take no shards when it starts", err=True)
        coordinator.nodes.drain(name, on=not undo)
        if undo:
            return 0
        able = [n for n in facts.nodes if n != name and n not in facts.draining]
        if not able and name in facts.nodes:
            click.echo(f"no other node can take the shards of {name}: they stay there until one can", err=True)
        if wait:
            wait_until(
                lambda: True if name not in coordinator.facts().held.values() else None,
                timeout,
                lambda: f"{name} still holds {list(coordinator.facts().held.values()).count(name)} shards",
            )
    return 0


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
