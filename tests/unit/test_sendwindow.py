"""What is on its way to a guarded target: enough for line and target, within bounds of memory and of waiting."""

from __future__ import annotations

from collections import deque

import pytest

from sync.sendwindow import LEAST, MOST, SendWindow

MB = 1_000_000
BATCH = 100_000


def behind(window: SendWindow, rtt_s: float, bytes_per_second: float, seconds: float, start: float = 0.0) -> float:
    """A link that always has more to send: bytes a second in the last half of the time."""
    now, free_at, flying = start, start, 0
    ends: deque[tuple[float, float]] = deque()  # (reply comes, sent)
    done, half = 0, start + seconds / 2
    while now < start + seconds:
        while window.admits(flying):
            free_at = max(free_at, now + rtt_s / 2) + BATCH / bytes_per_second
            ends.append((free_at + rtt_s / 2, now))
            flying += BATCH
        now, sent = ends.popleft()
        flying -= BATCH
        done += BATCH if now > half else 0
        window.committed(now - sent, now)
    return done / (seconds / 2)


@pytest.mark.slow
def test_a_long_line_is_filled() -> None:
    for rtt_s, rate in ((0.05, 30 * MB), (0.05, 200 * MB), (0.2, 30 * MB), (0.2, 90 * MB)):
        assert behind(SendWindow(rtt_s), rtt_s, rate, 60) > 0.9 * rate


def test_no_more_waits_at_a_slow_target_than_it_does_soon() -> None:
    for rtt_s in (0.003, 0.05):
        window = SendWindow(rtt_s)
        assert behind(window, rtt_s, 6 * MB, 30) > 0.9 * 6 * MB
        assert window.size <= (rtt_s + 0.2) * 6 * MB + BATCH + LEAST


def test_memory_is_bounded_and_something_is_always_let_through() -> None:
    window = SendWindow(2.0)
    behind(window, 2.0, 1000 * MB, 60)
    assert window.size == MOST
    window = SendWindow(0.01)
    behind(window, 0.01, MB // 4, 120)
    assert LEAST <= window.size < 2 * LEAST


def test_a_line_that_becomes_longer_is_filled_again() -> None:
    window = SendWindow(0.005)
    behind(window, 0.005, 60 * MB, 30)
    assert behind(window, 0.2, 60 * MB, 60, start=1000.0) > 0.9 * 60 * MB


def test_a_link_that_keeps_up_leaves_it_as_it_is() -> None:
    window = SendWindow(0.05)
    before = window.size
    for number in range(1000):
        assert window.admits(BATCH)
        window.committed(0.05, number * 0.06)
    assert window.size == before
