"""The throttle by itself: what it lets through in a time, and how it follows the target's latency."""

from __future__ import annotations

import asyncio
import time

import pytest

from canal.errors import ConfigError
from sync.status import LinkStatus
from sync.throttle import Bucket, Throttle, ThrottleOptions


@pytest.fixture
def status() -> LinkStatus:
    return LinkStatus("t", "0", "a", "b")


def test_a_bucket_lets_its_rate_through_however_large_the_pieces() -> None:
    for piece in (1, 7, 250):
        bucket, now, sent = Bucket(), 100.0, 0
        bucket.set(1000.0, now)
        while now < 110.0:
            wait = bucket.wait_s(now)
            if wait:
                now += wait
                continue
            bucket.spend(piece)
            sent += piece
        assert sent == pytest.approx(10_000, abs=101 + piece), piece


def test_a_bucket_without_a_rate_never_waits() -> None:
    bucket = Bucket()
    bucket.spend(10**9)
    assert bucket.wait_s(1.0) == 0.0


def test_it_is_off_until_a_limit_is_given(status: LinkStatus) -> None:
    throttle = Throttle(status)
    assert not throttle.on
    throttle.set(ThrottleOptions(bytes_per_second=5000))
    assert throttle.on and status.throttle_bytes_per_second == 5000
    throttle.set(ThrottleOptions())
    assert throttle.bounds(1000, 4096) == (1000, 4096) and status.throttle_bytes_per_second == 0


def test_transactions_are_a_tenth_of_a_second_at_most(status: LinkStatus) -> None:
    throttle = Throttle(status, ThrottleOptions(commands_per_second=500, bytes_per_second=20_000))
    assert throttle.bounds(1000, 262_144) == (50, 2000)
    assert Throttle(status, ThrottleOptions(commands_per_second=3)).bounds(1000, 9) == (1, 9)


async def test_who_waits_is_woken_once_and_the_time_is_counted(status: LinkStatus) -> None:
    throttle, woken = Throttle(status, ThrottleOptions(commands_per_second=1000)), asyncio.Event()
    throttle.spend(150, 0)  # 50 overdrawn: 50 ms
    started = time.monotonic()
    while throttle.holds(woken.set):
        woken.clear()
        await woken.wait()
    assert 0.04 < status.throttled_seconds <= time.monotonic() - started + 0.01


def test_a_slow_target_halves_the_rate_and_a_quick_one_gets_it_back(
    status: LinkStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("sync.throttle.time.monotonic", lambda: now)
    throttle = Throttle(status, ThrottleOptions(latency_ms=20))

    def second(commands: int, latency_s: float) -> float:
        nonlocal now
        throttle.spend(commands, 0)
        now += 1.0
        throttle.committed(latency_s)
        return status.throttle_commands_per_second

    assert second(8000, 0.005) == 0.0
    assert second(8000, 0.050) == 4000.0
    assert second(4000, 0.030) == 2000.0
    assert second(2000, 0.010) == 2100.0
    for _ in range(40):
        second(100, 0.001)
    assert status.throttle_commands_per_second == 0.0, "the source writes less than half of it: no limit is needed"
    for _ in range(30):
        second(10, 1.0)
    assert status.throttle_commands_per_second == 100.0, "it never comes to a standstill"


@pytest.mark.parametrize("values", [{"latency_ms": -1}, {"latency_ms": "20"}, {"latency_ms": True}, {"rate": 1}])
def test_what_is_no_limit_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="throttle"):
        ThrottleOptions.of(values)
