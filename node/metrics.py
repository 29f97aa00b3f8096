"""Prometheus metrics over the live status objects: nothing is counted twice, nothing is kept here.

All names begin with ``rediscanal_`` and use base units. Every sample has the labels ``task``, ``shard``, ``source_dc``
and ``target_dc``; further labels come from closed sets, never from keys or values. What is unknown (the lag while the
source cannot be reached) has no sample.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
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

from sync.status import LATENCY_BOUNDS, LinkStatus, State

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
    ("last_heard_timestamp_seconds", "When anything last came from the source.", lambda s: s.last_heard or None),
    ("start_timestamp_seconds", "When this link started in this process.", lambda s: s.started),
    ("lease_epoch", "Fencing epoch of this link's writer.", lambda s: s.epoch),
    ("journal_size_bytes", "Bytes that the journal holds.", lambda s: s.journal_bytes),
    ("journal_start_offset_bytes", "Oldest stream position that the journal holds.", lambda s: s.journal_start),
    (
        "journal_full",
        "1 while capture has left the source because the journal has no room.",
        lambda s: s.journal_full is not None,
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
    ("loops_dropped", "Commands of tagged transactions dropped by their origin.", lambda s: s.loops_dropped),
    ("batches", "Target transactions committed.", lambda s: s.batches),
    ("partial_resyncs", "Reconnections that the source continued.", lambda s: s.partial_resyncs),
    ("errors", "Errors met, transient ones included.", lambda s: s.errors),
    ("dead_letters", "Commands written to the dead-letter file.", lambda s: s.dead_letters),
)

# name, help, further label, (label value, value) pairs
LABELLED_COUNTERS: Final[tuple[tuple[str, str, str, Values], ...]] = (
    ("commands_filtered", "Commands not replayed, by reason.", "reason", lambda s: s.commands_filtered.items()),
    ("full_resyncs", "Snapshots that the source sent, by reason.", "reason", _reasons),
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


class LinkCollector(Collector):
    """Reads every status anew at each scrape. ``statuses`` is called in the thread that collects."""

    def __init__(self, statuses: Callable[[], Iterable[LinkStatus]], version: str = "", framing: str = "") -> None:
        self._statuses = statuses
        self._build = (version, platform.python_version(), framing)

    def collect(self) -> Iterator[Metric]:
        links = [(_labels(status), status) for status in self._statuses()]
        yield self._build_info()
        yield from _plain(links, GAUGES, GaugeMetricFamily)
        yield from _plain(links, COUNTERS, CounterMetricFamily)
        yield from _labelled(links, LABELLED_GAUGES, GaugeMetricFamily)
        yield from _labelled(links, LABELLED_COUNTERS, CounterMetricFamily)
        yield _fsync(links)
        yield _latency(links)

    def render(self) -> bytes:
        """The body of ``/metrics`` in Prometheus's text format 0.0.4 (``CONTENT_TYPE``)."""
        return generate_latest(self)

    def _build_info(self) -> Metric:
        family = GaugeMetricFamily(
            "rediscanal_build_info", "Always 1; what is running.", labels=("version", "python", "framing")
        )
        family.add_metric(self._build, 1)
        return family


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
