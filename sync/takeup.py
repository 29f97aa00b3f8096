"""What a session takes up before it replays anything: keys that wait to be fetched, those of a fork, those asked for.

`sync.refetch` has the rule for such keys, `sync.failover` finds the fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from canal.commands import ServerKind
from sync.batch import Batch
from sync.config import LinkConfig
from sync.failover import Fork
from sync.refetch import AtTarget, Refetch, from_member, refetch_key, unit_of
from sync.restore import target_of
from sync.rewrite import Payloads
from sync.session import Session
from sync.tag import Checkpoint
from sync.target.cluster.fencing import ClusterFence
from sync.target.connection import Connection
from sync.target.fence import Fence


async def read_waiting(config: LinkConfig, conn: Connection, fenced: Fence) -> list[bytes]:
    """The keys that wait to be fetched, as members of the target's set; before a session has the connection."""
    if isinstance(fenced, ClusterFence):
        return fenced.records.fetches()
    members: list[bytes] = await conn.call(b"SMEMBERS", refetch_key(config.task, config.shard))
    return members


def gone_back(checkpoint: Checkpoint, fork: Fork) -> Checkpoint:
    """The checkpoint as it will be after the fork of a source failover is dealt with."""
    position = checkpoint.position
    if position is None or checkpoint.snapshot or position.replid != fork.position.replid:
        return checkpoint
    if position.offset <= fork.position.offset:
        return checkpoint
    return replace(checkpoint, position=fork.position, db=fork.db)


async def take_up_waiting(
    session: Session, waiting: Sequence[bytes], fork: Fork | None, target: ServerKind, at_target: AtTarget
) -> bool:
    """Take up the keys that wait to be fetched, those of a fork too. True when the target's checkpoint went back to the
    fork with them.
    """
    config = session.config
    name = refetch_key(config.task, config.shard)
    keys = {from_member(member) for member in waiting}
    refetch = session.refetch = Refetch(name, keys, Payloads(target_of(target)), at_target)
    if fork is None:
        return False
    back = fork.position.offset < session.committed and fork.position.replid == session.last_replid
    if back:
        commands = refetch.add(fork.places)
        unit = unit_of(commands, fork.position.offset, fork.db, session.capture.status.received_ms)
        units = [unit] if commands else []
        await session.submit(Batch(fork.position.offset, fork.db, units, unit.count, unit.size))
        await session.drain()
    Fork.forget(config.state_dir)
    return back


async def take_up_requests(session: Session, offset: int, db: int) -> None:
    """Keys that a person asked for, before anything is replayed: also those whose command stopped the link."""
    places = session.requests.take()
    commands = [] if session.refetch is None else session.refetch.add(places)
    if commands:
        unit = unit_of(commands, offset, db, session.capture.status.received_ms)
        await session.submit(Batch(offset, db, [unit], unit.count, unit.size))
        await session.drain()
