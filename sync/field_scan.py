"""After a restart: learn the deadlines of the hash fields of the source, before deletes are judged (`fieldexpiry`).

INFO says for each database how many hashes have such fields, so that nothing is looked at where there are none. Names
of fields are read, values are not, and nothing of small hashes whose encoding says that they have no deadlines.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import CanalError, PeerError
from sync.deadline_scan import in_databases
from sync.fieldexpiry import FieldDeadlines
from sync.tag import is_reserved
from sync.target.connection import Connection

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
    return await in_databases(
        source, lambda keyspace: _SOME.search(keyspace) is not None, partial(_scan, deadlines=deadlines)
    )


async def _scan(conn: Connection, db: int, deadlines: FieldDeadlines) -> int:
    await conn.call(b"SELECT", b"%d" % db)
    found, cursor = 0, b"0"
    while True:
        cursor, names = await conn.call(b"SCAN", cursor, b"COUNT", b"%d" % _COUNT, b"TYPE", b"hash")
        encodings = await conn.calls([[b"OBJECT", b"ENCODING", name] for name in names]) if names else []
        hashes = {
            name: b"0"
            for name, encoding in zip(names, encodings, strict=True)
            if encoding not in _PACKED and not isinstance(encoding, hiredis.ReplyError) and not is_reserved(name)
        }
        while hashes:  # a page of each, until all are through
            found += await _pages(conn, db, hashes, deadlines)
        if cursor == b"0":
            return found


async def _pages(conn: Connection, db: int, hashes: dict[bytes, bytes], deadlines: FieldDeadlines) -> int:
    """Take up the next page of fields of each of these hashes (→ cursor); those that are through are removed."""
    asked = list(hashes.items())
    pages = await conn.calls([[b"HSCAN", key, at, b"COUNT", b"%d" % _COUNT, b"NOVALUES"] for key, at in asked])
    parts: list[tuple[bytes, list[bytes]]] = []
    for (key, _), page in zip(asked, pages, strict=True):
        if isinstance(page, hiredis.ReplyError):
            if not str(page).startswith("WRONGTYPE"):  # it is no hash any more
                raise PeerError(f"source {conn.endpoint.label}: HSCAN: {page}")
            page = [b"0", []]
        hashes[key], fields = page
        if hashes[key] == b"0":
            del hashes[key]
        parts += [(key, fields[at : at + _COUNT]) for at in range(0, len(fields), _COUNT)]
    if not parts:
        return 0
    times = await conn.calls([[b"HPEXPIRETIME", key, b"FIELDS", b"%d" % len(names), *names] for key, names in parts])
    found = 0
    for (key, names), ends in zip(parts, times, strict=True):
        for field, at in zip(names, ends if isinstance(ends, list) else (), strict=False):
            if at > 0:
                deadlines.set((db, key), field, at)
                found += 1
    return found


__all__ = ["learn_fields", "scan_fields"]
