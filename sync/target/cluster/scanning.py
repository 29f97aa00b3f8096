"""Walks over all keys of a target that may be a cluster."""

from __future__ import annotations

from sync.filters import escape_glob
from sync.target.cluster.connection import ClusterConnection
from sync.target.connection import Connection


def nodes_of(conn: Connection) -> list[Connection]:
    """The connections on which SCAN has to be done to meet all keys."""
    return [conn.nodes[name] for name in sorted(conn.nodes)] if isinstance(conn, ClusterConnection) else [conn]


async def reserved_like(conn: Connection, prefix: bytes) -> list[bytes]:
    """Keys of a cluster that begin with ``prefix``; nothing for a single server, which knows its names."""
    if not isinstance(conn, ClusterConnection):
        return []
    found: list[bytes] = []
    for node in nodes_of(conn):
        cursor = b"0"
        while True:
            cursor, names = await node.call(b"SCAN", cursor, b"MATCH", escape_glob(prefix) + b"*", b"COUNT", b"10000")
            found += names
            if cursor == b"0":
                break
    return list(dict.fromkeys(found))
