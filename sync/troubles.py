"""What sessions learn about units that will not go through; lives as long as the link.

A unit at which the connection is lost again and again without progress is sent alone, then given up: a poison command
must not crash the target for ever. An outage of the line is not the unit's fault, so such losses count only with work
on its way, and losses after which the target had restarted count for more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from canal.errors import CanalError, Unreachable
from sync.batch import Batch

_LOSSES_ALONE = 3
_RESTARTS_POISON = 3
_LOSSES_POISON = 10


@dataclass(slots=True)
class Troubles:
    """Offsets are stream positions in bytes."""

    single_until: int = -1  # units up to this offset go alone, to find the one that the target does not take
    skip: dict[int, set[int]] = field(default_factory=dict)  # end of a unit -> numbers of its refused commands
    snapshot_skip: dict[int, set[int]] = field(default_factory=dict)  # the same by offsets of the RDB
    lost_at: int = -1  # committed offset at which connections were lost with work on its way
    losses: int = 0
    restarts: int = 0  # of these, how often the target had restarted in between
    run_id: str = ""
    snapshot_single: bool = False

    def met(self, run_id: str) -> None:
        """The target of a new session; a new run id after a loss means that it had restarted."""
        if self.run_id and self.run_id != run_id and self.losses:
            self.restarts += 1
        self.run_id = run_id

    def progressed(self) -> None:
        """A batch was committed."""
        if self.losses:
            self.losses = self.restarts = 0

    def lost(self, error: CanalError, committed: int, oldest: Batch | None) -> Batch | None:
        """A connection ended with ``oldest`` on its way and everything up to ``committed`` applied.

        Returns the batch that is to be given up, once that is beyond doubt.
        """
        if oldest is None or not isinstance(error, Unreachable):
            return None
        if self.lost_at != committed:
            self.lost_at, self.losses, self.restarts = committed, 0, 0
        self.losses += 1
        if self.losses >= _LOSSES_ALONE:
            self.single_until = max(self.single_until, oldest.end)
            self.snapshot_single = self.snapshot_single or oldest.snapshot
        alone = self.losses - _LOSSES_ALONE
        killer = alone >= _RESTARTS_POISON and self.restarts >= _RESTARTS_POISON
        return oldest if killer or alone >= _LOSSES_POISON else None
