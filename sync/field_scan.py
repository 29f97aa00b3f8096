"""After a restart: learn the deadlines of the hash fields of the source, before deletes are judged (`fieldexpiry`).

INFO says for each database how many hashes have such fields, so that nothing is looked at where there are none. Names
of fields are read, values are not, and nothing of small hashes whose encoding says that they have no deadlines.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import CanalError, PeerError
from sync.fieldexpiry import FieldDeadlines
from sync.tag import is_reserved
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

log = logging.getLogger(__name__)

_COUNT: Final = 1000
_SOME: Final = re.compile(r"(?:subexpiry|keys_with_volatile_items)=[1-9]")
_PACKED: Final = (b"listpack", b"ziplist", b"zipmap")  # encodings in which a field has no deadline


async def learn_fields(source: Endpoint, deadlines: FieldDeadlines) -> bool:
    """As `scan_fields`; where that is not possible the log says so, and deletes of fields go unjudged until a field
    gets its deadline anew. True: there is nothing more to be learned.
    """
    try:
        found = await scan_fields(source, deadlines)
    except CanalError as error:
        log.warning("the deadlines of the source's hash fields are not known, their deletes go unjudged: %s", error)
        return True
    if found:
        log.info("%d hash fields of the source have a deadline", found)
    return True


async def scan_fields(source: Endpoint, deadlines: FieldDeadlines) -> int:
    """Take up the deadline of every hash field that has one; how many there were. Raises Unreachable and the like."""
    conn = await connect(source, who="source")
    try:
        info = parse_info(await conn.call(b"INFO", b"keyspace"))
        found = 0
        for name, value in info.items():
            if name.startswith("db") and name[2:].isdigit() and _SOME.search(value):
                found += await _scan(conn, int(name[2:]), deadlines)
        return found
    finally:
        conn.close()


async def _scan(conn: Connection, db: int, deadlines: FieldDeadlines) -> int:
    await conn.call(b"SELECT", b"%d" % db)
    found, cursor = 0, b"0"
    while True:
        cursor, names = await conn.call(b"SCAN", cursor, b"COUNT", b"%d" % _COUNT, b"TYPE", b"hash")
        encodings = await conn.calls([[b"OBJECT", b"ENCODING", name] for name in names]) if names else []
        for name, encoding in zip(names, encodings, strict=True):
            if encoding in _PACKED or isinstance(encoding, hiredis.ReplyError) or is_reserved(name):
                continue
            found += await _hash(conn, (db, name), deadlines)
        if cursor == b"0":
            return found


async def _hash(conn: Connection, place: tuple[int, bytes], deadlines: FieldDeadlines) -> int:
    found, cursor = 0, b"0"
    while True:
        (page,) = await conn.calls([[b"HSCAN", place[1], cursor, b"COUNT", b"%d" % _COUNT, b"NOVALUES"]])
        if isinstance(page, hiredis.ReplyError):
            if str(page).startswith("WRONGTYPE"):
                return found  # it is no hash any more
            raise PeerError(f"source {conn.endpoint.label}: HSCAN: {page}")
        cursor, fields = page
        for begin in range(0, len(fields), _COUNT):
            names = fields[begin : begin + _COUNT]
            (times,) = await conn.calls([[b"HPEXPIRETIME", place[1], b"FIELDS", b"%d" % len(names), *names]])
            for field, at in zip(names, times if isinstance(times, list) else (), strict=False):
                if at > 0:
                    deadlines.set(place, field, at)
                    found += 1
        if cursor == b"0":
            return found


__all__ = ["learn_fields", "scan_fields"]
