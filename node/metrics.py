"""Prometheus metrics over the live status objects: nothing is counted twice, nothing is kept here.

All names begin with ``rediscanal_`` and use base units. Every sample has the labels ``task``, ``shard``, ``source_dc``
and ``target_dc``; further labels come from closed sets, never from keys or values. What is unknown (the lag while the
source cannot be reached) has no sample.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from canal.framing import compiled
from sync.status import LATENCY_BOUNDS, LinkStatus, State
from sync.verify.report import KINDS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABELS: Final = ("task", "shard", "source_dc", "target_dc")
STATES: Final[tuple[str, ...]] = get_args(State)

Value = Callable[[LinkStatus], float | None]
Values = Callable[[LinkStatus], Iterable[tuple[str, float]]]


def _sizes(status: LinkStatus) -> float | None:
    return status.snapshot.bytes_total or None


def _lag_unknown(status: LinkStatus) -> float | None:
    return status.lag_seconds


def _reasons(status: LinkStatus) -> list[tuple[str, float]]:
    """Full resyncs by reason; those counted without one are ``unknown``."""
    out: list[tuple[str, float]] = list(status.full_resync_reasons.items())
    rest = status.full_resyncs - sum(status.full_resync_reasons.values())
    return [*out, ("unknown", rest)] if rest > 0 or not out else out


# name, help, value; a value of None gives no sample
GAUGES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("source_connected", "1 while the link is connected to its source.", lambda s: s.source_connected),
    ("target_connected", "1 while the link is connected to its target.", lambda s: s.target_connected),
    ("source_offset_bytes", "Newest stream position received from the source.", lambda s: s.source_offset),
    ("journaled_offset_bytes", "Newest stream position on disk.", lambda s: s.journaled_offset),
    ("applied_offset_bytes", "Newest stream position committed at the target.", lambda s: s.applied_offset),
    (
        "replication_lag_seconds",
        "Age of the oldest byte not yet applied; absent while the source cannot be reached.",
        _lag_unknown,
    ),
    ("replication_lag_bytes", "Bytes received and not yet applied.", lambda s: s.lag_bytes),
    ("last_applied_timestamp_seconds", "When anything was last applied.", lambda s: s.last_applied or None),
    ("applied_age_seconds", "Time since anything was applied; grows while idle.", lambda s: s.applied_age_seconds),
    ("last_heard_timestamp_seconds", "When anything last came from the source.", lambda s: s.last_heard or None),
    ("start_timestamp_seconds", "When this link started in this process.", lambda s: s.started),
    ("paused", "1 while replay stands still because somebody asked for it.", lambda s: s.paused),
    ("fenced", "1 after the link ended because a newer owner writes to its target.", lambda s: s.fenced),
    ("lease_epoch", "Fencing epoch of this link's writer.", lambda s: s.epoch),
    ("journal_size_bytes", "Bytes that the journal holds.", lambda s: s.journal_bytes),
    ("journal_start_offset_bytes", "Oldest stream position that the journal holds.", lambda s: s.journal_start),
    (
        "journal_full",
        "1 while capture has left the source because the journal has no room.",
        lambda s: s.journal_full is not None,
    ),
    (
        "journal_room_bytes",
        "What the journal may still take, by its bound and its disk; absent while unknown.",
        lambda s: s.journal_room_bytes,
    ),
    (
        "journal_room_seconds",
        "How long that lasts at the present write rate if replay stood still; absent while nothing is written.",
        lambda s: s.journal_room_seconds,
    ),
    ("source_rate_bytes_per_second", "Write rate of the source's stream, over a minute.", lambda s: s.source_rate),
    ("source_backlog_bytes", "The source's backlog size; absent while unknown.", lambda s: s.backlog_bytes or None),
    (
        "source_backlog_left_seconds",
        "How long the source still holds what is not received; 0: lost. Absent while unknown.",
        lambda s: s.backlog_left_seconds,
    ),
    ("dead_letters_waiting", "Dead letters that nobody has dealt with.", lambda s: s.dead_letters_waiting),
    ("verify_differing_keys", "Keys that the sampler knows to differ now.", lambda s: s.verify_differing),
    (
        "verify_last_timestamp_seconds",
        "When the sampler last compared keys; absent while it does not.",
        lambda s: s.verify_at or None,
    ),
    (
        "heartbeat_lag_seconds",
        "From a write at the source to its commit at the target; absent without heartbeats.",
        lambda s: s.heartbeat_lag_seconds,
    ),
    ("refetch_waiting_keys", "Keys that wait to be fetched from the source.", lambda s: s.refetch_keys),
    ("conflicts_waiting_keys", "Keys that not every datacenter has settled.", lambda s: s.conflicts_waiting),
    ("expiry_tracked_keys", "Keys whose deadline is followed, two ways.", lambda s: s.expiry_keys),
    ("expiry_tracked_fields", "Hash fields whose deadline is followed, two ways.", lambda s: s.expiry_fields),
    ("window_keys", "Writes not yet seen by every datacenter, as far as looked into.", lambda s: s.window_keys),
    ("echoes_suspended", "1 while datacenters disagree on the homes of keys.", lambda s: int(bool(s.echoes_suspended))),
    (
        "throttle_commands_per_second",
        "Replay limit in force, backing off included; absent while there is none.",
        lambda s: s.throttle_commands_per_second or None,
    ),
    (
        "throttle_bytes_per_second",
        "Replay limit in force, backing off included; absent while there is none.",
        lambda s: s.throttle_bytes_per_second or None,
    ),
    ("snapshot_received_bytes", "Bytes of the newest snapshot received.", lambda s: s.snapshot.bytes_received),
    ("snapshot_applied_bytes", "Bytes of the newest snapshot applied.", lambda s: s.snapshot.bytes_done),
    ("snapshot_size_bytes", "Length of the newest snapshot; absent while unknown (diskless).", _sizes),
    ("snapshot_applied_keys", "Keys of the newest snapshot applied.", lambda s: s.snapshot.keys_done),
    (
        "snapshot_expected_keys",
        "Keys that the newest snapshot announced; absent while unknown.",
        lambda s: s.snapshot.keys_total or None,
    ),
    (
        "snapshot_start_timestamp_seconds",
        "When the newest snapshot began.",
        lambda s: s.snapshot.started or None,
    ),
    (
        "snapshot_finish_timestamp_seconds",
        "When the newest snapshot was applied whole.",
        lambda s: s.snapshot.finished or None,
    ),
)

COUNTERS: Final[tuple[tuple[str, str, Value], ...]] = (
    ("commands_received", "Commands received from the source.", lambda s: s.commands_received),
    ("commands_applied", "Commands committed at the target.", lambda s: s.commands_applied),
    ("commands_failed", "Commands that the target refused.", lambda s: s.commands_failed),
    ("applied_bytes", "Stream bytes committed at the target.", lambda s: s.bytes_applied),
    ("commands_left_out", "Commands not sent because others of their batch undo them.", lambda s: s.commands_left_out),
    ("loops_dropped", "Commands of tagged transactions dropped by their origin.", lambda s: s.loops_dropped),
    ("batches", "Target transactions committed.", lambda s: s.batches),
    ("partial_resyncs", "Reconnections that the source continued.", lambda s: s.partial_resyncs),
    ("errors", "Errors met, transient ones included.", lambda s: s.errors),
    ("dead_letters", "Commands written to the dead-letter file.", lambda s: s.dead_letters),
    ("throttled_seconds", "Time in which replay waited for its throttle.", lambda s: s.throttled_seconds),
    ("ttl_holds", "Deadlines held off because the link was late.", lambda s: s.ttl_holds),
    ("refetched_keys", "Keys fetched from the source.", lambda s: s.refetched_keys),
    ("conflicts", "Concurrent writes of one key that were found.", lambda s: s.conflicts),
    ("conflicts_by_reply", "Commands that met another state at the target.", lambda s: s.conflicts_marked),
    ("echoes", "Keys that were echoed by their home.", lambda s: s.echoes),
    ("echo_bytes", "Bytes of values that were echoed.", lambda s: s.echo_bytes),
    ("echoes_left_out", "Keys too big to be echoed.", lambda s: s.echoes_big),
    ("echoes_failed", "Keys whose echo failed.", lambda s: s.echoes_failed),
    ("expiry_deletes", "Deletes of expired keys sent with a condition.", lambda s: s.expiry_deletes),
    ("expiry_deletes_refused", "Those whose key lives on at the target.", lambda s: s.expiry_refused),
    ("expiry_untracked", "Deadlines not followed, for lack of room.", lambda s: s.expiry_untracked),
    ("causal_waits", "Batches that waited for another datacenter's writes.", lambda s: s.causal_waits),
    ("causal_breaks", "Batches that went before another datacenter's writes.", lambda s: s.causal_breaks),
    ("verify_keys", "Keys that the sampler compared.", lambda s: s.verify_keys),
    ("verify_unsettled_keys", "Keys that changed too often to be compared.", lambda s: s.verify_unsettled),
)

# name, help, further label, (label value, value) pairs
LABELLED_COUNTERS: Final[tuple[tuple[str, str, str, Values], ...]] = (
    ("commands_filtered", "Commands not replayed, by reason.", "reason", lambda s: s.commands_filtered.items()),
    ("full_resyncs", "Snapshots that the source sent, by reason.", "reason", _reasons),
    (
        "verify_differences",
        "Keys that the sampler found to differ, by what differs.",
        "kind",
        lambda s: ((kind, s.verify_differences.get(kind, 0)) for kind in KINDS if kind != "function"),
    ),
    (
        "reconnects",
        "Connections made again after a loss, by side.",
        "side",
        lambda s: (("source", s.source_reconnects), ("target", s.target_reconnects)),
    ),
)

LABELLED_GAUGES: Final[tuple[tuple[str, str, str, Values], ...]] = (
    ("state", "1 for the state that the link is in.", "state", lambda s: ((name, s.state == name) for name in STATES)),
    (
        "snapshot_keys",
        "Keys of the newest snapshot, by what was done with them.",
        "method",
        lambda s: (
            ("restored", s.snapshot.keys_restored),
            ("restamped", s.snapshot.keys_restamped),
            ("decoded", s.snapshot.keys_decoded),
            ("kept", s.snapshot.keys_kept),
            ("stale_deleted", s.snapshot.stale_deleted),
            ("stale_kept", s.snapshot.stale_kept),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """What a node tells of itself beside its links. ``unassigned``: wanted shards of the datacenter without a node."""

    node: str
    datacenter: str
    coordinated: bool
    shards: int
    failed: int
    max_shards: int
    unassigned: int


# name, help, value
NODE_GAUGES: Final[tuple[tuple[str, str, Callable[[NodeFigures], float]], ...]] = (
    ("node_coordinator_connected", "1 while the node reaches its coordinator.", lambda n: n.coordinated),
    ("node_shards", "Shards that the node holds.", lambda n: n.shards),
    ("node_failed_shards", "Shards of the node that stand still for a person.", lambda n: n.failed),
    ("node_max_shards", "Shards that the node takes at most.", lambda n: n.max_shards),
    (
        "node_unassigned_shards",
        "Wanted shards of the datacenter that no node holds, as this node last saw it.",
        lambda n: n.unassigned,
    ),
)


class LinkCollector(Collector):
    """Reads every status anew at each scrape. ``statuses`` is called in the thread that collects."""

    def __init__(
        self,
        statuses: Callable[[], Iterable[LinkStatus]],
        version: str = "",
        framing: str = "",
        node: Callable[[], NodeFigures] | None = None,
    ) -> None:
        self._statuses = statuses
        self._build = (version, platform.python_version(), framing or ("compiled" if compiled() else "plain"))
        self._node = node

    def collect(self) -> Iterator[Metric]:
        links = [(_labels(status), status) for status in self._statuses()]
        yield self._build_info()
        yield from _plain(links, GAUGES, GaugeMetricFamily)
        yield from _plain(links, COUNTERS, CounterMetricFamily)
        yield from _labelled(links, LABELLED_GAUGES, GaugeMetricFamily)
        yield from _labelled(links, LABELLED_COUNTERS, CounterMetricFamily)
        yield _fsync(links)
        yield _latency(links)
        if self._node is not None:
            yield from _node(self._node())

    def render(self) -> bytes:
        """The body of ``/metrics`` in Prometheus's text format 0.0.4 (``CONTENT_TYPE``)."""
        return generate_latest(self)

    def _build_info(self) -> Metric:
        family = GaugeMetricFamily(
            "rediscanal_build_info", "Always 1; what is running.", labels=("version", "python", "framing")
        )
        family.add_metric(self._build, 1)
        return family


def _node(figures: NodeFigures) -> Iterator[Metric]:
    for name, text, value in NODE_GAUGES:
        family = GaugeMetricFamily(f"rediscanal_{name}", text, labels=("node", "datacenter"))
        family.add_metric((figures.node, figures.datacenter), float(value(figures)))
        yield family


Links = list[tuple[tuple[str, ...], LinkStatus]]
Family = type[GaugeMetricFamily] | type[CounterMetricFamily]


def _labels(status: LinkStatus) -> tuple[str, ...]:
    return (status.task, status.shard, status.source_dc, status.target_dc)


def _plain(links: Links, rows: Iterable[tuple[str, str, Value]], kind: Family) -> Iterator[Metric]:
    for name, text, value in rows:
        family = kind(f"rediscanal_{name}", text, labels=LABELS)
        for labels, status in links:
            number = value(status)
            if number is not None:
                family.add_metric(labels, float(number))
        yield family


def _labelled(links: Links, rows: Iterable[tuple[str, str, str, Values]], kind: Family) -> Iterator[Metric]:
    for name, text, label, values in rows:
        family = kind(f"rediscanal_{name}", text, labels=(*LABELS, label))
        for labels, status in links:
            for word, number in values(status):
                family.add_metric((*labels, word), float(number))
        yield family


def _fsync(links: Links) -> Metric:
    family = SummaryMetricFamily(
        "rediscanal_journal_fsync_seconds", "Time spent in fsync of the journal.", labels=LABELS
    )
    for labels, status in links:
        family.add_metric(labels, status.fsyncs, status.fsync_seconds)
    return family


def _latency(links: Links) -> Metric:
    """Buckets are cumulative here, and one by one in the status."""
    family = HistogramMetricFamily(
        "rediscanal_apply_latency_seconds", "Time from receiving a batch to its commit at the target.", labels=LABELS
    )
    for labels, status in links:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, LATENCY_BOUNDS), "+Inf"), status.latency_buckets, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, status.latency_sum)
    return family
