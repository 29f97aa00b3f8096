"""Slows replay down for a target that has other work: so many commands and bytes a second, and less while the target is
slow itself. Capture is not concerned; what waits is in the journal.

Commands and bytes are spent after the fact, so a transaction may overdraw what there is and the next one waits for it;
transactions are kept to a tenth of a second's worth. By latency the rate is found by halving and creeping: whenever
transactions take longer than they may, what has been the rate until then is halved, and while they do not it grows by a
twentieth each second, up to the limits that were given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from canal.errors import ConfigError
from sync.status import LinkStatus

_SHARE_S: Final = 0.1
"""How much of a second's allowance one transaction may carry, and how much may be saved up."""
_LOOK_S: Final = 1.0
_FEWEST: Final = 100.0
"""Commands a second below which backing off by latency does not go."""


@dataclass(frozen=True, slots=True)
class ThrottleOptions:
    """0: no limit. ``latency_ms``: how long a transaction may take from sending to its commit before replay slows."""

    commands_per_second: float = 0
    bytes_per_second: float = 0
    latency_ms: float = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ThrottleOptions:
        """From a message or a file. Raises ConfigError for what is no limit."""
        known = {name: values.get(name, 0) for name in ("commands_per_second", "bytes_per_second", "latency_ms")}
        for name, value in known.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
                raise ConfigError(f"throttle.{name}: expected a number from 0 (no limit) on, got {value!r}")
        if unknown := set(values) - set(known):
            raise ConfigError(f"throttle: {', '.join(sorted(unknown))} unknown; known: {', '.join(known)}")
        return cls(**known)


class Bucket:
    """An allowance of ``rate`` a second that can be overdrawn; 0: unlimited."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._left = 0.0
        self._at = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until there is any allowance."""
        if not self.rate:
            return 0.0
        self._left = min(self.rate * _SHARE_S, self._left + self.rate * (now - self._at))
        self._at = now
        return 0.0 if self._left > 0 else (1e-9 - self._left) / self.rate

    def spend(self, amount: float) -> None:
        """Take from the allowance, below nothing if need be."""
        if self.rate:
            self._left -= amount

    def set(self, rate: float, now: float) -> None:
        """Another rate; what was overdrawn is forgiven."""
        self.rate, self._left, self._at = rate, max(0.0, rate * _SHARE_S), now


class Throttle:
    """One link's throttle. Until limits are given ``on`` is False, and nothing else need ever be called."""

    def __init__(self, status: LinkStatus, options: ThrottleOptions | None = None) -> None:
        self.on = False
        self.options = ThrottleOptions()
        self._status = status
        self._commands, self._bytes = Bucket(), Bucket()
        self._held_since = 0.0
        self._timer_at = 0.0  # when the last one asked for is due
        self._window = 0.0  # when the count below began
        self._count = 0
        self._slow = False
        if options is not None:
            self.set(options)

    def set(self, options: ThrottleOptions) -> None:
        """New limits, from now on."""
        now = time.monotonic()
        self.options = options
        self._commands.set(options.commands_per_second, now)
        self._bytes.set(options.bytes_per_second, now)
        self.on = self.on or bool(options.commands_per_second or options.bytes_per_second or options.latency_ms)
        self._held_since, self._window, self._count, self._slow = 0.0, now, 0, False
        self._show()

    def holds(self, wake: Callable[[], None]) -> bool:
        """Whether the next transaction has to wait; ``wake`` is called when it need not any more."""
        now = time.monotonic()
        wait = max(self._commands.wait_s(now), self._bytes.wait_s(now))
        if wait <= 0.0:
            if self._held_since:
                self._status.throttled_seconds += now - self._held_since
                self._held_since = 0.0
            return False
        if not self._held_since:
            self._held_since = now
        if now >= self._timer_at:
            self._timer_at = now + min(wait, 1.0)
            asyncio.get_running_loop().call_later(self._timer_at - now, wake)
        return True

    def bounds(self, commands: int, size: int) -> tuple[int, int]:
        """The largest transaction that fits the limits, within those given."""
        if self._commands.rate:
            commands = max(1, min(commands, int(self._commands.rate * _SHARE_S)))
        if self._bytes.rate:
            size = max(1, min(size, int(self._bytes.rate * _SHARE_S)))
        return commands, size

    def spend(self, commands: int, size: int) -> None:
        """A transaction is sent."""
        self._commands.spend(commands)
        self._bytes.spend(size)
        self._count += commands

    def committed(self, latency_s: float) -> None:
        """A transaction took so long from sending to its commit."""
        allowed_ms = self.options.latency_ms
        if not allowed_ms:
            return
        now = time.monotonic()
        self._slow = self._slow or latency_s * 1000 > allowed_ms
        elapsed = now - self._window
        if elapsed >= _LOOK_S:
            self._adapt(self._count / elapsed, now)

    def _adapt(self, seen: float, now: float) -> None:
        """Once a second: halve what was the rate if the target was slow, else creep up."""
        bucket, limit = self._commands, self.options.commands_per_second
        if self._slow:
            bucket.set(max(_FEWEST, min(bucket.rate or seen, seen) / 2), now)
        elif bucket.rate and bucket.rate != limit:
            rate = bucket.rate * 1.05
            over = rate >= limit if limit else seen < bucket.rate / 2  # no limit, and the rate is not what holds it
            bucket.set(limit if over else rate, now)
        self._window, self._count, self._slow = now, 0, False
        self._show()

    def _show(self) -> None:
        self._status.throttle_commands_per_second = self._commands.rate
        self._status.throttle_bytes_per_second = self._bytes.rate
