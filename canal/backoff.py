"""When to try again: exponential backoff with jitter, pure (no clock, no sleep)."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays in seconds for consecutive failures: ``first``, doubled each time, at most ``limit``.

    Each delay is spread over its upper half (50–100%), so that many links cut at once do not come back at once.
    """

    def __init__(
        self, first: float = 0.1, limit: float = 5.0, factor: float = 2.0, rng: Callable[[], float] = random.random
    ) -> None:
        if not 0 < first <= limit or factor < 1:
            raise ValueError(f"expected 0 < first <= limit and factor >= 1, got {first}, {limit}, {factor}")
        self._first = first
        self._limit = limit
        self._factor = factor
        self._rng = rng
        self._next = first
        self.failures = 0

    def next(self) -> float:
        """The delay after one more failure."""
        delay = self._next
        self._next = min(self._limit, delay * self._factor)
        self.failures += 1
        return delay * (0.5 + 0.5 * self._rng())

    def reset(self) -> None:
        """It worked: the next failure starts from ``first`` again."""
        self._next = self._first
        self.failures = 0
