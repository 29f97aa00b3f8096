"""How large transactions of a gated writer are: by what round trip and target turn out to be. No I/O.

Gated, one transaction commits per round trip. So while a link is behind they grow until the round trip is a small part
of the time between two commits, or until one holds the target up for as long as it may. (Guarded, any number is on its
way, bounded in bytes, and their size matters little.) An idle link is not concerned: it sends what is ready.
"""

from __future__ import annotations

from typing import Final

_GROWTH: Final = 16
"""Transactions grow to so many times the configured size at most: that bounds their memory."""
_SHARE: Final = 8
"""The round trip should be no more than this part of the time between two commits."""
_HOLDS_UP_S: Final = 0.010
"""How long a transaction may keep others waiting at the target before it is made smaller."""
_FULL: Final = 0.9


class Pacing:
    """One connection's. ``commands`` and ``size`` (bytes) bound a transaction."""

    def __init__(self, commands: int, size: int, rtt_s: float) -> None:
        self.commands = self._commands = commands
        self.size = self._size = size
        self._rtt_s = rtt_s
        self._last: float | None = None  # when the last commit was seen, if another was on its way behind it

    def committed(self, count: int, size: int, busy: bool, now: float) -> None:
        """A transaction of ``count`` commands is committed; ``busy``: another one is on its way behind it."""
        last, self._last = self._last, now if busy else None
        if last is None or (count < self.commands * _FULL and size < self.size * _FULL):
            return
        cycle = now - last
        if cycle - self._rtt_s > _HOLDS_UP_S:
            factor = 0.8
        elif cycle < self._rtt_s * _SHARE:
            factor = 1.25
        else:
            return
        self.commands = min(self._commands * _GROWTH, max(self._commands, int(self.commands * factor)))
        self.size = min(self._size * _GROWTH, max(self._size, int(self.size * factor)))
