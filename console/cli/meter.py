"""Throughput of a link over the last seconds, and the estimate of when its snapshot is done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from sync.status import LinkStatus

WINDOW_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over the window."""

    commands: float = 0.0
    bytes: float = 0.0
    snapshot_keys: float = 0.0
    snapshot_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    commands: int
    bytes: int
    keys: int
    snapshot_bytes: int


class Meter:
    """Feed it the status now and then (``at`` in monotonic seconds); it answers with the rates."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def rates(self, status: LinkStatus, at: float) -> Rates:
        progress = status.snapshot
        now = _Sample(at, status.commands_applied, status.bytes_applied, progress.keys_done, progress.bytes_done)
        samples = self._samples
        if samples and (now.keys < samples[-1].keys or now.snapshot_bytes < samples[-1].snapshot_bytes):
            samples.clear()  # another snapshot has begun
        samples.append(now)
        while len(samples) > 2 and at - samples[1].at >= WINDOW_S:
            samples.popleft()
        first = samples[0]
        passed = at - first.at
        if passed <= 0:
            return Rates()
        return Rates(
            (now.commands - first.commands) / passed,
            (now.bytes - first.bytes) / passed,
            (now.keys - first.keys) / passed,
            (now.snapshot_bytes - first.snapshot_bytes) / passed,
        )


def snapshot_fraction(status: LinkStatus) -> float | None:
    """How much of the snapshot is applied, 0 to 1; None while neither its length nor its number of keys is known."""
    progress = status.snapshot
    if progress.finished >= progress.started > 0:
        return 1.0
    if progress.bytes_total > 0:
        return min(1.0, progress.bytes_done / progress.bytes_total)
    if progress.keys_total > 0:
        return min(1.0, progress.keys_done / progress.keys_total)
    return None


def snapshot_seconds_left(status: LinkStatus, rates: Rates) -> float | None:
    """Estimate from the present rate; None when it cannot be known."""
    progress = status.snapshot
    if progress.bytes_total > 0 and rates.snapshot_bytes > 0:
        return max(0.0, (progress.bytes_total - progress.bytes_done) / rates.snapshot_bytes)
    if progress.keys_total > 0 and rates.snapshot_keys > 0:
        return max(0.0, (progress.keys_total - progress.keys_done) / rates.snapshot_keys)
    return None
