"""What happens before a writer may write: a batch of an older connection must not land any more.

A batch that is stuck in a dead connection's buffers can be applied after the new connection has read the checkpoint.
So every (re)connect goes: a name of our own, ROLE, kill every other connection of this shard until none is left, raise
the epoch, and only then read the position.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from typing import Any

import hiredis

from canal.errors import AuthError, CanalError, NotRedis, Unready
from canal.position import Position
from sync.tag import INDEX, RESERVED, Checkpoint, checkpoint_key
from sync.target.connection import Connection
from sync.target.errors import classify


class Fenced(CanalError):
    """A newer owner writes to this shard's target: this one must stop. ``epoch``: the target's, 0 when not known."""

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a target said of itself."""

    version: str
    flavor: str  # redis | valkey
    run_id: str
    replid: str
    cluster: bool = False
    maxmemory_policy: str = ""
    backlog_bytes: int = 0
    replid2: str = ""
    second_offset: int = -1  # first offset at which replid2 is not valid any more
    clock_ms: int = 0  # its clock when it answered, unix ms; 0 when it does not say (before 6.0)
    backlog_first: int = 0  # offset of the oldest byte in its backlog; 0 while it has none
    backlog_held: int = 0  # bytes in its backlog
    role: str = ""  # master | slave
    offset: int = 0  # of its own stream, master_repl_offset

    def can_serve(self, position: Position) -> bool:
        """Would PSYNC from ``position`` be answered by a partial resync, with an eighth of the backlog to spare?"""
        ahead = position.offset + 1 - self.backlog_first
        spare = self.backlog_bytes - self.backlog_held + ahead
        return (
            position.replid == self.replid
            and ahead >= 0
            and spare >= self.backlog_bytes // 8
            and self.backlog_first > 0
        )

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The version as numbers: of ``redis_version``, or of ``valkey_version`` for Valkey."""
        found = [int(part) for part in re.findall(r"\d+", self.version)[:3]]
        return (*found, 0, 0, 0)[:3]  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Fence:
    """The state in which a fenced target was found."""

    checkpoint: Checkpoint
    info: ServerInfo
    can_kill: bool
    rtt: float  # seconds of one round trip


def parse_info(raw: bytes) -> dict[str, str]:
    """INFO's ``name:value`` lines."""
    lines = raw.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def server_info(raw: bytes) -> ServerInfo:
    """From the reply of INFO; Valkey reports a ``redis_version`` of 7.2.4 for old clients beside its own."""
    fields = parse_info(raw)
    valkey = fields.get("valkey_version")
    return ServerInfo(
        version=valkey or fields.get("redis_version", ""),
        flavor="valkey" if valkey else "redis",
        run_id=fields.get("run_id", ""),
        replid=fields.get("master_replid", ""),
        cluster=fields.get("cluster_enabled") == "1",
        maxmemory_policy=fields.get("maxmemory_policy", ""),
        backlog_bytes=_number(fields.get("repl_backlog_size", "0")),
        replid2=fields.get("master_replid2", ""),
        second_offset=_number(fields.get("second_repl_offset", "-1")),
        clock_ms=_number(fields.get("server_time_usec", "0")) // 1000,
        backlog_first=_number(fields.get("repl_backlog_first_byte_offset", "0")),
        backlog_held=_number(fields.get("repl_backlog_histlen", "0")),
        role=fields.get("role", ""),
        offset=_number(fields.get("master_repl_offset", "0")),
    )


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


async def fence(conn: Connection, task: str, shard: str, epoch: int, *, unused: str = "") -> Fence:
    """Make ``conn`` the only connection of this shard and read its checkpoint.

    ``unused``: this writer has not been at the target under ``epoch`` yet, so that one who was there under the same
    epoch is another (its coordinator has lost its data since). Raises `Fenced` then, and when the target has seen a
    higher epoch; `Unready` when it is no master, `AuthError` that names a missing ACL rule.
    """
    loop = asyncio.get_running_loop()
    label = conn.endpoint.label
    started = loop.time()
    role = await conn.call(b"ROLE")
    rtt = loop.time() - started
    if not isinstance(role, list) or not role:
        raise NotRedis(f"target {label} answered ROLE with {role!r}")
    if role[0] != b"master":
        raise Unready(f"target {label} is a {role[0].decode()}, only a master can be written to")
    info = server_info(await conn.call(b"INFO"))
    await may_transact(conn)
    key = checkpoint_key(task, shard)
    refuse_newer(conn, await stored_epoch(conn, key), epoch, unused)  # an older one must not disturb its successor
    can_kill = await kill_others(conn, task, shard, epoch)
    await raise_epoch(conn, key, epoch, unused)
    checkpoint = await read_checkpoint(conn, key)
    return Fence(checkpoint, info, can_kill, rtt)


async def may_transact(conn: Connection) -> None:
    """Where MULTI is refused, what follows it would be carried out one by one."""
    for reply in await conn.calls([[b"MULTI"], [b"EXEC"]]):
        if isinstance(reply, hiredis.ReplyError):
            error = classify(str(reply), "MULTI and EXEC, which are needed to apply anything as a whole")
            raise error if isinstance(error, AuthError) or error.transient else AuthError(str(error))


async def kill_others(conn: Connection, task: str, shard: str, epoch: int) -> bool:
    """Kill this shard's other connections. False when the user may not, so that only guarded writing is safe."""
    prefix = f"redis-canal:{task}/{shard}:"
    name = f"{prefix}{epoch}:{secrets.token_hex(6)}"
    allowed, *replies = await conn.calls(
        [
            [b"CLIENT", b"KILL", b"ID", b"%d" % (1 << 62)],  # nobody: may we?
            [b"CLIENT", b"SETNAME", name.encode()],
            [b"CLIENT", b"LIST"],
        ]
    )
    if isinstance(allowed, hiredis.ReplyError) and str(allowed).startswith(("NOPERM", "NOAUTH")):
        return False
    for _ in range(1000):
        if isinstance(replies[-1], hiredis.ReplyError):
            error = classify(str(replies[-1]), "CLIENT LIST")
            if isinstance(error, AuthError):
                return False
            raise error
        others = [client for client in _clients(replies[-1]) if client["name"].startswith(prefix)]
        others = [client for client in others if client["name"] != name]
        if not others:
            return True
        kills = [[b"CLIENT", b"KILL", b"ID", client["id"].encode()] for client in others]
        replies = await conn.calls([*kills, [b"CLIENT", b"LIST"]])
        for reply in replies[:-1]:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("NOPERM", "NOAUTH")):
                return False
    raise Unready(f"target {conn.endpoint.label}: other connections of {task}/{shard} keep coming back")


def client_names(raw: bytes) -> set[str]:
    """The names of the connections in a reply of CLIENT LIST."""
    return {client["name"] for client in _clients(raw) if client["name"]}


def _clients(raw: bytes) -> list[dict[str, str]]:
    out = []
    for line in raw.decode("utf-8", "replace").splitlines():
        fields = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
        if "id" in fields:
            out.append({"id": fields["id"], "name": fields.get("name", "")})
    return out


async def stored_epoch(conn: Connection, key: bytes) -> tuple[int, str]:
    """The epoch that the target has, 0 for none, and who came with it when nobody had used it."""
    epoch, owner = await conn.calls([[b"HGET", key, b"epoch"], [b"HGET", key, b"owner"]])
    _check(epoch, "HGET")
    _check(owner, "HGET")
    return (int(epoch) if epoch and epoch.isdigit() else 0), (owner or b"").decode("utf-8", "replace")


def refuse_newer(conn: Connection, stored: tuple[int, str], epoch: int, unused: str) -> int:
    """The epoch that the target has stored; raises `Fenced` when it is higher than ours, or as high and not ours.

    ``unused``: a word of this writer alone, where its epoch is to be one that nobody has used; else empty.
    """
    found, owner = stored
    if unused and found == epoch and owner != unused:
        raise Fenced(
            f"target {conn.endpoint.label} was written to under epoch {found} before this writer came with it: "
            "another owner was given the same epoch, by a coordinator whose data was lost since",
            found,
        )
    if found > epoch:
        raise Fenced(
            f"target {conn.endpoint.label} has seen epoch {found} for this shard, this writer has {epoch}: "
            "a newer owner took over, this one stops",
            found,
        )
    return found


async def raise_epoch(conn: Connection, key: bytes, epoch: int, unused: str, *, index: bool = True) -> None:
    """Compare-and-set of the epoch at the target: of two who come with the same unused one, one gets it.

    Whose it is stands beside it: the reply to the one who got it may be lost, for instance when the other one, late,
    kills its connection. ``index``: list the key among the links' in the same transaction (on a cluster the list may be
    elsewhere).
    """
    for _ in range(100):
        _check((await conn.calls([[b"WATCH", key]]))[0], "WATCH")
        if refuse_newer(conn, await stored_epoch(conn, key), epoch, unused) == epoch:
            await conn.call(b"UNWATCH")
            return
        listed = [[b"SADD", INDEX, key]] if index else []
        fields = [b"epoch", b"%d" % epoch, b"owner", unused.encode()]
        replies = await conn.calls([[b"MULTI"], [b"HSET", key, *fields], *listed, [b"EXEC"]])
        for reply in replies:
            _check(reply, "writing the epoch")
        if replies[-1] is not None:
            return
    raise Unready(f"target {conn.endpoint.label}: the epoch of this shard keeps changing")


def _check(reply: Any, doing: str) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise classify(str(reply), doing)


async def read_checkpoint(conn: Connection, key: bytes) -> Checkpoint:
    """The checkpoint hash; raises `TagError` when it cannot be read."""
    flat = await conn.call(b"HGETALL", key)
    fields = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else dict(flat)
    return Checkpoint.from_fields(fields, key.decode("utf-8", "replace"))


async def databases(conn: Connection) -> int:
    """How many databases a server has. Found out by SELECT, because CONFIG is often not permitted."""

    async def has(db: int) -> bool:
        return not isinstance((await conn.calls([[b"SELECT", b"%d" % db]]))[0], hiredis.ReplyError)

    here, beyond = 0, 16
    while beyond < 1 << 20 and await has(beyond):
        here, beyond = beyond, beyond * 2
    while beyond - here > 1:
        middle = (here + beyond) // 2 if here or beyond != 16 else 15  # nearly all have sixteen
        if await has(middle):
            here = middle
        else:
            beyond = middle
    await conn.call(b"SELECT", b"0")
    return beyond


async def may_join(conn: Connection, key: bytes) -> bool:
    """Whether the user may send MSET, to which runs of SET are joined: it is queued, and thrown away."""
    replies = await conn.calls([[b"MULTI"], [b"MSET", key, b""], [b"DISCARD"]])
    return not isinstance(replies[1], hiredis.ReplyError)


async def user_keys(conn: Connection) -> int:
    """How many keys the target holds besides the reserved ones."""
    info = parse_info(await conn.call(b"INFO", b"keyspace"))
    total = 0
    for name, value in info.items():
        if name.startswith("db"):
            total += int(dict(part.split("=", 1) for part in value.split(","))["keys"])
    if conn.several:  # a cluster has a record for each slot; only a walk tells how many there are
        from sync.target.cluster.scanning import reserved_like

        return max(0, total - len(await reserved_like(conn, RESERVED)))
    reserved = await conn.call(b"SMEMBERS", INDEX)
    if reserved:
        total -= int(await conn.call(b"EXISTS", INDEX, *reserved))
    return max(0, total)
