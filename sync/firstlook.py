"""A look at both servers before a session writes anything: is this the right target, and may this link start?"""

from __future__ import annotations

from dataclasses import replace

from sync.config import LinkConfig
from sync.preflight import (
    refuse_cluster,
    refuse_databases,
    refuse_evictions,
    refuse_same,
    refuse_strangers,
    source_databases,
    source_info,
)
from sync.routes import refuse_doubled
from sync.slots import SlotKeeper
from sync.tag import Checkpoint, checkpoint_key
from sync.target.connection import Connection
from sync.target.duplicates import refuse_duplicate
from sync.target.fence import read_checkpoint, server_info
from sync.transform import Transform
from sync.watch import SourceWatch


def own(checkpoint: Checkpoint, uid: str) -> Checkpoint:
    """The checkpoint as far as it is this task's: another uid's position is not ours to go on from."""
    if checkpoint.uid == uid:
        return checkpoint
    return replace(checkpoint, position=None, snapshot=False, progress=0)


async def first_look(
    config: LinkConfig,
    conn: Connection,
    uid: str,
    watch: SourceWatch,
    transform: Transform,
    slots: SlotKeeper | None,
    *,
    checked: bool,
) -> None:
    """Raise what forbids this link; ``watch`` and ``transform`` learn what the source is. ``checked``: it was looked at
    before, so only what may have changed at the target is looked at. ``slots``: of a shard of a source cluster.
    """
    key = checkpoint_key(config.task, config.shard)
    target = server_info(await conn.call(b"INFO"))
    refuse_cluster(config, target)
    source = None if checked else await source_info(config)
    if source is not None:
        watch.learn(source)
        refuse_same(config, source, target)
        await refuse_duplicate(conn, key, {source.replid})
    if not checked:
        refuse_evictions(config, source, target)
        if not transform.identity and (count := await source_databases(config)) is not None:
            transform.placing.source_has(count)  # FLUSHALL of a filtered link names them
        if target.cluster:
            await refuse_databases(config, transform.placing)
        await refuse_doubled(config, conn)
    # each time: a target that lost its checkpoint and holds data is not the one that it was
    mine = own(await read_checkpoint(conn, key), uid)
    if slots is not None:
        await slots.first(conn, uid)
    else:
        await refuse_strangers(config, conn, mine)
