"""One-off work that is asked for and done later: resync, verify, repair, dead letters. A table of states and a queue.

::

    queued → running → succeeded | failed | cancelled | timed-out
    queued ───────────────────────────→ cancelled | timed-out

A job is taken by one node, which keeps it only while its session lives: the job of a node that died is queued again,
at most `ATTEMPTS` times in all. Every change names the version it replaces, so a job reaches exactly one end, whoever
comes first: its worker, a person who cancels, or the clock. A queued job is cancelled at once, a running one is asked
to end and ends as cancelled when its worker has stopped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from canal.errors import CanalError, Refused
from node.coordination.base import Conflict, Create, Op, Remove, Store, Write
from node.coordination.plan import ShardId
from node.coordination.records import decode, encode
from node.coordination.tasks import NotFound

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "timed-out"]
JobKind = Literal["resync", "verify", "repair", "letters"]

NEXT: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset({"running", "cancelled", "timed-out", "failed"}),
    "running": frozenset({"queued", "succeeded", "failed", "cancelled", "timed-out"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "timed-out": frozenset(),
}
ENDS: frozenset[JobState] = frozenset(state for state, after in NEXT.items() if not after)
ATTEMPTS = 3
KEPT = 100  # ended jobs; older ones are removed when new ones are made
JOBS = "jobs"
_TRIES = 20


class JobOver(CanalError):
    """The job has reached its end already, or is another node's; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job's record. Times are unix seconds; ``timeout_s`` counts from ``created``."""

    id: str
    kind: JobKind
    task: str
    shard: str = "0"
    options: dict[str, Any] = field(default_factory=dict)
    state: JobState = "queued"
    node: str = ""
    by: str = ""
    created: float = 0.0
    taken: float = 0.0
    ended: float = 0.0
    timeout_s: float = 3600.0
    attempts: int = 0
    cancel: bool = False  # asked to end
    progress: str = ""
    saved: dict[str, Any] = field(default_factory=dict)  # where another node would go on
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def over(self) -> bool:
        """True when it has reached its end."""
        return self.state in ENDS

    def overdue(self, now: float) -> bool:
        """True when its time is up and it has not ended."""
        return not self.over and now >= self.created + self.timeout_s


def step(job: Job, to: JobState, *, now: float, **changes: Any) -> Job:
    """``job`` in state ``to``; raises `JobOver` when the table does not lead there."""
    if to not in NEXT[job.state]:
        raise JobOver(f"job {job.id} is {job.state} and cannot become {to}")
    ended = now if to in ENDS else 0.0
    return replace(job, state=to, ended=ended, **changes)


def comparing_shard(task: str, shards: Sequence[ShardId]) -> str:
    """The shard whose node compares both sides of a task, of a cluster all of it. Raises Refused while it has none."""
    if not shards:
        raise Refused(f"task {task} has no shard yet: its source's nodes are not known; look again in a moment")
    return shards[0].shard


class JobQueue:
    """The jobs of a datacenter, over a store. Blocking and thread-safe, like the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(
        self, kind: JobKind, task: str, *, shard: str = "0", by: str = "", timeout_s: float = 3600.0, **options: Any
    ) -> Job:
        """Queue a job and return at once."""
        self._tidy()
        now = time.time()
        name = f"{int(now * 1000):013d}-{secrets.token_hex(3)}"  # sorts by age
        job = Job(name, kind, task, shard, options, by=by, created=now, timeout_s=timeout_s)
        self._store.commit(Create(_path(name), encode(job)))
        return job

    def get(self, job_id: str) -> Job:
        """Raises `NotFound`."""
        return self._read(job_id)[0]

    def all(self) -> list[Job]:
        """Every job, oldest first; watched."""
        found = []
        for name in self._store.children(JOBS, watch=True):
            there = self._store.get(_path(name), watch=True)
            if there is not None and there.data:
                found.append(decode(Job, there.data, _path(name)))
        return found

    def take(self, job_id: str, node: str) -> Job | None:
        """Become the one who does a queued job; None when it is not to be had."""
        try:
            job, version = self._read(job_id)
            if job.state != "queued":
                return None
            now = time.time()
            mine = step(job, "running", now=now, node=node, taken=now, attempts=job.attempts + 1)
            lock = Create(f"{_path(job_id)}/lock", node.encode(), ephemeral=True)
            self._store.commit(Write(_path(job_id), encode(mine), version), lock)
        except (Conflict, NotFound):
            return None
        return mine

    def report(self, job_id: str, node: str, progress: str, saved: dict[str, Any] | None = None) -> Job:
        """Say how far a running job is, and learn whether it was asked to end. Raises `JobOver`.

        ``saved``: where another node would go on; None leaves what was saved before.
        """

        def edit(job: Job) -> Job:
            return replace(_own(job, node), progress=progress, saved=job.saved if saved is None else saved)

        return self._change(job_id, edit)

    def give_back(self, job_id: str, node: str) -> Job:
        """Queue a running job again: another node goes on with it. Raises `JobOver`."""
        return self._change(
            job_id,
            lambda job: step(_own(job, node), "queued", now=time.time(), node="", attempts=job.attempts - 1),
            Remove(f"{_path(job_id)}/lock"),
        )

    def finish(
        self, job_id: str, node: str, state: JobState, *, result: dict[str, Any] | None = None, error: str = ""
    ) -> Job:
        """End a job that ``node`` runs. Raises `JobOver` when somebody else has ended it before."""
        return self._change(
            job_id,
            lambda job: step(_own(job, node), state, now=time.time(), result=result or {}, error=error, saved={}),
            Remove(f"{_path(job_id)}/lock"),
        )

    def cancel(self, job_id: str) -> Job:
        """Cancel a queued job, or ask the node that runs it to end it. Raises `JobOver` or `NotFound`."""

        def edit(job: Job) -> Job:
            if job.state == "running":
                return replace(job, cancel=True)
            return step(job, "cancelled", now=time.time(), cancel=True)

        return self._change(job_id, edit)

    def sweep(self, now: float | None = None) -> list[Job]:
        """End what is overdue and queue again what a dead node left; any node may do this at any time."""
        now = time.time() if now is None else now
        return [done for job in self.all() if (done := self._swept(job, now)) is not None]

    def _swept(self, job: Job, now: float) -> Job | None:
        if job.over:
            return None
        orphan = job.state == "running" and self._store.get(f"{_path(job.id)}/lock") is None
        try:
            if job.overdue(now):
                error = f"not done within {job.timeout_s:g} s"
                return self._change(job.id, lambda job: step(job, "timed-out", now=now, error=error))
            if orphan and job.cancel:
                return self._change(job.id, lambda job: step(job, "cancelled", now=now))
            if orphan and job.attempts >= ATTEMPTS:
                error = f"{job.attempts} nodes were lost while doing it, the last was {job.node}"
                return self._change(job.id, lambda job: step(job, "failed", now=now, error=error))
            if orphan:
                return self._change(job.id, lambda job: step(job, "queued", now=now, node=""))
        except (JobOver, NotFound):
            return None
        return None

    def _change(self, job_id: str, edit: Callable[[Job], Job], *more: Op) -> Job:
        for _ in range(_TRIES):
            job, version = self._read(job_id)
            if job.over:
                raise JobOver(f"job {job.id} has already {_said(job.state)}")
            new = edit(job)
            try:
                self._store.commit(Write(_path(job_id), encode(new), version), *more)
            except Conflict as conflict:
                if conflict.path.endswith("/lock"):
                    more = ()
                continue
            return new
        raise Refused(f"job {job_id} is being changed by others all the time; try again")

    def _read(self, job_id: str) -> tuple[Job, int]:
        there = self._store.get(_path(job_id))
        if there is None:
            raise NotFound(f"there is no job {job_id!r} at {self._store.place}")
        return decode(Job, there.data, _path(job_id)), there.version

    def _tidy(self) -> None:
        for job in [job for job in self.all() if job.over][: -KEPT + 1]:
            self._store.remove_tree(_path(job.id))


def _own(job: Job, node: str) -> Job:
    if job.state != "running" or job.node != node:
        raise JobOver(f"job {job.id} is {job.state}{f' on {job.node}' if job.node else ''}, not running on {node}")
    return job


def _said(state: JobState) -> str:
    return {"timed-out": "run out of time", "cancelled": "been cancelled"}.get(state, state)


def _path(job_id: str) -> str:
    return f"{JOBS}/{job_id}"
