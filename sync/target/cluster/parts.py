"""What replay needs to know of a cluster target, so that it need not know more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from canal.position import Position
from sync.batch import Batch
from sync.config import LinkConfig
from sync.render import Failures
from sync.tag import Tagger
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence, fence_cluster
from sync.target.cluster.lanes import Lanes
from sync.target.cluster.script import Scripts
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import Connection
from sync.target.fence import Fence, fence

if TYPE_CHECKING:
    from sync.refetch import AtTarget


async def fence_target(conn: Connection, task: str, shard: str, epoch: int, *, unused: str = "") -> Fence:
    """Fence a target, whichever it is."""
    if isinstance(conn, ClusterConnection):
        return await fence_cluster(conn, task, shard, epoch, unused=unused)
    return await fence(conn, task, shard, epoch, unused=unused)


_LARGE: Final = 8
"""So many times a standalone server's batch is large enough for transactions by slot."""


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """What the writer of a cluster is made of. ``start``: where this session begins."""

    config: LinkConfig
    conn: ClusterConnection
    fence: ClusterFence
    start: Position
    at_target: AtTarget

    @classmethod
    def of(
        cls, config: LinkConfig, conn: Connection, fenced: Fence, start: Position, at_target: AtTarget
    ) -> ClusterParts | None:
        """None where the target is no cluster."""
        if not isinstance(conn, ClusterConnection) or not isinstance(fenced, ClusterFence):
            return None
        return cls(config, conn, fenced, start, at_target)

    def writer(
        self,
        tagger: Tagger,
        replid_at: Callable[[int], str],
        on_commit: Callable[[Batch, Failures], None],
        wake: Callable[[], None],
        judge: Callable[[Batch, list[int]], None] | None = None,
    ) -> ClusterWriter:
        """A writer that has no nodes yet; see `sync.target.cluster.opening`."""
        lanes = Lanes(self.config.task, self.config.shard, self._key_at_target)
        if self.start == self.fence.checkpoint.position:
            lanes.skips = self.fence.records.skips(self.start.offset)
        info = self.fence.info
        made = ClusterWriter(
            self.conn,
            self.fence,
            tagger,
            self.config.task,
            self.config.shard,
            replid_at,
            Scripts(info.flavor == "valkey" or info.numbers >= (7, 0, 0), judging=tagger.settles),
            lanes,
            start=self.start.offset,
            on_commit=on_commit,
            wake=wake,
            judge=judge,
        )
        made.gated = self.config.writer == "gated"
        if not made.gated and not self.config.two_way and (info.flavor == "valkey" or info.numbers >= (6, 2, 0)):
            made.bulk.least = _LARGE * self.config.batch_commands
        return made

    def _key_at_target(self, db: int, key: bytes) -> bytes | None:
        place = self.at_target((db, key))
        return None if place is None else place[1]
