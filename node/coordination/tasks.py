"""Tasks as wanted: created, changed and deleted by people; every change is one versioned write and leaves an event."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from canal import formats
from canal.errors import CanalError, Refused
from node.coordination.base import Conflict, Create, Op, Store, Write
from node.coordination.plan import ShardId
from node.coordination.records import (
    Desired,
    LeaseRecord,
    ShardNodes,
    ShardView,
    TaskRecord,
    check_name,
    decode,
    decode_object,
    encode,
)
from node.coordination.state import ShardState

TASKS = "tasks"
EVENTS_KEPT = 100
_TRIES = 50


class NotFound(CanalError):
    """No such task, node or job."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One line of a task's history. ``at``: unix seconds; ``by``: who did or saw it."""

    at: float
    by: str
    what: str


def shard_path(shard: ShardId) -> str:
    """Where a shard's records stand."""
    return f"{TASKS}/{shard.task}/shards/{shard.shard}"


class Tasks:
    """The tasks of a datacenter, over a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self,
        task: str,
        spec: dict[str, Any],
        *,
        desired: Desired = "stopped",
        by: str = "",
        uid: str = "",
        shards: tuple[str, ...] | None = None,
    ) -> TaskRecord:
        """Create a task, with one shard (none yet where the source is a cluster). Raises `Refused`.

        ``uid`` is given only to take up again a task whose record was lost.
        """
        path = f"{TASKS}/{check_name('task', task)}"
        now = time.time()
        record = TaskRecord(task, uid or secrets.token_hex(8), spec, desired, now, now, by)
        ops: list[Op] = [Create(path, encode(record)), Create(f"{path}/shards", b"")]
        if shards is None:
            shards = () if record.of_cluster else ("0",)
        for shard in shards:
            ops += _new_shard(ShardId(task, check_name("shard", shard)))
        try:
            self._store.commit(*ops)
        except Conflict as conflict:
            if conflict.reason != "exists":
                raise
            raise Refused(f"task {task} exists already; choose another name, or change it with 'task update'") from None
        self.record_event(task, f"created, to be {desired}", by=by)
        return record

    def get(self, task: str) -> TaskRecord:
        """Raises `NotFound`."""
        record = self._read(task, watch=False)
        if record is None:
            raise NotFound(f"there is no task {task!r} at {self._store.place}; 'task list' shows the tasks")
        return record

    def _read(self, task: str, *, watch: bool) -> TaskRecord | None:
        path = f"{TASKS}/{check_name('task', task)}"
        there = self._store.get(path, watch=watch)
        if there is None or not there.data:
            return None
        return replace(decode(TaskRecord, there.data, path), version=there.version)

    def all(self) -> dict[str, TaskRecord]:
        """Every task by name; watched."""
        records = {name: self._read(name, watch=True) for name in self._store.children(TASKS, watch=True)}
        return {name: record for name, record in records.items() if record is not None}

    def change(
        self,
        task: str,
        edit: Callable[[TaskRecord], TaskRecord],
        *,
        by: str = "",
        what: str,
        version: int | None = None,
    ) -> TaskRecord:
        """Replace a task's record by ``edit`` of it; ``version``: refuse unless the record still has it.

        Raises `NotFound`, or `Refused` when somebody else changed the task first.
        """
        for _ in range(_TRIES):
            old = self.get(task)
            if version is not None and old.version != version:
                raise Refused(f"task {task} was changed meanwhile (version {old.version}, not {version}); look again")
            new = replace(edit(old), changed=time.time(), changed_by=by)
            if replace(new, changed=0.0, changed_by="") == replace(old, changed=0.0, changed_by=""):
                return old
            try:
                [stored] = self._store.commit(Write(f"{TASKS}/{task}", encode(new), old.version))
            except Conflict:
                continue
            self.record_event(task, what, by=by)
            return replace(new, version=stored)
        raise Refused(f"task {task} is being changed by others all the time; try again")

    def set_desired(self, task: str, desired: Desired, *, by: str = "") -> TaskRecord:
        """Ask for running, paused or stopped; the nodes do it."""
        return self.change(task, lambda old: replace(old, desired=desired), by=by, what=f"to be {desired}")

    def set_spec(self, task: str, spec: dict[str, Any], *, by: str = "", version: int | None = None) -> TaskRecord:
        """Replace the specification; workers start anew with it."""
        return self.change(
            task, lambda old: replace(old, spec=spec), by=by, what="specification changed", version=version
        )

    def restart(self, task: str, *, by: str = "", what: str = "to start anew") -> TaskRecord:
        """Have every worker of the task start anew, a failed one too."""
        return self.change(task, lambda old: replace(old, restart=old.restart + 1), by=by, what=what)

    def delete(self, task: str) -> None:
        """Forget the task, its positions and its history. Raises `Refused` while a node still runs it, `NotFound`."""
        self.get(task)
        held = [view for view in self.shards(task) if view.holder]
        if held:
            raise Refused(f"task {task} still runs on {held[0].holder}; stop it first and wait until it has stopped")
        self._store.remove_tree(f"{TASKS}/{task}")

    def shard_ids(self, task: str) -> list[ShardId]:
        """The shards of a task; watched."""
        return [ShardId(task, name) for name in self._store.children(f"{TASKS}/{task}/shards", watch=True)]

    def nodes_of(self, shard: ShardId) -> ShardNodes:
        """The nodes of a shard of a source cluster; watched."""
        path = shard_path(shard)
        there = self._store.get(path, watch=True)
        if there is None or not there.data:
            return ShardNodes()
        found = decode(ShardNodes, there.data, path)
        return replace(found, members=tuple(found.members))

    def set_nodes(self, shard: ShardId, nodes: ShardNodes) -> None:
        """Write them down; nothing happens where the shard is gone or somebody else wrote first."""
        there = self._store.get(shard_path(shard))
        if there is not None:
            with contextlib.suppress(Conflict):
                self._store.commit(Write(shard_path(shard), encode(nodes), there.version))

    def remove_shard(self, shard: ShardId) -> None:
        """Forget a shard that has ended."""
        self._store.remove_tree(shard_path(shard))

    def add_shard(self, shard: ShardId, nodes: ShardNodes | None = None) -> bool:
        """Add a shard to its task; False when it is there already. Raises `NotFound`."""
        self.get(shard.task)
        data = b"" if nodes is None else encode(nodes)
        try:
            self._store.commit(*_new_shard(ShardId(shard.task, check_name("shard", shard.shard)), data))
        except Conflict:
            return False
        return True

    def shards(self, task: str) -> list[ShardView]:
        """Every shard of a task with its holder, epoch and recorded state."""
        return [self._view(shard) for shard in self.shard_ids(task)]

    def _view(self, shard: ShardId) -> ShardView:
        base = shard_path(shard)
        lease, epoch, state = (self._store.get(f"{base}/{name}") for name in ("lease", "epoch", "state"))
        holder = decode(LeaseRecord, lease.data, f"{base}/lease").node if lease else None
        counter = int(decode_object(epoch.data, f"{base}/epoch").get("epoch", 0)) if epoch else 0
        stored = decode(ShardState, state.data, f"{base}/state") if state else ShardState()
        return ShardView(shard, holder, counter, stored, state.version if state else -1)

    def record_event(self, task: str, what: str, *, by: str = "") -> None:
        """Add a line to the task's history, of which the newest hundred are kept; never raises `Conflict`."""
        path = f"{TASKS}/{task}/events"
        event = TaskEvent(time.time(), by, what)
        for _ in range(_TRIES):
            there = self._store.get(path)
            lines = [*self._lines(there.data if there else b"", path), event][-EVENTS_KEPT:]
            data = json.dumps({"format": formats.written(), "events": [asdict(line) for line in lines]}).encode()
            try:
                if there is None and self._store.get(f"{TASKS}/{task}") is None:
                    return
                self._store.commit(Write(path, data, there.version, quiet=True) if there else Create(path, data))
            except Conflict:
                continue
            return

    def events(self, task: str) -> list[TaskEvent]:
        """The task's history, oldest first."""
        path = f"{TASKS}/{task}/events"
        there = self._store.get(path)
        return self._lines(there.data if there else b"", path)

    def _lines(self, data: bytes, path: str) -> list[TaskEvent]:
        if not data:
            return []
        return [TaskEvent(**line) for line in decode_object(data, path).get("events", [])]


def _new_shard(shard: ShardId, nodes: bytes = b"") -> list[Op]:
    base = shard_path(shard)
    return [
        Create(base, nodes),
        Create(f"{base}/epoch", json.dumps({"format": formats.written(), "epoch": 0}).encode()),
        Create(f"{base}/state", encode(ShardState())),
    ]
