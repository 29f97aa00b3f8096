"""Read keys at the source together with the offset at which they were so."""

from __future__ import annotations

from typing import Any, Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import Unready
from sync.refetch import Fetched, Place
from sync.target.connection import connect
from sync.target.errors import classify
from sync.target.fence import parse_info

_AT_ONCE: Final = 100


async def fetch(source: Endpoint, places: list[Place], replid: str) -> list[Fetched]:
    """The state of each key and the source's offset then. Raises Unreachable and the like; Unready when the source is
    no longer the one whose stream (``replid``) is followed, since its offsets would mean something else.
    """
    conn = await connect(source, who="source")
    try:
        out: list[Fetched] = []
        for begin in range(0, len(places), _AT_ONCE):
            part = places[begin : begin + _AT_ONCE]
            commands: list[list[bytes]] = []
            for db, key in part:
                commands += [
                    [b"MULTI"],
                    [b"SELECT", b"%d" % db],
                    [b"DUMP", key],
                    [b"PTTL", key],
                    [b"TIME"],
                    [b"INFO", b"replication"],
                    [b"EXEC"],
                ]
            replies = await conn.calls(commands, timeout=60.0)
            for i, place in enumerate(part):
                if _elsewhere(replies[7 * i + 2]):
                    continue  # of a slot that is on its way to another node of a cluster: asked for again later
                out.append(_state(place, replies[7 * i + 6], replid))
        return out
    finally:
        conn.close()


def _elsewhere(queued: Any) -> bool:
    return isinstance(queued, hiredis.ReplyError) and str(queued).startswith(("MOVED ", "ASK ", "TRYAGAIN"))


def _state(place: Place, reply: Any, replid: str) -> Fetched:
    if isinstance(reply, hiredis.ReplyError):
        raise classify(str(reply), "fetching a key", who="source")
    for one in reply:
        if isinstance(one, hiredis.ReplyError):
            raise classify(str(one), "fetching a key", who="source")
    _, payload, left, (seconds, micros), raw = reply
    info = parse_info(raw)
    if info.get("master_replid") != replid:
        raise Unready(f"source: follows replication id {info.get('master_replid')}, expected {replid}")
    deadline = int(seconds) * 1000 + int(micros) // 1000 + left if left > 0 else 0
    return Fetched(place, int(info["master_repl_offset"]), payload, deadline)
