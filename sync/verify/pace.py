"""Keys a second at most."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """``rate`` keys a second; 0: no limit. A tenth of a second's worth may be spent at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at = time.monotonic()

    async def spend(self, keys: float) -> None:
        """Wait until so many may be looked at."""
        if self.rate <= 0:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - 0.1) + keys / self.rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
