"""What turning a task asks of its two sides: where their streams stand, that writes be held, what links left there.

Of a cluster every master is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from canal.errors import Unreachable

if TYPE_CHECKING:
    from canal.endpoint import Endpoint


async def streams(endpoint: Endpoint) -> dict[str, int]:
    """Where its stream stands, replication id → offset; of a cluster those of all masters. Raises Unreachable."""
    from sync.horizon import replication_info
    from sync.target.cluster.scanning import nodes_of
    from sync.target.connection import connect
    from sync.target.fence import server_info

    if not endpoint.clustered:
        found = await replication_info(endpoint)
        if found is None:
            raise Unreachable(
                f"{endpoint.label} does not tell its position (INFO replication); --force goes on without it"
            )
        return {found[1]: found[2]}
    conn = await connect(endpoint, who="source")
    try:
        told = [server_info(await node.call(b"INFO")) for node in nodes_of(conn)]
        return {one.replid: one.offset for one in told}
    finally:
        conn.close()


async def answers(endpoint: Endpoint) -> bool:
    """Can it be asked at all? Of a cluster one of its nodes."""
    from sync.horizon import replication_info

    return await replication_info(endpoint) is not None


async def forget_checkpoints(endpoint: Endpoint, living: set[str]) -> list[str]:
    """Remove the checkpoints of links that are over from a server that becomes a target; their names.

    They would say that its new link's source is followed already. Those of tasks that are to run, and of connected
    links, stay.
    """
    from sync.tag import INDEX, PREFIX
    from sync.target.connection import connect

    conn = await connect(endpoint)
    try:
        clients = await conn.call(b"CLIENT", b"LIST")
        gone = []
        for key in await conn.call(b"SMEMBERS", INDEX):
            link = key[len(PREFIX) :]
            connected = b" name=redis-canal:" + link + b":" in clients
            if key.startswith(PREFIX) and not connected and link.partition(b"/")[0].decode() not in living:
                await conn.call(b"DEL", key)
                await conn.call(b"SREM", INDEX, key)
                gone.append(link.decode())
        return gone
    finally:
        conn.close()


async def hold_writes(endpoint: Endpoint, seconds: float) -> None:
    """Raises when the server cannot (before 6.2) or the user may not; nothing is held then."""
    try:
        await _client_command(endpoint, b"PAUSE", b"%d" % int(seconds * 1000), b"WRITE")
    except BaseException:
        if endpoint.clustered:  # the first of its masters may hold them already
            await release_writes(endpoint)
        raise


async def release_writes(endpoint: Endpoint) -> None:
    """Let them go on."""
    await _client_command(endpoint, b"UNPAUSE")


async def _client_command(endpoint: Endpoint, *words: bytes) -> None:
    from sync.target.cluster.scanning import nodes_of
    from sync.target.connection import connect

    conn = await connect(endpoint, who="source")
    try:
        for node in nodes_of(conn):
            await node.call(b"CLIENT", *words)
    finally:
        conn.close()
