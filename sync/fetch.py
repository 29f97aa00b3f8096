"""Read keys at the source together with the offset at which they were so."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import Unready
from sync.refetch import Fetched, Place
from sync.tag import RESERVED
from sync.target.connection import Connection, connect
from sync.target.errors import classify
from sync.target.fence import parse_info

_FIRST: Final = 10
_NOBODY: Final = RESERVED + b"nobody"  # a key that never exists
_AT_ONCE: Final = 200
_PART_BYTES: Final = 4 << 20
ROUND_BYTES: Final = 16 << 20
"""`fetch` stops when it has so much, so that large values do not fill the memory; the rest is fetched the next time."""


async def fetch(source: Endpoint, places: list[Place], replid: str) -> list[Fetched]:
    """The state of keys and the source's offset then: of all ``places``, or of the first of them when they are large.

    Raises Unreachable and the like; Unready when the source is no longer the one whose stream (``replid``) is followed,
    since its offsets would mean something else. Keys of a cluster's slot that is on its way to another node are left
    out: they are asked for again later.
    """
    conn = await connect(source, who="source")
    try:
        out: list[Fetched] = []
        size, most = 0, _FIRST
        exact = await _tells_deadlines(conn)
        cluster = source.group is not None and source.group.kind != "sentinel"  # there a transaction is about one slot
        for db, group in groupby(sorted(places, key=lambda place: place[0]), key=lambda place: place[0]):
            wanted = [key for _, key in group]
            while wanted and size < ROUND_BYTES:
                part, wanted = wanted[:most], wanted[most:]
                found = await _read(conn, db, [[key] for key in part] if cluster else [part], replid, exact)
                size += sum(len(one.payload or b"") for one in found)
                out += found
                most = max(1, min(_AT_ONCE, _PART_BYTES * len(out) // max(1, size)))
        return out
    finally:
        conn.close()


async def _tells_deadlines(conn: Connection) -> bool:
    """Has it PEXPIRETIME (7.0 on), and may we use it? TIME and PTTL are milliseconds apart when the machine is busy."""
    (reply,) = await conn.calls([[b"PEXPIRETIME", _NOBODY]])
    return not isinstance(reply, hiredis.ReplyError) or str(reply).startswith("MOVED ")


async def _read(conn: Connection, db: int, parts: list[list[bytes]], replid: str, exact: bool) -> list[Fetched]:
    """Keys of one database; those of a part are all at the same offset."""
    ask = b"PEXPIRETIME" if exact else b"PTTL"
    commands: list[list[bytes]] = []
    for keys in parts:
        commands += [[b"MULTI"], [b"SELECT", b"%d" % db], [b"TIME"]]
        for key in keys:
            commands += [[b"DUMP", key], [ask, key]]
        commands += [[b"INFO", b"replication"], [b"EXEC"]]
    replies = await conn.calls(commands, timeout=60.0)
    out: list[Fetched] = []
    at = 0
    for keys in parts:
        own = replies[at : at + 2 * len(keys) + 5]
        at += len(own)
        if not any(_elsewhere(reply) for reply in own[2:-2]):
            out += _states(db, keys, own[-1], replid, exact)
    return out


def _elsewhere(queued: Any) -> bool:
    return isinstance(queued, hiredis.ReplyError) and str(queued).startswith(("MOVED ", "ASK ", "TRYAGAIN"))


def _states(db: int, keys: list[bytes], reply: Any, replid: str, exact: bool) -> list[Fetched]:
    for one in [reply] if isinstance(reply, hiredis.ReplyError) else reply:
        if isinstance(one, hiredis.ReplyError):
            raise classify(str(one), "fetching keys", who="source")
    _, (seconds, micros), *states, raw = reply
    info = parse_info(raw)
    if info.get("master_replid") != replid:
        raise Unready(f"source: follows replication id {info.get('master_replid')}, expected {replid}")
    offset, base = int(info["master_repl_offset"]), 0 if exact else int(seconds) * 1000 + int(micros) // 1000
    return [
        Fetched((db, key), offset, payload, base + deadline if deadline > 0 else 0)
        for key, payload, deadline in zip(keys, states[::2], states[1::2], strict=True)
    ]
