"""Stretches of a late link's stream that wait until their keys have been looked at (`sync.ttl`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from canal.journal.chunk import Chunk
from sync.look import Look, Stretch
from sync.ttl import TtlGuard
from sync.unit import UnitReader

STRETCH_BYTES: Final = 1 << 20
"""Looked at in one go: large enough that the round trip costs little, small enough for memory and event loop."""


class Lookahead:
    """At most one stretch waits. It is looked at while those before it are on their way to the target."""

    def __init__(self, guard: TtlGuard, units: UnitReader, wake: Callable[[], None]) -> None:
        self._guard = guard
        self._units = units
        self._wake = wake
        self._chunks: list[Chunk] = []
        self._bytes = 0
        self._stretch = Stretch()
        self._task: asyncio.Task[Look] | None = None
        self.before: list[tuple[int, list[bytes]]] = []
        """Commands for the target that have to come before the stretch that was ready."""

    @property
    def waiting(self) -> bool:
        """Is there a stretch that has not been fed?"""
        return bool(self._chunks)

    @property
    def full(self) -> bool:
        """Must nothing be added now?"""
        return self._task is not None or self._bytes >= STRETCH_BYTES

    def takes(self, chunk: Chunk) -> bool:
        """Keep this chunk back if it has to wait; False: it can be fed at once."""
        if not self._chunks and not self._guard.late(chunk.received_ms):
            return False
        self._chunks.append(chunk)
        self._bytes += len(chunk.data)
        return True

    def ready(self, idle: bool) -> list[Chunk]:
        """The chunks of the stretch once they can be fed, else nothing. ``idle``: nothing is on its way."""
        if not self._chunks:
            return []
        guard = self._guard
        task = self._task
        if task is None:
            if not guard.may_look(idle):
                return []
            if not guard.late(self._chunks[0].received_ms):
                self.before = []
                return self._taken()
            units = self._units
            buf, db = units.ahead(b"".join(chunk.data for chunk in self._chunks))
            self._stretch = Stretch.of(buf, db, units.rules.drop, within=units.dropping(buf))
            stand = guard.wanted(self._stretch)
            if stand or guard.poll_due:
                self._task = asyncio.create_task(guard.look(stand, self._stretch.persists))
                self._task.add_done_callback(lambda _: self._wake())
                return []
            look = Look()
        elif not task.done():
            return []
        else:
            look = task.result()
        last = self._chunks[-1]
        self.before = guard.take(look, self._stretch, last.offset + len(last.data))
        return self._taken()

    def close(self) -> None:
        """Give up what waits: the next session starts from the checkpoint."""
        if self._task is not None:
            self._task.cancel()

    def _taken(self) -> list[Chunk]:
        chunks, self._chunks, self._bytes, self._task = self._chunks, [], 0, None
        return chunks
