"""The state of a shard as a table: levels, runs and versions. No I/O.

::

    level 0      1          2          3           4
    created → assigned → snapshot → streaming → paused | stopped | failed

Within one *run* a state moves to its own level or a later one, never back; levels may be skipped (a partial resync has
no snapshot phase). Of the three ends only one is reached in a run: an end may be rewritten with new figures, not
turned into another end. Whatever starts again — a start, a resume, a takeover, a full resync in the middle — is a
new run, numbered one higher, which begins at ``assigned`` or later.

Every write names the *version* of the record that it replaces, as the writer knows it from its own last write. So of
two writers only one can succeed; the other is refused (`Stale`) and must look who owns the shard now, and nothing is
ever merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from canal.errors import CanalError

ShardPhase = Literal["created", "assigned", "snapshot", "streaming", "paused", "stopped", "failed"]

LEVELS: dict[ShardPhase, int] = {
    "created": 0,
    "assigned": 1,
    "snapshot": 2,
    "streaming": 3,
    "paused": 4,
    "stopped": 4,
    "failed": 4,
}
ENDS: frozenset[ShardPhase] = frozenset({"paused", "stopped", "failed"})


class Stale(CanalError):
    """A write built on a record that has been replaced meanwhile; nothing was changed."""


class Backward(CanalError):
    """A write that would move a state back within its run, or to an older run; nothing was changed."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """What the coordinator keeps of one shard.

    Offsets are stream positions in bytes; they are a hint for people and standbys, never the truth: that is the
    target's checkpoint. ``lag_seconds`` is None while unknown. ``restarts`` counts crashes of the worker in this node's
    care since the last healthy hour, ``error`` is the newest of this run's errors. Times are unix seconds.
    """

    state: ShardPhase = "created"
    run: int = 0
    node: str = ""
    epoch: int = 0
    phase: str = ""  # one line: what it does or waits for now
    replid: str = ""
    source_offset: int = 0
    journaled_offset: int = 0
    applied_offset: int = 0
    lag_seconds: float | None = None
    lag_bytes: int = 0
    full_resyncs: int = 0
    error: str = ""
    restarts: int = 0
    slots: str = ""  # of a shard of a source cluster: those that it answers for at the target, as ranges
    restart_reason: str = ""  # why the worker was started again the last time
    spec_version: int = 0  # of the task record that the worker runs on
    since: float = 0.0  # when ``state`` was entered
    updated: float = 0.0

    @property
    def level(self) -> int:
        """Place in the order of states."""
        return LEVELS[self.state]

    @property
    def ended(self) -> bool:
        """True when this run has reached one of its ends."""
        return self.state in ENDS


@dataclass(frozen=True, slots=True)
class Known:
    """A record as a writer knows it: what stands there and its version (-1: nothing stands there)."""

    state: ShardState = field(default_factory=ShardState)
    version: int = -1


def follows(old: ShardState, new: ShardState) -> bool:
    """True when ``new`` may replace ``old`` by the table above."""
    if new.run != old.run:
        return new.run == old.run + 1 and new.level >= LEVELS["assigned"]
    if old.ended:
        return new.state == old.state
    return new.level >= old.level


def check(old: ShardState, new: ShardState) -> None:
    """Raise `Backward`, naming both, unless ``new`` may replace ``old``."""
    if not follows(old, new):
        raise Backward(
            f"a state moves forward only: {old.state} of run {old.run} cannot become {new.state} of run {new.run}"
            " (a new start is a new run)"
        )


def new_run(old: ShardState, *, node: str, epoch: int, now: float, phase: str = "") -> ShardState:
    """The first state of the next run: ``assigned`` to ``node`` under ``epoch``, going on from the known positions.

    Crash counts stay with the node that counted them; another node starts from zero.
    """
    return replace(
        old,
        state="assigned",
        run=old.run + 1,
        node=node,
        epoch=epoch,
        phase=phase,
        error="",
        lag_seconds=None,
        restarts=old.restarts if node == old.node else 0,
        restart_reason=old.restart_reason if node == old.node else "",
        since=now,
        updated=now,
    )


def moved(old: ShardState, to: ShardPhase, *, now: float, phase: str = "", error: str = "") -> ShardState:
    """``old`` in state ``to`` of the same run; raises `Backward` when the table forbids it."""
    new = replace(
        old, state=to, phase=phase, error=error or old.error, since=old.since if to == old.state else now, updated=now
    )
    check(old, new)
    return new
