"""What the API shows, made from the coordinators' records and the nodes' live figures. Pure: records in, JSON out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.coordination.coordinator import Facts
from node.coordination.records import NodeRecord, ShardView, TaskRecord
from node.coordination.tasks import TaskEvent

Json = dict[str, Any]
UNREAD: Final = "not connected yet"
NO_THROTTLE: Final = {"commands_per_second": 0, "bytes_per_second": 0, "latency_ms": 0}
WORST: Final = ("failed", "created", "assigned", "snapshot", "stopped", "paused", "streaming")

# What a shard shows of its live figures, and the name under which the coordinator's record has it (None: it has not).
LIVE: Final = (
    *("source_offset", "journaled_offset", "applied_offset", "lag_seconds", "lag_bytes", "replid", "full_resyncs"),
    *("source_connected", "target_connected", "commands_received", "commands_applied", "commands_failed"),
    *("commands_filtered", "bytes_applied", "loops_dropped", "batches", "partial_resyncs", "source_reconnects"),
    *("target_reconnects", "errors", "last_error", "dead_letters", "writer", "journal_bytes", "journal_start"),
    *("journal_full", "last_applied", "last_heard", "started", "snapshot"),
)


@dataclass(slots=True)
class Place:
    """One coordinator as last read; ``trouble`` says why it could not be, in which case the rest is from before."""

    name: str
    facts: Facts | None = None
    shards: dict[str, list[ShardView]] = field(default_factory=dict)
    trouble: str = UNREAD
    read: float = 0.0


def shard_brief(view: ShardView, live: Mapping[str, Any] | None, rates: tuple[float | None, float | None]) -> Json:
    """What a task's line is made of: made every second for every shard of every task, so nothing more.

    ``live`` None: the figures are those that its node last wrote to the coordinator, or none. ``rates``: commands and
    bytes a second.
    """
    state, known = view.state, live is not None
    live = live or {}
    unheld = view.holder is None and not known
    return {
        "node": view.holder,
        "live": known,
        "state": live.get("state", state.state),
        "phase": live.get("phase", state.phase),
        "error": live.get("error", state.error),
        "restarts": live.get("restarts", state.restarts),
        "lag_seconds": None if unheld else live.get("lag_seconds", state.lag_seconds),
        "lag_bytes": live.get("lag_bytes", state.lag_bytes),
        "dead_letters": live.get("dead_letters_waiting"),
        "conflicts": live.get("conflicts"),
        "conflicts_waiting": live.get("conflicts_waiting"),
        "echoes": live.get("echoes"),
        "expiry_refused": live.get("expiry_refused"),
        "snapshot": live.get("snapshot"),
        "commands_per_second": rates[0],
        "bytes_per_second": rates[1],
    }


def shard_document(
    view: ShardView, live: Mapping[str, Any] | None, rates: tuple[float | None, float | None] = (None, None)
) -> Json:
    """One shard with everything that is known of it; see `shard_brief`."""
    state = view.state
    document: Json = {
        "shard": view.id.shard,
        "epoch": view.epoch,
        "run": state.run,
        "restart_reason": state.restart_reason,
        "since": state.since or None,
        "updated": state.updated or None,
        **{name: getattr(state, name, None) for name in LIVE},
    }
    if live is not None:
        document.update({name: live[name] for name in (*LIVE, "run") if name in live})
    return {**document, **shard_brief(view, live, rates)}


def task_document(record: TaskRecord, shards: list[Json], home: str = "") -> Json:
    """One task in lists and events: the worst of its shards' states, the largest of their lags.

    ``home``: the datacenter whose coordinator keeps it; with its name it tells a task from all others.
    """
    spec = record.spec
    lags = [shard["lag_seconds"] for shard in shards]
    commands = [shard["commands_per_second"] for shard in shards]
    sizes = [shard["bytes_per_second"] for shard in shards]
    return {
        "task": record.task,
        "uid": record.uid,
        "home": home,
        "source": _side(spec.get("source")),
        "target": _side(spec.get("target")),
        "two_way": (spec.get("two_way") or {}).get("peer"),
        "throttle": {**NO_THROTTLE, **(spec.get("throttle") or {})},
        "desired": record.desired,
        "state": min((shard["state"] for shard in shards), key=WORST.index, default="created"),
        "phase": next((shard["phase"] for shard in shards if shard["phase"] != shard["state"]), ""),
        "error": next((shard["error"] for shard in shards if shard["error"]), ""),
        "shards": len(shards),
        "nodes": sorted({shard["node"] for shard in shards if shard["node"]}),
        "live": bool(shards) and all(shard["live"] for shard in shards),
        "lag_seconds": None if not lags or None in lags else max(lags),
        "lag_bytes": sum(shard["lag_bytes"] or 0 for shard in shards),
        "commands_per_second": None if not commands or None in commands else sum(commands),
        "bytes_per_second": None if not sizes or None in sizes else sum(sizes),
        "snapshot_fraction": snapshot_fraction(shards),
        "dead_letters": sum(shard["dead_letters"] or 0 for shard in shards),
        "conflicts": sum(shard["conflicts"] or 0 for shard in shards),
        "conflicts_waiting": sum(shard["conflicts_waiting"] or 0 for shard in shards),
        "echoes": sum(shard["echoes"] or 0 for shard in shards),
        "expiry_refused": sum(shard["expiry_refused"] or 0 for shard in shards),
        "restarts": sum(shard["restarts"] for shard in shards),
        "version": record.version,
        "created": record.created,
        "changed": record.changed,
        "changed_by": record.changed_by,
    }


def _side(value: Any) -> Json:
    side = value if isinstance(value, dict) else {}
    return {name: side.get(name) for name in ("datacenter", "url", "credentials")}


def snapshot_fraction(shards: Iterable[Json]) -> float | None:
    """How much of the snapshots that are being applied is done, 0 to 1; None when none is, or no one can know."""
    done = total = 0
    for shard in shards:
        progress = shard.get("snapshot")
        if shard["state"] != "snapshot" or not isinstance(progress, dict):
            continue
        by_bytes = progress.get("bytes_total") or 0
        size = by_bytes or progress.get("keys_total") or 0
        done += min(size, progress.get("bytes_done" if by_bytes else "keys_done") or 0)
        total += size
    return done / total if total else None


def node_document(record: NodeRecord | None, name: str, facts: Facts, status: Mapping[str, Any] | str | None) -> Json:
    """One node; ``status``: its own account, or why there is none. ``record`` None: it drains, but is not alive."""
    held = [str(shard) for shard, holder in facts.held.items() if holder == name]
    live = status if isinstance(status, Mapping) else {}
    state = "down" if record is None else "draining" if name in facts.draining else "ready"
    return {
        "node": name,
        "datacenter": record.datacenter if record else "",
        "state": state,
        "draining": name in facts.draining,
        "reachable": isinstance(status, Mapping),
        "trouble": live.get("trouble", "") or (status if isinstance(status, str) else ""),
        "shards": sorted(held),
        "max_shards": record.max_shards if record else None,
        "host": record.host if record else None,
        "pid": record.pid if record else None,
        "version": record.version if record else None,
        "http": record.http if record else None,
        "started": record.started if record else None,
        "cpu_seconds": (live.get("usage") or {}).get("cpu_seconds"),
        "memory_bytes": (live.get("usage") or {}).get("memory_bytes"),
    }


def datacenter_document(name: str, place: Place | None, nodes: Iterable[Json], tasks: Iterable[Json]) -> Json:
    """One datacenter; ``place`` None: tasks name it, but console.yaml does not."""
    own = [node for node in nodes if node["datacenter"] == name]
    mine = list(tasks)
    return {
        "datacenter": name,
        "configured": place is not None,
        "read": place is not None and place.trouble != UNREAD,
        "coordinator": place.name if place is not None else None,
        "reachable": place is not None and not place.trouble,
        "trouble": place.trouble if place is not None else "not among the datacenters of console.yaml",
        "nodes": len(own),
        "nodes_ready": sum(node["state"] == "ready" for node in own),
        "tasks_out": sum(task["source"]["datacenter"] == name for task in mine),
        "tasks_in": sum(task["target"]["datacenter"] == name for task in mine),
    }


def events_document(events: Iterable[TaskEvent]) -> list[Json]:
    """A task's history, newest first."""
    return [{"at": event.at, "by": event.by, "what": event.what} for event in reversed(list(events))]
