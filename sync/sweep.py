"""After a snapshot: remove from the target what the source does not have, without a flush.

Keys are looked for by SCAN on a connection of its own, and removed through the session in tagged batches, so that a
reverse link does not send the removals back. Values are not read. Only keys that map back to this link's source are
touched: others belong to other tasks into the same target. Function libraries are removed likewise where the whole
target is this task's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from canal.cluster import slot_of
from canal.errors import CanalError, Refused
from canal.rdb.target import Target
from canal.resp import encode
from sync.batch import Batch
from sync.keyset import KeySet
from sync.tag import RESERVED, is_reserved
from sync.target.cluster.scanning import nodes_of, reserved_like
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info
from sync.transform import Transform
from sync.unit import Piece, Unit

if TYPE_CHECKING:
    from sync.session import Session

log = logging.getLogger(__name__)

_SCAN_COUNT: Final = 1000
_REMEMBERED: Final = 100_000
"""Stale keys up to this many are remembered between counting and removing; more are looked for again."""
_FIFTH: Final = 5


class Sweep:
    """One sweep. ``mark`` makes the batches that carry the snapshot's position and progress."""

    def __init__(
        self,
        session: Session,
        keys: KeySet,
        mark: Callable[[], Batch],
        transform: Transform,
        target: Target,
        libraries: set[bytes] | None = None,
    ) -> None:
        """``libraries``: the names of the source's function libraries; None where they say nothing of the target's."""
        self._session = session
        self._keys = keys
        self._libraries = libraries if transform.identity and target.at_least((7, 0)) else None
        self._mark = mark
        self._transform = transform
        self._slots = None if session.slots is None else session.slots.mine
        # Redis 5 can crash when it frees a stream in the background
        self._verb = b"UNLINK" if target.at_least((6, 0)) else b"DEL"

    async def run(self, *, delete: bool, guarded: bool) -> None:
        """Count what is stale, then remove it or leave it. ``guarded``: raise Refused rather than remove too much."""
        status = self._session.status
        conn = await connect(self._session.config.target)
        try:
            stale, ours, remembered = await self._count(conn)
            if not delete:
                status.snapshot.stale_kept = stale
                return
            libraries = await self._stale_libraries(conn)
            if guarded and (stale or libraries):
                self._guard(stale, ours, libraries)
            if stale:
                log.info("removing %d of %d keys that the source does not have", stale, ours)
            if stale <= len(remembered):
                await self._remove_stale(remembered)
            else:
                async for db, names in self._stale(conn):
                    await self._remove_stale([(db, name) for name in names])
            if libraries:
                log.info("removing function libraries that the source does not have: %s", libraries)
                await self._remove_all([(0, name) for name in libraries], [b"FUNCTION", b"DELETE"])
            await self._session.drain()
        finally:
            conn.close()

    def _guard(self, stale: int, ours: int, libraries: list[bytes]) -> None:
        """A source that restarted empty must not wipe the copy."""
        empty = len(self._keys) == 0
        if not empty and stale * _FIFTH <= ours:
            return
        what = "the source's snapshot is empty" if empty else "the source's snapshot lacks much of what the target has"
        also = f" and {len(libraries)} function libraries" if libraries else ""
        raise Refused(
            f"{what}: the resync would remove {stale} of {ours} keys{also} of target "
            f"{self._session.config.target.label}. Did the source lose its data? Nothing was removed. To carry the "
            "removal out, confirm it: task resync --confirm, or run --confirm-resync; to leave the keys, use "
            "stale_keys: keep"
        )

    async def _count(self, conn: Connection) -> tuple[int, int, list[tuple[int, bytes]]]:
        """(stale keys, keys of this link, the first stale ones)."""
        stale = ours = 0
        remembered: list[tuple[int, bytes]] = []
        await asyncio.to_thread(self._keys.seal)
        async for db, names, kinds in self._scan(conn):
            found, count = self._look(db, names, kinds)
            ours += count
            stale += len(found)
            if len(remembered) < _REMEMBERED:
                remembered += [(db, name) for name in found]
        return stale, ours, remembered

    async def _stale_libraries(self, conn: Connection) -> list[bytes]:
        """Of the target, where the source's are known; none where they may not be listed."""
        if self._libraries is None or self._slots is not None:
            return []
        found: set[bytes] = set()
        for node in nodes_of(conn):
            try:
                listed = await node.call(b"FUNCTION", b"LIST")
            except CanalError as error:
                log.info("which function libraries the target has is not known: %s", error)
                return []
            found |= {dict(zip(one[::2], one[1::2], strict=True))[b"library_name"] for one in listed}
        return sorted(found - self._libraries)

    async def _stale(self, conn: Connection) -> AsyncIterator[tuple[int, list[bytes]]]:
        async for db, names, kinds in self._scan(conn):
            yield db, self._look(db, names, kinds)[0]

    def _look(self, db: int, names: list[bytes], kinds: list[str]) -> tuple[list[bytes], int]:
        """(the stale ones of these keys, how many of them are this link's)."""
        transform, keys = self._transform, self._keys
        slots = self._slots
        if slots is not None and transform.identity:  # other shards of the cluster feed the same target
            found = [name for name, _ in zip(names, kinds, strict=True) if slot_of(name) in slots]
            names = [name for name in found if not name.startswith(RESERVED)]
            return keys.missing(db, names), len(names)
        if transform.identity:
            names = [name for name in names if not name.startswith(RESERVED)]
            return keys.missing(db, names), len(names)
        stale, ours = [], 0
        for name, kind in zip(names, kinds, strict=True):
            at_source = None if is_reserved(name) else transform.invert(db, name, kind)
            if at_source is not None and (slots is None or slot_of(at_source[1]) in slots):
                ours += 1
                if at_source not in keys:
                    stale.append(name)
        return stale, ours

    async def _scan(self, conn: Connection) -> AsyncIterator[tuple[int, list[bytes], list[str]]]:
        """(database, keys, their types where filters ask for them, else empty); some keys come more than once."""
        for node in nodes_of(conn):
            for db in await _databases(node):
                await node.call(b"SELECT", b"%d" % db)
                cursor = b"0"
                while True:
                    cursor, names = await node.call(b"SCAN", cursor, b"COUNT", b"%d" % _SCAN_COUNT)
                    kinds = [""] * len(names)
                    if self._transform.needs_type and names:
                        kinds = [_word(kind) for kind in await node.calls([[b"TYPE", name] for name in names])]
                    yield db, names, kinds
                    if cursor == b"0":
                        break

    async def _remove_stale(self, keys: list[tuple[int, bytes]]) -> None:
        await self._remove_all(keys)
        self._session.status.snapshot.stale_deleted += len(keys)

    async def tidy(self, temporary: bytes) -> None:
        """Remove what an earlier, interrupted snapshot left of a value that it made under the temporary name."""
        conn = await connect(self._session.config.target)
        try:
            found = [(0, name) for name in await reserved_like(conn, temporary + b":")]
            for db in await _databases(conn):
                await conn.call(b"SELECT", b"%d" % db)
                if await conn.call(b"EXISTS", temporary):
                    found.append((db, temporary))
        finally:
            conn.close()
        await self._remove_all(found)

    async def _remove_all(self, keys: list[tuple[int, bytes]], verb: list[bytes] | None = None) -> None:
        """``verb``: of what is no key, and which scripts may not call."""
        limit = self._session.config.batch_commands
        for begin in range(0, len(keys), limit):
            units = [
                Unit(0, db, [Piece(db, encode([*(verb or [self._verb]), name]), 1)], 0, atomic=True)
                for db, name in keys[begin : begin + limit]
            ]
            batch = self._mark()
            batch.noscript = verb is not None
            batch.units, batch.count, batch.size = units, len(units), sum(unit.size for unit in units)
            await self._session.submit(batch)


async def _databases(conn: Connection) -> list[int]:
    """Those that hold keys."""
    info = parse_info(await conn.call(b"INFO", b"keyspace"))
    return [int(name[2:]) for name in info if name.startswith("db") and name[2:].isdigit()]


def _word(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
