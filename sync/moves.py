"""Masters that become other servers: both halves of a link hear of it and connect anew, before any time-out."""

from __future__ import annotations

import asyncio

from canal.capture import Capture
from canal.cluster.shards import ShardWatch
from canal.sentinel import SwitchWatch
from sync.config import LinkConfig
from sync.replay import Replay


async def follow_moves(config: LinkConfig, capture: Capture, replay: Replay) -> None:
    """Listen for moves of source and target until cancelled; at once over where both are single servers."""
    async with asyncio.TaskGroup() as tasks:
        for endpoint, moved in ((config.source, capture.moved), (config.target, replay.moved)):
            if endpoint.group is not None and endpoint.group.kind == "sentinel":
                tasks.create_task(SwitchWatch(endpoint, moved).run())
            elif endpoint.group is not None and endpoint.group.kind == "shard":
                tasks.create_task(ShardWatch(endpoint, moved).run())
