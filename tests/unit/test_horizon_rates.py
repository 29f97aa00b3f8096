"""How long journal and backlog will last: rates, and the figures made of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sync.horizon import Rate, room
from sync.status import LinkStatus


def test_a_rate_is_right_from_the_first_interval_and_follows() -> None:
    rate = Rate(60.0)
    assert rate.at(0.0, 1000) == 0.0
    assert rate.at(1.0, 3000) == 2000.0
    for second in range(2, 300):
        rate.at(float(second), 3000 + 500 * (second - 1))
    assert rate.value == pytest.approx(500, rel=0.05)


def test_a_stream_that_begins_anew_leaves_the_rate() -> None:
    rate = Rate()
    rate.at(0.0, 0)
    rate.at(1.0, 700)
    assert rate.at(2.0, 5) == 700
    rate.forget_offset()
    assert rate.at(3.0, 10**9) == 700


def test_room_is_what_bound_or_disk_leave(tmp_path: Path) -> None:
    free = room(tmp_path, 0, 10)
    assert free is not None and free > 1 << 20
    assert room(tmp_path, 1000, 400) == 600
    assert room(tmp_path, 1000, 5000) == 0
    assert room(tmp_path / "missing", 0, 0) is None


@pytest.fixture
def status() -> LinkStatus:
    return LinkStatus("t", "0", "a", "b", source_connected=True, source_rate=1000.0, backlog_bytes=60_000)


def test_while_connected_the_whole_backlog_is_left(status: LinkStatus) -> None:
    assert status.backlog_left_seconds == 60.0


def test_while_disconnected_it_shrinks_by_the_clock_and_ends_at_zero(status: LinkStatus) -> None:
    status.source_connected = False
    status.backlog_missed_bytes, status.backlog_at = 10_000, time.time() - 20
    left = status.backlog_left_seconds
    assert left == pytest.approx(30.0, abs=1.0)
    status.backlog_at -= 3600
    assert status.backlog_left_seconds == 0.0


def test_what_is_not_known_is_none_not_zero(status: LinkStatus) -> None:
    status.backlog_bytes = 0
    assert status.backlog_left_seconds is None and status.journal_room_seconds is None
    status.journal_room_bytes = 5000
    assert status.journal_room_seconds == 5.0
    status.source_rate = 0.0
    assert status.journal_room_seconds is None
    assert status.applied_age_seconds is None
