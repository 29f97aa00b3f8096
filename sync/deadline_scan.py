"""After a restart: learn the source's deadlines anew by SCAN, before deletes are judged (`sync.expiry`)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import hiredis

from canal.endpoint import Endpoint
from sync.expiry import Deadlines
from sync.tag import is_reserved
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

_COUNT: Final = 1000


async def scan_deadlines(source: Endpoint, deadlines: Deadlines) -> int:
    """Take up the deadline of every key that has one; how many there were. Values are not read.

    Raises Unreachable and the like. Databases in which nothing expires are passed over.
    """
    return await in_databases(source, lambda keyspace: "expires=0" not in keyspace, partial(_scan, deadlines=deadlines))


async def in_databases(
    source: Endpoint, concerned: Callable[[str], bool], scan: Callable[[Connection, int], Awaitable[int]]
) -> int:
    """The sum of what ``scan`` finds in the databases whose line of INFO keyspace says that they are ``concerned``."""
    conn = await connect(source, who="source")
    try:
        info = parse_info(await conn.call(b"INFO", b"keyspace"))
        found = 0
        for name, keyspace in info.items():
            if name.startswith("db") and name[2:].isdigit() and concerned(keyspace):
                found += await scan(conn, int(name[2:]))
        return found
    finally:
        conn.close()


async def _scan(conn: Connection, db: int, deadlines: Deadlines) -> int:
    await conn.call(b"SELECT", b"%d" % db)
    found = 0
    cursor = b"0"
    while True:
        cursor, names = await conn.call(b"SCAN", cursor, b"COUNT", b"%d" % _COUNT)
        now = time.time_ns() // 1_000_000
        lives = await conn.calls([[b"PTTL", name] for name in names]) if names else []
        for name, left in zip(names, lives, strict=True):
            if not isinstance(left, hiredis.ReplyError) and left > 0 and not is_reserved(name):
                deadlines.set((db, name), -(now + left))
                found += 1
        if cursor == b"0":
            return found
