"""Delays grow to a limit, are spread, and start over."""

from __future__ import annotations

import pytest

from canal.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(0.1, 1.0, rng=lambda: 1.0)
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff.failures == 6


def test_reset_starts_over() -> None:
    backoff = Backoff(0.1, 1.0, rng=lambda: 1.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert (backoff.failures, backoff.next()) == (0, 0.1)


def test_delays_are_spread_over_their_upper_half() -> None:
    assert Backoff(1.0, 1.0, rng=lambda: 0.0).next() == 0.5
    backoff = Backoff(1.0, 1.0)
    delays = [backoff.next() for _ in range(200)]
    assert all(0.5 <= delay <= 1.0 for delay in delays)
    assert max(delays) - min(delays) > 0.2


@pytest.mark.parametrize("options", [(0.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 0.5)])
def test_senseless_options_are_refused(options: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < first <= limit"):
        Backoff(*options)
