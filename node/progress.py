"""What a worker's figures mean for the shard's record at the coordinator. Pure: figures in, record out."""

from __future__ import annotations

from dataclasses import replace

from node.coordination.state import ShardPhase, ShardState, new_run
from sync.status import LinkStatus

MOVABLE_LAG_BYTES = 512 * 1024
"""A shard moves between living nodes only when it is no further behind than this: the journal stays where it is, so
the new owner asks the source for the rest, and a source's backlog is 1 MB by default."""


def record_of(old: ShardState, status: LinkStatus, *, paused: bool, now: float) -> ShardState:
    """The record that follows ``old`` when the worker reports ``status``; a new run where the table demands one.

    A reconnect does not move a state back: a streaming shard stays ``streaming``, and ``phase`` says what it does.
    Ends other than ``paused`` are not told by figures; the daemon writes them.
    """
    state = _state(old, status, paused)
    base = old
    if (state == "snapshot" and old.level > 2) or (old.ended and state != old.state):
        base = new_run(old, node=old.node, epoch=old.epoch, now=now)
    return replace(
        base,
        state=state,
        phase=_phase(status, paused),
        replid=status.replid or base.replid,
        source_offset=status.source_offset or base.source_offset,
        journaled_offset=status.journaled_offset or base.journaled_offset,
        applied_offset=status.applied_offset or base.applied_offset,
        lag_seconds=status.lag_seconds,
        lag_bytes=status.lag_bytes,
        full_resyncs=status.full_resyncs,
        slots=status.slots or base.slots,
        error="" if _healthy(status) else status.last_error or base.error,
        since=base.since if base.state == state and base is old else now,
        updated=now,
    )


def _state(old: ShardState, status: LinkStatus, paused: bool) -> ShardPhase:
    if paused:
        return "paused"
    if status.state == "snapshot":
        return "snapshot"
    if status.state == "streaming":
        return "streaming"
    return "assigned" if old.ended else old.state


def _phase(status: LinkStatus, paused: bool) -> str:
    if paused:
        return "capturing, replay is paused"
    if status.detail:
        return status.detail
    if status.journal_full:
        return f"capture waits: {status.journal_full}"
    if status.state == "streaming" and not status.source_connected:
        return "source unreachable"
    if status.state == "streaming" and not status.target_connected:
        return "target unreachable"
    if status.state == "snapshot" and status.snapshot.bytes_total:
        return f"snapshot {100 * status.snapshot.bytes_done // status.snapshot.bytes_total}%"
    return status.state


def _healthy(status: LinkStatus) -> bool:
    return status.state == "streaming" and status.source_connected and status.target_connected


def differs(old: ShardState, new: ShardState) -> bool:
    """True when a record is worth writing: anything but times, and lag that merely goes on as it was."""
    return replace(new, updated=old.updated, lag_seconds=old.lag_seconds) != old


def urgent(old: ShardState, new: ShardState) -> bool:
    """True when the change is to be written at once, not with the next round of positions."""
    return _news(new) != _news(old)


def _news(state: ShardState) -> tuple[object, ...]:
    what, _, rest = state.phase.partition(" ")
    return state.state, state.run, state.error, what, rest.rstrip("%").isdigit() or rest


def movable(status: LinkStatus | None) -> bool:
    """True when the shard may be handed to another node without costing a full resync."""
    if status is None:
        return True
    if status.state == "snapshot" or status.journal_full:
        return False
    return status.lag_bytes <= MOVABLE_LAG_BYTES
