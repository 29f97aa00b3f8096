"""Before anything is written: are these the right two servers, and may this link start?"""

from __future__ import annotations

import logging

from canal.commands import ServerKind
from canal.errors import CanalError, ConfigError, Refused
from canal.located import answer
from canal.position import Position
from sync.config import LinkConfig
from sync.homes import refuse_clusters
from sync.placing import Placing
from sync.tag import Checkpoint
from sync.target.connection import Connection, connect
from sync.target.fence import ServerInfo, databases, parse_info, server_info, user_keys

log = logging.getLogger(__name__)


async def source_info(config: LinkConfig) -> ServerInfo | None:
    """What the source is. None when INFO is not permitted or it cannot be reached: following it needs neither."""
    try:
        raw = await answer(config.source, b"INFO")
    except CanalError as error:
        log.debug("no INFO of the source: %s", error)
        return None
    assert isinstance(raw, bytes)
    return server_info(raw)


async def source_databases(config: LinkConfig) -> int | None:
    """How many databases the source has; None when it cannot be asked."""
    try:
        conn = await connect(config.source, who="source")
        try:
            await conn.call(b"SELECT", b"0")  # permitted at all?
            return await databases(conn)
        finally:
            conn.close()
    except CanalError as error:
        log.debug("the databases of the source are not known: %s", error)
        return None


def kind(info: ServerInfo) -> ServerKind:
    """The flavor and version of a server."""
    return ServerKind(info.flavor, info.numbers)


def refuse_same(config: LinkConfig, source: ServerInfo, target: ServerInfo) -> None:
    """Raise ConfigError when source and target are one server, or one is the other's replica."""
    names = f"source {config.source.label} and target {config.target.label}"
    if source.run_id and source.run_id == target.run_id:
        raise ConfigError(f"{names} are the same server: give two different ones")
    if source.replid and source.replid == target.replid:
        raise ConfigError(
            f"{names} already hold the same data by Redis's own replication: end that first (REPLICAOF NO ONE on the "
            "target), or choose another server"
        )


def refuse_same_stream(config: LinkConfig, target: ServerInfo, position: Position) -> None:
    """The same when INFO of the source is not permitted: raise ConfigError when what it sends is the target's own
    stream.
    """
    if target.replid == position.replid:
        raise ConfigError(
            f"source {config.source.label} and target {config.target.label} are the same server, or replicas of one "
            "another: give two different ones"
        )


async def refuse_strangers(config: LinkConfig, conn: Connection, mine: Checkpoint) -> None:
    """Raise Refused at first contact with a target that holds data: a mistyped URL must not cost a database."""
    if mine.position is None:
        await refuse_full(config, conn)


async def refuse_full(config: LinkConfig, conn: Connection) -> None:
    """Raise Refused when the target holds data of which nobody has said what becomes of it."""
    if config.two_way or config.snapshot.stale_keys is not None or config.snapshot.mode == "never":
        return
    found = await user_keys(conn)
    if found:
        raise Refused(
            f"target {config.target.label} holds {found} keys and no checkpoint of task {config.task}: is it the right "
            "server? To go on, choose what becomes of them: --stale-keys delete makes the target a mirror (keys that "
            "the source lacks are removed), --stale-keys keep overwrites what the source has and leaves the rest"
        )


def refuse_evictions(config: LinkConfig, source: ServerInfo | None, target: ServerInfo) -> None:
    """Raise Refused for a two-way task over a server that evicts: an eviction is a bare DEL, which the other side would
    carry out as a user's.
    """
    if not config.two_way or config.accept_evictions:
        return
    for label, info in ((config.source.label, source), (config.target.label, target)):
        if info is not None and info.maxmemory_policy not in ("", "noeviction"):
            raise Refused(
                f"server {label} has maxmemory-policy {info.maxmemory_policy}: what it evicts would be deleted at the "
                "other side too, and cannot be told from a user's DEL. Set maxmemory-policy noeviction, or accept that "
                "with --accept-evictions (accept_evictions: true under two_way in the task)"
            )


def refuse_cluster(config: LinkConfig, target: ServerInfo) -> None:
    """Raise ConfigError for a node of a cluster given as a server by itself, and for what cannot go two ways."""
    if config.two_way:
        words = config.conflicts, config.home, config.direct, config.flush
        others = sorted({*config.datacenters} - {config.source_dc, config.target_dc})
        refuse_clusters(config.source, config.target, *words, others)
    if target.cluster and (config.target.group is None or config.target.group.kind != "cluster"):
        raise ConfigError(
            f"target {config.target.label} is a node of a Redis Cluster: give the cluster as "
            "redis+cluster://HOST:PORT,… (with one or several of its nodes)"
        )


async def refuse_databases(config: LinkConfig, placing: Placing) -> None:
    """Raise ConfigError when the source has keys that would go to another database of a cluster than 0.

    A source that may not be asked is passed over; what comes later becomes dead letters.
    """
    try:
        raw = await answer(config.source, b"INFO", b"keyspace")
    except CanalError as error:
        log.debug("no INFO of the source: %s", error)
        return
    held = [int(name[2:]) for name in parse_info(raw) if name.startswith("db") and name[2:].isdigit()]
    beyond = [db for db in sorted(held) if placing.carries(db) and placing.database(db) != 0]
    if beyond:
        names = ", ".join(map(str, beyond))
        raise ConfigError(
            f"source {config.source.label} has keys in database {names}, and a Redis Cluster has database 0 only: map "
            f"it (--db-map {beyond[0]}:0, where no keys clash), or leave it out (--exclude-db {beyond[0]})"
        )
