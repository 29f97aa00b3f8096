"""The live figures of one link: written by its pipeline, read by HTTP, metrics, CLI and coordination.

Plain counters on one object, so that reading them costs nothing and never blocks the pipeline. All offsets are stream
positions in bytes, all times unix seconds unless the name says otherwise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["connecting", "snapshot", "streaming", "failed", "stopped"]


@dataclass(slots=True)
class SnapshotProgress:
    """Progress of the snapshot now being applied, or of the last one. ``bytes_total`` is 0 while unknown (diskless)."""

    keys_done: int = 0
    bytes_done: int = 0
    bytes_received: int = 0
    bytes_total: int = 0
    keys_total: int = 0  # a hint from RESIZEDB; 0 when unknown
    keys_kept: int = 0  # two-way: keys that the target had and kept
    keys_restored: int = 0  # by RESTORE, bytes unchanged
    keys_restamped: int = 0  # by RESTORE with another version in the footer
    keys_decoded: int = 0  # by ordinary commands
    choices: dict[str, str] = field(default_factory=dict)  # encoding -> restore, restamp or commands, and why
    stale_deleted: int = 0
    stale_kept: int = 0
    started: float = 0.0
    finished: float = 0.0

    def bytes_per_second(self, now: float) -> float:
        """Mean rate from its start to ``now`` (unix seconds), or to its end."""
        spent = (self.finished or now) - self.started
        return self.bytes_done / spent if self.started and spent > 0 else 0.0

    def seconds_left(self, now: float) -> float | None:
        """An estimate from what is done, by bytes or else by keys; None while nothing tells."""
        if self.finished or not self.started:
            return 0.0 if self.finished else None
        for done, total in ((self.bytes_done, self.bytes_total), (self.keys_done, self.keys_total)):
            if done and total:
                return max(0.0, (now - self.started) * (total - done) / done)
        return None


@dataclass(slots=True)
class LinkStatus:
    """One link's figures. Counters only grow within a process; ``state`` moves as design section 10 says."""

    task: str
    shard: str
    source_dc: str
    target_dc: str
    state: State = "connecting"
    detail: str = ""  # one line for people: what it waits for, or why it stands still
    replid: str | None = None
    source_offset: int = 0  # newest offset received from the source
    journaled_offset: int = 0  # newest offset on disk
    applied_offset: int = 0  # newest offset committed at the target
    source_connected: bool = False
    target_connected: bool = False
    received_ms: int = 0  # when the byte at ``source_offset`` arrived, unix ms
    applied_received_ms: int = 0  # when the byte at ``applied_offset`` had arrived, unix ms
    last_applied: float = 0.0  # when anything was last applied
    last_heard: float = 0.0  # when anything (a PING too) was last received from the source
    commands_received: int = 0
    commands_applied: int = 0
    commands_filtered: dict[str, int] = field(default_factory=dict)  # reason -> count
    commands_failed: int = 0
    commands_left_out: int = 0  # applied, but not sent: others of their batch undo them (``compact``)
    bytes_applied: int = 0
    loops_dropped: int = 0  # commands of tagged transactions that were dropped by origin
    batches: int = 0
    full_resyncs: int = 0
    full_resync_reasons: dict[str, int] = field(default_factory=dict)
    partial_resyncs: int = 0
    source_reconnects: int = 0
    target_reconnects: int = 0
    errors: int = 0
    last_error: str | None = None
    dead_letters: int = 0  # written by this process
    dead_letters_waiting: int = 0  # in the file and not dealt with
    epoch: int = 0
    fenced: bool = False  # ended because a newer owner writes to the target
    paused: bool = False  # replay stands still because somebody asked for it; capture goes on
    writer: str = ""
    journal_bytes: int = 0
    journal_start: int = 0
    journal_full: str | None = None  # why capture has left the source; None while there is room
    fsync_seconds: float = 0.0
    fsyncs: int = 0
    latency_buckets: list[int] = field(default_factory=lambda: [0] * 16)  # see LATENCY_BOUNDS
    latency_sum: float = 0.0
    journal_room_bytes: int | None = None  # what the journal may still take; None while unknown
    source_rate: float = 0.0  # bytes/s of the source's stream, smoothed over about a minute
    backlog_bytes: int = 0  # repl-backlog-size of the source; 0 while unknown
    backlog_missed_bytes: int = 0  # written by the source and not received, as counted at ``backlog_at``
    backlog_at: float = 0.0
    throttle_commands_per_second: float = 0.0  # in force now, backing off included; 0: no limit
    throttle_bytes_per_second: float = 0.0
    throttled_seconds: float = 0.0  # time in which replay waited for its throttle
    ttl_holds: int = 0  # deadlines held off because the link was late; see sync.ttl
    refetch_keys: int = 0  # keys that wait to be fetched from the source
    refetched_keys: int = 0  # keys fetched
    reunion: str = ""  # two ways, after a resync: what is being done to make both sides equal again
    reunion_keys: int = 0  # keys brought together by it
    dirty: str = ""  # two ways, with a journal that is, or was, full: how far it is known which keys were written
    dirty_keys: int = 0  # and how many those are
    rolled_back: str = ""  # two ways: which side lost what it had, and what tells so, until both are equal again
    verify_keys: int = 0  # looked at by the sampler; see sync.verify.sampler
    verify_differences: dict[str, int] = field(default_factory=dict)  # kind -> keys found to differ
    verify_differing: int = 0  # keys known to differ now
    verify_unsettled: int = 0  # keys that changed too often to be compared
    verify_examples: list[str] = field(default_factory=list)
    verify_at: float = 0.0  # when keys were last compared
    verify_error: str = ""  # why none are
    heartbeat_lag: float | None = None  # seconds from a write at the source to its commit at the target
    heartbeat_waiting: float = 0.0  # seconds since the oldest heartbeat was sent that is not through
    heartbeat_at: float = 0.0  # when one was last through
    heartbeat_error: str = ""
    home: str = ""  # two-way: the policy that gives each key its home
    homes_fingerprint: str = ""
    conflicts: int = 0  # concurrent writes that were found
    conflicts_waiting: int = 0  # keys that not every datacenter has settled
    conflicts_marked: int = 0  # of the conflicts: told by the target's replies
    echoes: int = 0  # keys echoed at source or target
    echo_bytes: int = 0
    echoes_waiting: int = 0
    echoes_big: int = 0  # left alone because of their size
    echoes_failed: int = 0
    echoes_suspended: str = ""  # why; empty while they go on
    expiry_keys: int = 0  # two ways: keys whose deadline is followed
    expiry_fields: int = 0  # and hash fields
    expiry_untracked: int = 0  # deadlines that are not, for lack of room: their keys are deleted without condition
    expiry_deletes: int = 0  # deletes of expired keys that went with a condition
    expiry_refused: int = 0  # and those that the target refused, since its copy lives on
    window_keys: int = 0  # writes not yet seen by every datacenter, as far as they were looked into
    causal_waits: int = 0  # batches that waited for another datacenter's writes
    causal_breaks: int = 0  # and those that went before them in the end
    slots: str = ""  # of a shard of a source cluster: those that it answers for at the target, as ranges
    slots_moved: int = 0  # handed over, either way
    slots_waiting: int = 0  # being handed over
    transactions_split: int = 0  # cluster targets: source transactions over several slots, applied slot by slot
    cross_slot: int = 0  # cluster targets: commands over several slots whose keys were fetched in their place
    target_slots_moved: int = 0  # cluster targets: times that a slot was met moving
    snapshot: SnapshotProgress = field(default_factory=SnapshotProgress)
    started: float = field(default_factory=time.time)

    def failed(self, error: BaseException | str) -> None:
        """Count an error and keep its text as ``last_error``."""
        self.errors += 1
        self.last_error = str(error)

    def filtered(self, reason: str, count: int = 1) -> None:
        """Count commands that were not replayed, with the reason (a closed set of short words)."""
        self.commands_filtered[reason] = self.commands_filtered.get(reason, 0) + count

    def waits_for_others(self) -> None:
        """A batch begins to wait for another datacenter's writes."""
        self.causal_waits += 1

    def observe_latency(self, seconds: float) -> None:
        """Receive → commit time of one batch."""
        self.latency_sum += seconds
        for index, bound in enumerate(LATENCY_BOUNDS):
            if seconds <= bound:
                self.latency_buckets[index] += 1
                return
        self.latency_buckets[-1] += 1

    @property
    def lag_bytes(self) -> int:
        """Bytes received and not yet applied."""
        return max(0, self.source_offset - self.applied_offset)

    @property
    def lag_seconds(self) -> float | None:
        """Age of the oldest byte not yet applied; 0.0 when all is applied; None while the source cannot be reached."""
        if not self.source_connected:
            return None
        if self.lag_bytes == 0:
            return 0.0
        return max(0.0, time.time() - self.applied_received_ms / 1000) if self.applied_received_ms else None

    @property
    def applied_age_seconds(self) -> float | None:
        """Time since anything was applied; None before the first. Grows on an idle link too: read it beside the lag."""
        return max(0.0, time.time() - self.last_applied) if self.last_applied else None

    @property
    def journal_room_seconds(self) -> float | None:
        """How long the journal could take the source's present writes if none of it were released from now on; None
        while nothing is written or the room is not known.
        """
        if self.journal_room_bytes is None or self.source_rate < 1.0:
            return None
        return self.journal_room_bytes / self.source_rate

    @property
    def backlog_left_seconds(self) -> float | None:
        """How long the source will still hold what is not received: while connected, how long an outage may last; then
        what is left of that, estimated from the last known rate. 0 when it is lost. None while not known.
        """
        if not self.backlog_bytes or self.source_rate < 1.0:
            return None
        missed = 0.0
        if not self.source_connected:
            missed = self.backlog_missed_bytes + self.source_rate * max(0.0, time.time() - self.backlog_at)
        return max(0.0, (self.backlog_bytes - missed) / self.source_rate)

    @property
    def heartbeat_lag_seconds(self) -> float | None:
        """The lag from end to end: of the newest heartbeat that is through, or more when one waits for longer; None
        without heartbeats.
        """
        if self.heartbeat_lag is None:
            return None
        return max(self.heartbeat_lag, self.heartbeat_waiting)

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``/status``."""
        from dataclasses import asdict

        out = asdict(self)
        out["lag_bytes"] = self.lag_bytes
        out["lag_seconds"] = self.lag_seconds
        now = time.time()
        out["snapshot"]["bytes_per_second"] = self.snapshot.bytes_per_second(now)
        out["snapshot"]["seconds_left"] = self.snapshot.seconds_left(now)
        for name in ("applied_age_seconds", "heartbeat_lag_seconds", "journal_room_seconds", "backlog_left_seconds"):
            out[name] = getattr(self, name)
        out.pop("latency_buckets")
        out.pop("latency_sum")
        return out


LATENCY_BOUNDS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds of ``latency_buckets``; the last bucket is everything above."""
