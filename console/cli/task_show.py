"""How tasks, shards, jobs and logs are shown."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from console.cli.output import Format, duration, emit, emit_document, size, table

if TYPE_CHECKING:
    from node.coordination.coordinator import Coordinator
    from node.coordination.records import ShardView, TaskRecord

_WORST = ("failed", "created", "assigned", "snapshot", "stopped", "paused", "streaming")


def task_row(record: TaskRecord, views: list[ShardView]) -> dict[str, Any]:
    """One task in a list: the worst of its shards' states, the largest of their lags."""
    source, target = record.spec.get("source", {}), record.spec.get("target", {})
    states = [view.state.state for view in views]
    lags = [view.state.lag_seconds for view in views]
    return {
        "task": record.task,
        "from": source.get("datacenter"),
        "to": target.get("datacenter"),
        "desired": record.desired,
        "state": min(states, key=_WORST.index) if states else None,
        "shards": len(views),
        "nodes": sorted({view.holder for view in views if view.holder}),
        "lag": None if None in lags or not lags else duration(max(lag for lag in lags if lag is not None)),
        "lag_bytes": sum(view.state.lag_bytes for view in views),
        "source": source.get("url"),
        "target": target.get("url"),
        "restarts": sum(view.state.restarts for view in views),
        "error": next((view.state.error for view in views if view.state.error), ""),
    }


def shard_document(view: ShardView) -> dict[str, Any]:
    """One shard in full."""
    state = asdict(view.state)
    for name in ("since", "updated"):
        state[name] = _when(state[name])
    state["worker_node"] = state.pop("node")
    return {"shard": view.id.shard, "node": view.holder, **state, "epoch": view.epoch, "version": view.version}


def print_list(coordinator: Coordinator, output: Format) -> None:
    """``task list``"""
    tasks = coordinator.tasks.all()
    rows = [task_row(record, coordinator.tasks.shards(name)) for name, record in sorted(tasks.items())]
    columns = ("task", "from", "to", "desired", "state", "nodes", "lag")
    emit(rows, columns, output, ("lag_bytes", "shards", "restarts", "source", "target", "error"))


def print_description(coordinator: Coordinator, task: str, output: Format) -> None:
    """``task describe``"""
    record = coordinator.tasks.get(task)
    views = coordinator.tasks.shards(task)
    events = coordinator.tasks.events(task)
    document = {
        "task": record.task,
        "uid": record.uid,
        "desired": record.desired,
        "state": task_row(record, views)["state"],
        "spec_version": record.version,
        "created": _when(record.created),
        "changed": _when(record.changed),
        "changed_by": record.changed_by,
        "shards": [shard_document(view) for view in views],
        "spec": record.spec,
        "events": [{"at": _when(event.at), "by": event.by, "what": event.what} for event in events],
    }
    if output in ("json", "yaml"):
        emit_document(document, output)
        return
    for name in ("task", "uid", "desired", "state", "created", "changed", "changed_by"):
        click.echo(f"{name.replace('_', ' '):<12}{document[name]}")
    click.echo()
    for line in shard_lines(views, wide=output == "wide"):
        click.echo(line)
    for view in views:
        if view.state.error:
            click.echo(f"\nshard {view.id.shard}: {view.state.error}")
    click.echo()
    for event in events[-10:]:
        click.echo(f"{_when(event.at)}  {event.by}  {event.what}")


def shard_lines(views: list[ShardView], *, wide: bool = False, with_task: bool = False) -> list[str]:
    """Shards as a table for people."""
    headings = ["shard", "node", "state", "phase", "lag", "behind", "applied"]
    headings += ["run", "epoch", "restarts", "replid"] if wide else []
    rows = []
    for view in views:
        state = view.state
        name = str(view.id) if with_task else view.id.shard
        row = [name, view.holder or "-", state.state, state.phase or "-", duration(state.lag_seconds)]
        row += [size(state.lag_bytes), str(state.applied_offset)]
        row += [str(state.run), str(view.epoch), str(state.restarts), state.replid[:8] or "-"] if wide else []
        rows.append(row)
    return table(headings, rows)


def watch_shards(coordinator: Coordinator, task: str | None, interval_s: float) -> None:
    """``task watch``: a live table on a terminal, one line per change elsewhere."""
    if sys.stdout.isatty():
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:
            while True:
                lines = shard_lines(_views(coordinator, task), wide=True, with_task=True)
                live.update(Text("\n".join(lines)), refresh=True)
                time.sleep(interval_s)
    last: dict[Any, tuple[Any, ...]] = {}
    while True:
        for view in _views(coordinator, task):
            state = view.state
            seen = (view.holder, state.state, state.run, state.error)
            if last.get(view.id) != seen:
                last[view.id] = seen
                words = f"{view.id} {state.state} on {view.holder or '-'} run {state.run} {state.error}".rstrip()
                click.echo(f"{_when(time.time())} {words}")
                sys.stdout.flush()
        time.sleep(interval_s)


def _views(coordinator: Coordinator, task: str | None) -> list[ShardView]:
    names = [task] if task is not None else sorted(coordinator.tasks.all())
    return [view for name in names for view in coordinator.tasks.shards(name)]


def print_jobs(coordinator: Coordinator, task: str | None, output: Format) -> None:
    """``task jobs``"""
    from node.jobs import JobQueue

    rows = []
    for job in JobQueue(coordinator.store).all():
        if task is None or job.task == task:
            row = asdict(job)
            row.update({name: _when(row[name]) if row[name] else None for name in ("created", "taken", "ended")})
            rows.append(row)
    emit(
        rows, ("id", "kind", "task", "shard", "state", "node", "progress"), output, ("by", "created", "ended", "error")
    )


def print_logs(coordinator: Coordinator, task: str, lines: int, output: Format) -> None:
    """``task logs``: lines of the living nodes, together with the task's history, by time."""
    found: list[dict[str, Any]] = [
        {"at": event.at, "node": event.by, "shard": "", "level": "event", "message": event.what}
        for event in coordinator.tasks.events(task)
    ]
    for name, node in coordinator.nodes.living().items():
        for line in _node_lines(name, node.http):
            if line["task"] == task:
                level = {10: "debug", 20: "info", 30: "warning", 40: "error"}.get(line["level"], str(line["level"]))
                found.append(
                    {"at": line["at"], "node": name, "shard": line["shard"], "level": level, "message": line["message"]}
                )
    found.sort(key=lambda line: line["at"])
    rows = [{**line, "at": _when(line["at"])} for line in found[-lines:]]
    emit(rows, ("at", "node", "shard", "level", "message"), output)


def _node_lines(name: str, address: str) -> list[dict[str, Any]]:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{address}/logs", timeout=3) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found
    except (OSError, ValueError) as error:
        click.echo(f"node {name}: its log at {address} cannot be read: {error}", err=True)
        return []


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
