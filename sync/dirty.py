"""What a two-way link's source writes while its journal cannot take all of it: hashes of the keys, with no gap.

A journal that has less room left than it holds unapplied is read from what the target's side is known to have seen, and
once it is full the stream beyond it, by a connection of its own, keys alone (`sync.digest`). So when the source no
longer has the stream from the journal's end, the resync knows which keys one side alone has written (`sync.reunion`).
The set and how far it knows are on disk (`sync.dirtyfile`): after a crash the stream is asked for from there. Where a
piece is missing nothing is known, and that is said.

While the target can be reached the set is shown there (`sync.dirtyshare`), so that the link back leaves alone what was
deleted here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from canal.capture import Capture
from canal.errors import CanalError
from canal.journal.chunk import Chunk, JournalDamaged
from canal.journal.cursor import Cursor
from canal.position import Position
from sync.beyond import Beyond
from sync.config import LinkConfig
from sync.digest import Digest, Expired
from sync.dirtyfile import DirtyFile, Stored
from sync.dirtyset import DirtySet
from sync.dirtyshare import dirty_key, share, unshare
from sync.status import LinkStatus
from sync.target.connection import Connection, connect
from sync.windowfile import Boundary

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
_SAVE_S: Final = 1.0
_SHARE_S: Final = 5.0
_SHARED_PER_S: Final = 50_000  # keys; a large set is shown less often
_CALM_S: Final = 3.0
_REACH_S: Final = 10.0
_READ_BYTES: Final = 256 << 10
_NEAR_BYTES: Final = 64 << 10


class DirtyKeys:
    """See the module's text. ``run`` is a task beside the link's. ``learn``: after a restart, the source's deadlines,
    so that ``expired`` can tell its deletes. ``seen``: how much of the source's stream the target's side is known to
    have, -1 when it is not.
    """

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        expired: Expired,
        learn: Callable[[], Coroutine[Any, Any, None]],
        seen: Callable[[], int],
    ) -> None:
        self._config, self._status, self._capture = config, status, capture
        self._expired, self._learn, self._seen = expired, learn, seen
        self.due: Callable[[], bool] = lambda: False  # is a reunion, which needs the set?
        self._file = DirtyFile(config.state_dir)
        self._digest: Digest | None = None
        self._lost = ""  # why nothing is known
        self._cursor: Cursor | None = None
        self._reading = False  # a thread has the cursor
        self._beyond: Beyond | None = None  # the connection that reads what the journal cannot take
        self._following: asyncio.Task[None] | None = None
        self._wanted: Position | None = None  # the snapshot up to which all has to be known
        self._calm_since = 0.0
        self._unsaved = False  # the file has to be begun
        self._saved: Position | None = None
        self._next_save = self._next_share = 0.0
        self._shared = -1  # keys shown at the target
        self._final = False  # what is shown there is what the reunion goes by
        self._showing = asyncio.Lock()
        self._resume()

    # --- for the reunion

    async def upto(self, position: Position) -> DirtySet | str:
        """The keys written since the other side last saw, up to ``position`` at least; or why nobody knows."""
        self._wanted = position
        try:
            until = time.monotonic() + _REACH_S
            while self._digest is not None and not self._lost:
                if self._digest.next >= position.offset:
                    break
                if time.monotonic() > until:
                    self._lose(f"the stream up to {position} could not be had")
                await asyncio.sleep(_LOOK_S)
        finally:
            self._wanted = None
        digest = self._digest
        if self._lost or digest is None:
            return self._lost or "no keys were noted: the link was lost without its journal being full"
        if digest.replid != position.replid:
            self._lose(f"the source is at {position}, of another history than what was noted, {digest.position}")
            return self._lost
        return digest.keys

    async def show(self, conn: Connection, keys: DirtySet | None) -> None:
        """Show at the target what the reunion goes by; None: nobody knows. Raises what `Connection.call` raises."""
        async with self._showing:
            await self._show_there(conn, keys, final=True)
            self._final = True

    def forget(self) -> None:
        """Both sides are equal again, or nothing was lost."""
        self._leave()
        self._digest, self._lost, self._saved = None, "", None
        self._final, self._shared = False, -1
        self._file.forget()
        self._show()

    # --- the task

    def _resume(self) -> None:
        """What an earlier process has left."""
        keys = DirtySet(self._config.window_max_keys)
        stored = self._file.load(keys)
        if stored is None:
            self._file.forget()
        elif stored.lost:
            self._lost = stored.lost
        else:
            self._digest = self._new_digest(keys, stored.position, stored.db)
            self._saved = stored.position
            log.info("%d keys written since the other side last saw, up to %s", len(keys), stored.position)
        self._show()

    def _new_digest(self, keys: DirtySet, position: Position, db: int, after: int = -1) -> Digest:
        config = self._config
        drop = frozenset({config.target_dc, *config.direct})
        return Digest(keys, position, db, config.source_dc, drop, self._expired, after)

    async def run(self) -> None:
        """Until cancelled."""
        learning = asyncio.create_task(self._learn()) if self._digest is not None else None
        try:
            while True:
                await self._step()
                await asyncio.sleep(_LOOK_S)
        finally:
            if learning is not None:
                learning.cancel()
            self._leave()
            self._save()

    async def _step(self) -> None:
        self._calm_since = (self._calm_since or time.monotonic()) if self._is_calm() else 0.0
        if self._calm_since and time.monotonic() - self._calm_since > _CALM_S and self._wanted is None:
            self._leave()
            if not self.due() and (self._digest is not None or self._lost):
                log.info("the journal has all of the stream again: the keys noted are not needed")
                await self._unshare()
                self.forget()
        elif self._digest is None and not self._lost and self._presses():
            self._begin()
        elif self._digest is not None and not self._lost:
            await self._advance(self._digest)
        now = time.monotonic()
        if now >= self._next_save:
            self._next_save = now + _SAVE_S
            self._save()
        if now >= self._next_share and self._status.target_connected:
            await self._share()
        self._show()

    def _unapplied(self) -> int:
        journal = self._capture.journal
        return journal.end - max(self._status.applied_offset, journal.start)

    def _presses(self) -> bool:
        """Is the journal full, or will it be?"""
        if not self._capture.journal.positioned or self._capture.spool.position is not None:
            return False
        room = self._status.journal_room_bytes
        return self._capture.status.full is not None or (room is not None and room < self._unapplied())

    def _is_calm(self) -> bool:
        """Does the link flow again, with all that the source has written in the journal?"""
        status, capture = self._status, self._capture
        flows = status.state == "streaming" and status.target_connected and capture.status.connected
        if not flows or capture.status.full is not None or capture.spool.position is not None:
            return False
        return self._unapplied() < _NEAR_BYTES and not self._presses()

    def _begin(self) -> None:
        """From what the other side is known to have seen."""
        capture = self._capture
        boundary = Boundary.load(self._config.state_dir)
        seen = self._seen()
        if boundary is None or boundary.floor > seen or not capture.journal.covers(boundary.place):
            self._lose("the journal does not hold all that the other side has not seen")
            return
        keys = DirtySet(self._config.window_max_keys)
        self._digest = self._new_digest(keys, boundary.place, boundary.db, seen)
        self._unsaved = True
        log.warning(
            "the journal will not hold all that the target lacks: keys written from %s on are noted, so that a resync "
            "knows which side wrote them",
            Position(boundary.place.replid, max(seen, boundary.place.offset)),
        )

    async def _advance(self, digest: Digest) -> None:
        """Go on: in the journal as far as that goes, then beyond it."""
        if self._beyond is not None:
            if self._beyond.error:
                self._lose(self._beyond.error)
            elif self._following is not None and self._following.done():
                error = None if self._following.cancelled() else self._following.exception()
                self._lose(f"the source cannot be followed: {error}")
            return
        journal = self._capture.journal
        here = Position(digest.replid, digest.next)
        if journal.covers(here):
            await self._read(digest)
            here = Position(digest.replid, digest.next)
            if self._lost or (journal.covers(here) and digest.next < journal.durable_end):
                return
        if self._capture.status.full is not None or self._wanted is not None or not journal.covers(here):
            self._beyond = Beyond(self._config, digest)
            self._following = asyncio.create_task(self._beyond.run(), name="beyond the journal")

    async def _read(self, digest: Digest) -> None:
        """What the journal has, for so long at a time."""
        journal, until = self._capture.journal, time.monotonic() + _LOOK_S
        while time.monotonic() < until and digest is self._digest and not self._lost:
            generation = journal.generation
            try:
                chunks = await self._chunks(digest.next)
                if generation != journal.generation or not chunks or digest is not self._digest:
                    return
                for chunk in chunks:
                    digest.feed(chunk.data, chunk.received_ms)
            except JournalDamaged as error:
                if journal.covers(Position(digest.replid, digest.next)):
                    self._lose(str(error))
                return
            except CanalError as error:
                self._lose(str(error))
                return
            digest.replid = journal.replid_at(digest.next) or digest.replid
            await asyncio.sleep(0)

    async def _chunks(self, offset: int) -> list[Chunk]:
        if self._cursor is None:
            self._cursor = self._capture.journal.cursor()
        cursor, self._reading = self._cursor, True
        try:
            return await asyncio.to_thread(cursor.read, offset, _READ_BYTES)
        finally:
            self._reading = False
            if cursor is not self._cursor:
                cursor.forget()

    def _leave(self) -> None:
        """Neither file nor connection stays open."""
        if self._beyond is not None:
            self._beyond.stop()
            self._beyond = None
        if self._following is not None:
            self._following.cancel()
            self._following = None
        if self._cursor is not None and not self._reading:
            self._cursor.forget()
        self._cursor = None

    def _lose(self, why: str) -> None:
        """Nothing is known from here on, until both sides are equal again."""
        log.warning("it is not known which keys were written since the other side last saw: %s", why)
        self._leave()
        self._lost = why
        self._unsaved = True
        if self._digest is None:
            self._digest = self._new_digest(DirtySet(), self._capture.journal.position or Position("0" * 40, 0), 0)
        self._save()

    def _save(self) -> None:
        digest = self._digest
        if digest is None or (digest.position == self._saved and not self._unsaved):
            return
        stored = Stored(digest.position, digest.db, self._lost)
        try:
            if self._unsaved:
                self._file.begin(stored, digest.keys)
            else:
                self._file.go_on(stored, digest.keys)
        except OSError as error:
            self._unsaved = True  # what was taken out of the set as new has to go with the rest
            log.warning("the keys noted cannot be saved: %s", error)
            return
        self._unsaved, self._saved = False, digest.position
        if self._lost:
            self._digest = None

    async def _share(self) -> None:
        """For the link back: what it brings of these keys is known to be older, or disputed."""
        digest = self._digest
        if digest is None or self._lost or self._final or self.due() or len(digest.keys) == self._shared:
            return
        self._next_share = time.monotonic() + max(_SHARE_S, len(digest.keys) / _SHARED_PER_S)
        try:
            conn = await connect(self._config.target)
            try:
                async with self._showing:
                    if not self._final and digest is self._digest and not self._lost:
                        await self._show_there(conn, digest.keys)
            finally:
                conn.close()
        except CanalError as error:
            log.info("the keys noted are not shown at the target yet: %s", error)

    async def _show_there(self, conn: Connection, keys: DirtySet | None, *, final: bool = False) -> None:
        config, count = self._config, -1 if keys is None else len(keys)
        between = config.source_dc, config.target_dc
        self._shared = -1
        await share(conn, dirty_key(config.task, config.shard), between, keys, final=final)
        self._shared = count

    async def _unshare(self) -> None:
        if self._shared < 0:
            return
        try:
            conn = await connect(self._config.target)
            try:
                await unshare(conn, dirty_key(self._config.task, self._config.shard))
            finally:
                conn.close()
        except CanalError as error:
            log.info("the keys noted are still shown at the target: %s", error)

    def _show(self) -> None:
        self._status.dirty_keys = 0 if self._digest is None or self._lost else len(self._digest.keys)
        if self._lost:
            self._status.dirty = f"not known: {self._lost}"
        else:
            self._status.dirty = "" if self._digest is None else f"known up to {self._digest.position}"
