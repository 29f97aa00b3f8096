"""Which segments may go: a pure decision from figures, made again whenever they change.

A segment goes when all of it lies behind what every consumer has applied, by a margin in bytes and in seconds: a target
that fails over to a replica without its last transactions is served from there. What is not applied never goes. When
the journal has no room left, the margin is given up first, oldest segment first, before capture has to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canal.journal.segment import Segment


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a journal: bytes, seconds; ``max_bytes`` 0 means bounded by the disk only."""

    segment_bytes: int = 64 << 20
    max_bytes: int = 0
    retain_bytes: int = 64 << 20
    retain_seconds: float = 60.0
    reserve_bytes: int = 16 << 20  # kept free on the file system, for state files and whatever else lives there

    @property
    def roll_bytes(self) -> int:
        """Size at which a segment is closed; small enough that a bounded journal can give up old ones."""
        if self.max_bytes:
            return max(1, min(self.segment_bytes, self.max_bytes // 8))
        return self.segment_bytes


def disposable(segments: Sequence[Segment], applied: int, now_ms: int, limits: Limits) -> int:
    """How many of the oldest ``segments`` may be deleted. The newest one, which is being written, never is."""
    behind = applied - limits.retain_bytes
    before = now_ms - limits.retain_seconds * 1000
    count = 0
    while count < len(segments) - 1 and segments[count].end <= behind and segments[count].last_ms <= before:
        count += 1
    return count


def disposable_for_room(segments: Sequence[Segment], applied: int, wanted: int) -> int:
    """How many of the oldest, wholly applied ``segments`` to delete, margin or not, to gain ``wanted`` bytes."""
    count = 0
    gained = 0
    while count < len(segments) - 1 and segments[count].end <= applied and gained < wanted:
        gained += segments[count].size
        count += 1
    return count
