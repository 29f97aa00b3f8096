"""Before a writer may write to a cluster: every node fenced, the epoch raised, all records read."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, replace

import hiredis

from canal.cluster import SLOTS, slot_of
from canal.errors import AuthError, NotRedis, Unready
from canal.position import Position
from sync.tag import INDEX, checkpoint_key
from sync.target.cluster.connection import ClusterConnection, side_by_side
from sync.target.cluster.records import Record, Records, parse_record, record_key, tag_key
from sync.target.cluster.script import Scripts
from sync.target.connection import Connection
from sync.target.errors import classify
from sync.target.fence import (
    Fence,
    ServerInfo,
    kill_others,
    may_transact,
    raise_epoch,
    read_checkpoint,
    refuse_newer,
    server_info,
    stored_epoch,
)

log = logging.getLogger(__name__)

NODES = b"nodes"
"""Field of the link's checkpoint: the run ids of the masters when a snapshot began to be applied."""
NOWHERE = "0" * 40
"""A replication id that no source has: what starts from it gets a full resync."""


@dataclass(frozen=True, slots=True)
class ClusterFence(Fence):
    """The state in which a fenced cluster was found."""

    records: Records


@dataclass(slots=True)
class NodeTag:
    """A node's tag: the hash of one of its slots that opens and guards its transactions."""

    slot: int
    key: bytes
    chain: bytes


async def fence_cluster(
    conn: ClusterConnection, task: str, shard: str, epoch: int, *, unused: str = ""
) -> ClusterFence:
    """Make ``conn``'s connections the only ones of this shard at any master, and read its records.

    Raises as `sync.target.fence.fence` does; AuthError too where connections of before cannot be killed.
    """
    key = checkpoint_key(task, shard)
    refuse_newer(conn, await stored_epoch(conn, key), epoch, unused)
    fenced = await side_by_side(fence_node(node, task, shard, epoch) for node in list(conn.nodes.values()))
    infos, rtt = [info for info, _ in fenced], max((took for _, took in fenced), default=0.0)
    owner = await conn.node(conn.owner(slot_of(key)).id)
    await raise_epoch(owner, key, epoch, unused, index=False)
    await conn.call(b"SADD", INDEX, key)
    checkpoint = await read_checkpoint(conn, key)
    records = await read_records(conn, task, shard)
    if checkpoint.position is not None and not checkpoint.snapshot:
        start = records.start()
        if start is None:
            log.warning("%d slots of %s have lost their records: a full resync", records.missing, conn.endpoint.label)
            start = Position(NOWHERE, checkpoint.position.offset), 0
        checkpoint = replace(checkpoint, position=start[0], db=start[1])
    oldest = min(infos, key=lambda info: info.numbers)
    run_ids = ",".join(sorted(info.run_id for info in infos))
    if checkpoint.snapshot and await conn.call(b"HGET", key, NODES) != run_ids.encode():
        # another master than at its beginning may lack keys that were restored: they are restored again
        checkpoint = replace(checkpoint, progress=0)
    return ClusterFence(checkpoint, replace(oldest, run_id=run_ids), True, rtt, records)


async def fence_node(node: Connection, task: str, shard: str, epoch: int) -> tuple[ServerInfo, float]:
    """Make one connection the only one of this shard at its node; (what the node is, seconds of a round trip)."""
    loop = asyncio.get_running_loop()
    label = node.endpoint.label
    started = loop.time()
    role = await node.call(b"ROLE")
    rtt = loop.time() - started
    if not isinstance(role, list) or not role:
        raise NotRedis(f"target {label} answered ROLE with {role!r}")
    if role[0] != b"master":
        raise Unready(f"target {label} is a {role[0].decode()}, only a master can be written to")
    info = server_info(await node.call(b"INFO"))
    if info.flavor == "redis" and info.numbers < (5, 0, 0):
        raise AuthError(f"target {label} is Redis {info.version}: cluster targets are written to from Redis 5.0 on")
    await may_transact(node)
    if not await kill_others(node, task, shard, epoch):
        raise AuthError(
            f"target {label}: the user may not CLIENT LIST and CLIENT KILL, which writing to a cluster needs to be "
            "safe: grant +client|list +client|kill +client|setname"
        )
    return info, rtt


async def open_node(conn: Connection, task: str, shard: str, epoch: int, slots: list[int], scripts: Scripts) -> NodeTag:
    """Load the scripts and begin the node's chain. Raises Unready when the slot has just left the node."""
    slot = slots[len(slots) // 2]  # the same each time, as far as slots stay where they are
    tag = NodeTag(slot, tag_key(task, shard, slot), secrets.token_hex(6).encode())
    replies = await conn.calls(
        [
            [b"SCRIPT", b"LOAD", scripts.body],
            [b"SCRIPT", b"LOAD", scripts.careful],
            [b"HSET", tag.key, b"chain", tag.chain, b"epoch", b"%d" % epoch],
        ]
    )
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(("MOVED", "ASK")):
                raise Unready(f"target {conn.endpoint.label}: {reply}")
            raise classify(str(reply), "preparing a node")
    return tag


async def read_records(conn: ClusterConnection, task: str, shard: str) -> Records:
    """The records of all slots, each from where it is now."""
    slots: list[Record | None] = []
    for reply in await conn.calls([[b"HGETALL", record_key(task, shard, slot)] for slot in range(SLOTS)]):
        if isinstance(reply, hiredis.ReplyError):
            raise classify(str(reply), "reading a slot's record")
        slots.append(parse_record(reply))
    owners = [conn.owner(slot).id for slot in range(SLOTS)]
    return Records(slots, owners)
