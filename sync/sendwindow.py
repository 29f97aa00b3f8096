"""How many bytes may be on their way to a target by guarded batches: by round trip and the target's speed. No I/O.

Too few, and a long line stands empty while replies are on their way; too many only wait at the target, in its memory
and in ours. So the window grows while it is what holds batches back and they are answered soon, and shrinks while they
wait long at the target. "Soon" is by the shortest time that any reply took lately: the line's own round trip.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LEAST: Final = 1 << 20
MOST: Final = 24 << 20
"""What is on its way is in memory up to twice: as commands and as bytes not sent yet."""
_FIRST: Final = 4 << 20
_QUEUE_S: Final = 0.1
"""So much work may wait at the target: pauses of this program cost it nothing then. Twice as much is too much."""
_PERIOD_S: Final = 0.05
_REMEMBERED_S: Final = 20.0


class SendWindow:
    """One connection's. ``size``: bytes; ``rtt_s``: as measured when it was made."""

    def __init__(self, rtt_s: float) -> None:
        self.size = _FIRST
        self._shortest: deque[tuple[float, float]] = deque()  # (when, shortest time to a reply then), both growing
        self._rtt_s = rtt_s
        self._began = 0.0
        self._period_shortest = 0.0
        self._commits = 0
        self._reached = False

    def admits(self, on_their_way: int) -> bool:
        """May more be sent?"""
        if on_their_way < self.size:
            return True
        self._reached = True
        return False

    def committed(self, latency_s: float, now: float) -> None:
        """A batch is committed, so long after it was sent; ``now`` by the same monotonic clock."""
        if not self._commits:
            self._began, self._period_shortest = now, latency_s
        self._commits += 1
        self._period_shortest = min(self._period_shortest, latency_s)
        if now - self._began < max(_PERIOD_S, self._round_trip) or self._commits < 4:
            return
        self._remember(now)
        waited = self._period_shortest - self._round_trip
        if waited > 2 * _QUEUE_S:
            self.size = max(LEAST, int(self.size * 0.8))
        elif waited < _QUEUE_S and self._reached:
            self.size = min(MOST, int(self.size * 1.5))
        self._commits, self._reached = 0, False

    @property
    def _round_trip(self) -> float:
        return self._shortest[0][1] if self._shortest else self._rtt_s

    def _remember(self, now: float) -> None:
        """The shortest time of the last seconds stands first: longer ones before a shorter one do not matter."""
        shortest = self._shortest
        while shortest and shortest[-1][1] >= self._period_shortest:
            shortest.pop()
        shortest.append((now, self._period_shortest))
        while shortest[0][0] < now - _REMEMBERED_S:
            shortest.popleft()
