"""The metrics: names, labels, values, and promtool's opinion where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from node.metrics import LABELS, STATES, LinkCollector
from sync.status import LATENCY_BOUNDS, LinkStatus

OWN = {"task": "sh-bj", "shard": "0", "source_dc": "sh", "target_dc": "bj"}


@pytest.fixture
def status() -> LinkStatus:
    out = LinkStatus("sh-bj", "0", "sh", "bj", state="streaming", source_connected=True)
    out.source_offset, out.journaled_offset, out.applied_offset = 5000, 4900, 4000
    out.commands_received, out.commands_applied = 70, 60
    out.commands_filtered = {"ping": 3, "script": 4}
    out.full_resyncs, out.full_resync_reasons = 3, {"first": 1}
    out.source_reconnects, out.target_reconnects = 2, 5
    out.fsyncs, out.fsync_seconds = 7, 0.25
    return out


def families(*statuses: LinkStatus) -> dict[str, Metric]:
    """What a Prometheus server would read."""
    text = LinkCollector(lambda: statuses, "1.2.3", "plain").render().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], name: str, sample: str = "", **labels: str) -> float | None:
    for one in found[f"rediscanal_{name}"].samples:
        if one.name == f"rediscanal_{sample or name}" and one.labels == OWN | labels:
            return one.value
    return None


def test_offsets_and_counters(status: LinkStatus) -> None:
    found = families(status)
    assert value(found, "source_offset_bytes") == 5000
    assert value(found, "journaled_offset_bytes") == 4900
    assert value(found, "applied_offset_bytes") == 4000
    assert value(found, "replication_lag_bytes") == 1000
    assert value(found, "commands_applied", "commands_applied_total") == 60
    assert value(found, "journal_fsync_seconds", "journal_fsync_seconds_sum") == 0.25
    assert value(found, "journal_fsync_seconds", "journal_fsync_seconds_count") == 7


def test_state_is_one_hot(status: LinkStatus) -> None:
    found = families(status)
    assert {name: value(found, "state", state=name) for name in STATES} == {
        "connecting": 0, "snapshot": 0, "streaming": 1, "failed": 0, "stopped": 0,
    }  # fmt: skip


def test_labelled_counters(status: LinkStatus) -> None:
    found = families(status)
    filtered = "commands_filtered_total"
    assert value(found, "commands_filtered", filtered, reason="ping") == 3
    assert value(found, "commands_filtered", filtered, reason="script") == 4
    assert value(found, "full_resyncs", "full_resyncs_total", reason="first") == 1
    assert value(found, "full_resyncs", "full_resyncs_total", reason="unknown") == 2
    assert value(found, "reconnects", "reconnects_total", side="source") == 2
    assert value(found, "reconnects", "reconnects_total", side="target") == 5


def test_a_counter_exists_before_anything_happened() -> None:
    """rate() needs a first sample of 0, or the first full resync goes unseen."""
    found = families(LinkStatus("sh-bj", "0", "sh", "bj"))
    assert value(found, "full_resyncs", "full_resyncs_total", reason="unknown") == 0


def test_unknown_lag_has_no_sample(status: LinkStatus) -> None:
    status.source_connected = False
    assert value(families(status), "replication_lag_seconds") is None
    status.source_connected, status.applied_offset = True, status.source_offset
    assert value(families(status), "replication_lag_seconds") == 0


def test_what_is_not_known_yet_has_no_sample() -> None:
    found = families(LinkStatus("sh-bj", "0", "sh", "bj"))
    for name in ("last_applied_timestamp_seconds", "snapshot_size_bytes", "snapshot_finish_timestamp_seconds"):
        assert value(found, name) is None


def test_latency_histogram_is_cumulative(status: LinkStatus) -> None:
    for seconds in (0.00005, 0.0003, 0.0004, 0.2, 100.0):
        status.observe_latency(seconds)
    found = families(status)
    buckets = {
        one.labels["le"]: one.value
        for one in found["rediscanal_apply_latency_seconds"].samples
        if one.name.endswith("_bucket")
    }
    assert len(buckets) == len(LATENCY_BOUNDS) + 1
    assert (buckets["0.0001"], buckets["0.0002"], buckets["0.0005"], buckets["0.25"]) == (1, 1, 3, 4)
    assert (buckets["30.0"], buckets["+Inf"]) == (4, 5)
    assert value(found, "apply_latency_seconds", "apply_latency_seconds_count") == 5
    total = value(found, "apply_latency_seconds", "apply_latency_seconds_sum")
    assert total == pytest.approx(100.20075)


def test_journal_full_is_a_flag(status: LinkStatus) -> None:
    assert value(families(status), "journal_full") == 0
    status.journal_full = "no space left"
    assert value(families(status), "journal_full") == 1


def test_many_links_share_families(status: LinkStatus) -> None:
    other = LinkStatus("bj-sh", "0", "bj", "sh")
    found = families(status, other)
    assert {one.labels["task"] for one in found["rediscanal_source_offset_bytes"].samples} == {"sh-bj", "bj-sh"}


def test_every_sample_has_the_labels_and_a_closed_name(status: LinkStatus) -> None:
    status.last_error = "key user:1 has the wrong type"
    text = LinkCollector(lambda: (status,)).render().decode()
    assert "user:1" not in text
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"rediscanal_[a-z_]+", family.name)
        assert family.documentation.endswith((".", "running."))
        for sample in family.samples:
            assert family.name == "rediscanal_build_info" or set(LABELS) <= set(sample.labels)


def test_odd_label_values_are_escaped() -> None:
    found = families(LinkStatus('a"b\\c\nd', "0", "sh", "bj"))
    (sample,) = found["rediscanal_lease_epoch"].samples
    assert sample.labels["task"] == 'a"b\\c\nd'


def test_build_info() -> None:
    (sample,) = families()["rediscanal_build_info"].samples
    assert (sample.value, sample.labels["version"], sample.labels["framing"]) == (1, "1.2.3", "plain")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_metrics(status: LinkStatus) -> None:
    text = LinkCollector(lambda: (status,)).render()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
