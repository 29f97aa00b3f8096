"""Transactions grow with the round trip, within bounds, and only while a link is behind."""

from __future__ import annotations

from sync.pacing import Pacing


def behind(pacing: Pacing, rtt_s: float, us_each: float, commits: int) -> float:
    """A link that is behind: full transactions, each a round trip and its own time. Returns commands a second."""
    now, count, seconds = 100.0, 0, 0.0
    for _ in range(commits):
        size = pacing.commands
        took = rtt_s + size * us_each / 1e6
        now, count, seconds = now + took, size, took
        pacing.committed(size, size * 100, True, now)
    return count / seconds


def test_a_long_line_is_filled_as_far_as_the_target_may_be_held_up() -> None:
    pacing = Pacing(1000, 256 << 10, 0.050)
    assert behind(pacing, 0.050, 1.0, 100) > 150_000
    assert pacing.commands * 1e-6 <= 0.0125


def test_on_a_short_line_a_target_that_is_slow_itself_gets_what_is_configured() -> None:
    pacing = Pacing(1000, 256 << 10, 0.0001)
    behind(pacing, 0.0001, 2.0, 100)
    assert pacing.commands == 1000


def test_a_target_that_becomes_slow_gets_smaller_ones_again_but_not_below_what_is_configured() -> None:
    pacing = Pacing(1000, 256 << 10, 0.010)
    behind(pacing, 0.010, 0.5, 100)
    grown = pacing.commands
    assert grown > 4000
    behind(pacing, 0.010, 20.0, 100)
    assert pacing.commands == 1000


def test_memory_is_bounded_however_fast_the_target_is() -> None:
    pacing = Pacing(1000, 256 << 10, 10.0)
    behind(pacing, 10.0, 0.0, 1000)
    assert pacing.commands == 16_000
    assert pacing.size == 4 << 20


def test_what_is_not_full_or_stands_alone_tells_nothing() -> None:
    pacing = Pacing(1000, 256 << 10, 0.050)
    for number in range(100):
        pacing.committed(10, 1000, True, number * 0.05)
    assert pacing.commands == 1000
    for number in range(100):
        pacing.committed(1000, 1000, False, 100 + number * 0.05)
    assert pacing.commands in (1000, 1250)  # the first of them still stood behind another
