"""What the servers of a link say of each other's past, and what follows from it: has one of them lost what it had?

Positions alone decide, never a clock. Where both sides stood is told by the checkpoints of the links between them: one
says how far a stream was applied (``pos``), and how far its source had applied ours (``seen``). All of it was committed
before it was told, so a server that lacks it now has lost it. What cannot be compared is evidence of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import hiredis

from canal.position import Position
from sync.seen import PREFIX as DIGITS
from sync.seen import Vector, parse_seen
from sync.tag import INDEX, PREFIX
from sync.target.connection import Connection
from sync.target.fence import ServerInfo

_FIELDS = (b"pos", b"seen", b"origin", b"via", b"phase", b"at")


@dataclass(frozen=True, slots=True)
class Told:
    """A checkpoint: how far the stream of ``datacenter`` was applied, and what that one had ``seen`` by then.

    ``seen`` is empty for links that forward others' writes, whose tags may speak for those.
    """

    datacenter: str
    position: Position | None
    seen: Vector
    streams: bool  # no snapshot is being applied
    at_ms: int = 0  # when that was committed, unix ms; 0: not told


def told_of(values: list[bytes | None]) -> Told:
    """From the fields of the hash in the order of ``_FIELDS``."""
    pos, seen, origin, via, phase, at = (value or b"" for value in values)
    try:
        position = Position.parse(pos.decode("ascii", "replace"))
    except ValueError:
        position = None
    datacenter = (via or origin).decode("utf-8", "replace")
    at_ms = int(at) if at.isdigit() else 0
    return Told(datacenter, position, {} if via else parse_seen(seen), phase == b"stream", at_ms)


async def told_by(conn: Connection, key: bytes) -> Told:
    """One checkpoint at a server. Raises what the connection does."""
    return told_of(await conn.call(b"HMGET", key, *_FIELDS))


async def links_from(conn: Connection, datacenter: str) -> list[Told]:
    """The checkpoints at a server of links from ``datacenter``. Raises what the connection does."""
    names = [name for name in await conn.call(b"SMEMBERS", INDEX) if name.startswith(PREFIX)]
    found = await conn.calls([[b"HMGET", name, *_FIELDS] for name in names]) if names else []
    all_told = [told_of(values) for values in found if not isinstance(values, hiredis.ReplyError)]
    return [told for told in all_told if told.datacenter == datacenter]


def lost(position: Position, server: ServerInfo) -> bool | None:
    """Has the server's own history ended before ``position``, which somebody had of it? None where its history says
    nothing of that replication id, or where it is a replica, which may only be late.

    ``server`` must have been asked after the position was read.
    """
    if server.role != "master":
        return None
    if position.replid == server.replid:
        return position.offset > server.offset
    if position.replid == server.replid2:
        return position.offset >= server.second_offset
    return None


def behind(found: Position, promised: tuple[str, int], owner: ServerInfo) -> bool:
    """Is a checkpoint older than what its server had said of itself? Both are places in the stream of ``owner``."""
    name = found.replid[:DIGITS]
    if name == promised[0]:
        return found.offset < promised[1]
    return owner.replid[:DIGITS] == promised[0] and owner.replid2[:DIGITS] == name


def holds_all(back: list[Told], server: ServerInfo) -> bool:
    """Has the server everything of its own that the other side had of it? Then nothing is lost for good: what it lacks
    of the other's comes again.
    """
    return bool(back) and all(
        told.streams and told.position is not None and lost(told.position, server) is False for told in back
    )


def takes_up(back: list[Told], server: ServerInfo) -> bool:
    """Does a link out of the server, if there is any, stand in its present history? Then whether it lost writes of its
    own was judged there, and a mark would stand.
    """
    return not back or any(told.position is not None and lost(told.position, server) is False for told in back)
