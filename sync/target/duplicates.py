"""Two links from one source to one target would apply every write twice: the second one is refused.

A link is known at the target by its checkpoint, which says whose stream it follows. Until that says so, a claim stands
beside it, so that of two links that start in the same instant at least one sees the other.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from canal.errors import CanalError, Refused
from canal.position import Position
from sync.tag import INDEX, PREFIX
from sync.target.connection import Connection
from sync.target.fence import read_checkpoint

_CLAIM: Final = b"claim"


async def claim_source(conn: Connection, key: bytes, stored: Position | None, replids: list[str]) -> None:
    """Say at the target that the link of checkpoint ``key`` follows this source, and look who else does.

    ``stored``: the checkpoint's position; ``replids``: the source's replication ids, the newest last. Raises `Refused`,
    with the claim taken back.
    """
    if replids and (stored is None or stored.replid != replids[-1]):
        await conn.call(b"HSET", key, _CLAIM, replids[-1].encode())
    try:
        await refuse_duplicate(conn, key, set(replids))
    except CanalError:
        await conn.call(b"HDEL", key, _CLAIM)
        raise


async def refuse_duplicate(conn: Connection, key: bytes, replids: set[str]) -> None:
    """Raise `Refused` when another link than that of checkpoint ``key`` follows the same source."""
    for other in await conn.call(b"SMEMBERS", INDEX):
        if other == key or not other.startswith(PREFIX):  # links list other keys of theirs there too
            continue
        for replid in await _followed(conn, other) & replids:
            name = other.decode("utf-8", "replace")
            raise Refused(
                f"target {conn.endpoint.label} already gets this source's writes by another link ({name} follows the "
                f"same replication id {replid}); a second one would apply every write twice. Stop that task, "
                f"or, when it is gone for good, remove its checkpoint: DEL {name}"
            )


async def _followed(conn: Connection, key: bytes) -> set[str]:
    """The replication ids of which another link's checkpoint speaks, by its position and by its claim."""
    claimed = await conn.call(b"HGET", key, _CLAIM)
    found = {claimed.decode("ascii", "replace")} if claimed else set()
    with suppress(CanalError):  # a checkpoint that cannot be read is not ours to judge
        if (position := (await read_checkpoint(conn, key)).position) is not None:
            found.add(position.replid)
    return found
