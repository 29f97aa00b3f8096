"""The source failed over to a replica that lacks what some slots have already: their records go back to the fork.

The keys that were written beyond it become fields of the records, to be fetched. Doing it twice does no harm, so a
crash in between is dealt with by doing it again: the fork is forgotten only afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import hiredis

from canal.cluster import SLOTS, slot_of
from canal.position import Position
from sync.refetch import AtTarget, Place, to_member
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence, read_records
from sync.target.cluster.records import FETCH, record_key
from sync.target.errors import classify


def furthest(fence: ClusterFence) -> int:
    """The newest offset that any slot has applied."""
    position = fence.checkpoint.position
    return max(position.offset if position is not None else 0, *fence.records.skips(-1), 0)


async def rewind(
    conn: ClusterConnection,
    fence: ClusterFence,
    task: str,
    shard: str,
    fork: tuple[Position, int],
    places: list[Place],
    at_target: AtTarget,
) -> ClusterFence:
    """Put the records back to ``fork`` (position, database); the fence as it is then."""
    position, db = fork
    if fence.checkpoint.position is None or fence.checkpoint.snapshot or fence.records.missing:
        return fence
    commands: list[list[bytes]] = []
    for slot in range(SLOTS):
        record = fence.records.slots[slot]
        if record is None or record.position.replid != position.replid:
            continue
        words = []
        if record.position.offset > position.offset:
            words += [b"pos", str(position).encode()]
        if record.low > position.offset:
            words += [b"low", b"%d/%d" % (position.offset, db)]
        if words:
            commands.append([b"HSET", record_key(task, shard, slot), *words])
    if not commands:
        return fence
    fields = []
    for place in places:
        placed = at_target(place)
        slot = slot_of(placed[1]) if placed is not None else 0
        fields.append([b"HSET", record_key(task, shard, slot), FETCH + to_member(place), b"1"])
    # the fields are there before any record goes back: a record that has gone back says that they are
    for reply in [*await conn.calls(fields, timeout=60.0), *await conn.calls(commands, timeout=60.0)]:
        if isinstance(reply, hiredis.ReplyError):
            raise classify(str(reply), "putting a slot's record back")
    records = await read_records(conn, task, shard)
    start = records.start()
    assert start is not None
    checkpoint = replace(fence.checkpoint, position=start[0], db=start[1])
    return replace(fence, checkpoint=checkpoint, records=records)
