"""Causal order in a mesh: a batch waits for the writes of third datacenters that its author had seen.

X writes a key; Y has it and changes it; at Z, Y's change can arrive before X's write. Nothing is concurrent, and Z
would differ. So a batch whose vector is, for a third datacenter, beyond what the target has applied from it waits: the
target's checkpoint hashes say how far that is. Only datacenters with a task of their own to this target are waited for:
all else comes through this link, in order. The wait is bounded; afterwards that datacenter is not waited for until the
target has caught up with it, and what went ahead is echoed then (`sync.converge.Converge.broke_order`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import CanalError
from sync.seen import parse_position, parse_seen
from sync.tag import INDEX, PREFIX
from sync.target.connection import Connection, connect

log = logging.getLogger(__name__)

_POLL_S: Final = 0.02
_RETRY_S: Final = 0.5


class Order:
    """Of one session. ``direct``: the datacenters to wait for. ``wake`` is called when there is news, ``waits`` when a
    batch begins to wait.
    """

    def __init__(
        self,
        target: Endpoint,
        direct: tuple[str, ...],
        wait_s: float,
        wake: Callable[[], None],
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        self._waits = waits
        self.broken: dict[str, int] = {}  # datacenter -> offset that the target does not have yet
        self._target = target
        self._direct = direct
        self._wait_s = wait_s
        self._wake = wake
        self._applied: dict[str, int] = {}
        self._since = 0.0
        self._good = ""  # a vector that is known to be satisfied
        self._polling: asyncio.Task[None] | None = None

    def holds(self, seen: str) -> bool:
        """Must a batch of this vector wait? After that `ahead_of` says what it goes before."""
        if seen == self._good or not seen:
            return False
        missing = self._missing(seen)
        if not missing:
            self._good = seen
            self._since = 0.0
            return False
        waited = [name for name in missing if name not in self.broken]
        now = time.monotonic()
        if waited and not self._since:
            self._since = now
            self._waits()
        if waited and now - self._since < self._wait_s:
            self._poll()
            return True
        for name in waited:
            log.warning("waited %.1f s for the writes of %s at the target: going on before them", self._wait_s, name)
        self._since = 0.0
        for name, offset in missing.items():
            self.broken[name] = max(offset, self.broken.get(name, 0))
        self._poll()
        return False

    def ahead_of(self, seen: str) -> dict[str, int]:
        """What the target lacks of that vector: datacenter → offset."""
        return self._missing(seen) if self.broken and seen != self._good else {}

    def _missing(self, seen: str) -> dict[str, int]:
        vector = parse_seen(seen)
        for name in [name for name, offset in self.broken.items() if self._applied.get(name, -1) >= offset]:
            del self.broken[name]
        return {
            name: vector[name][1]
            for name in self._direct
            if name in vector and vector[name][1] > self._applied.get(name, -1)
        }

    def _poll(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Ask until cancelled or nothing is waited for."""
        conn: Connection | None = None
        try:
            while self._since or self.broken:
                try:
                    if conn is None or conn.closed is not None:
                        conn = await connect(self._target)
                    self._applied.update(await applied(conn))
                    self._wake()
                    await asyncio.sleep(_POLL_S if self._since else _RETRY_S)
                except CanalError:
                    await asyncio.sleep(_RETRY_S)
        finally:
            if conn is not None:
                conn.close()

    async def close(self) -> None:
        """End the asking."""
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling


async def applied(conn: Connection) -> dict[str, int]:
    """How far the streams of other datacenters are applied at a server, by its checkpoint hashes."""
    keys = [key for key in await conn.call(b"SMEMBERS", INDEX) if key.startswith(PREFIX)]
    commands = [[b"HMGET", key, b"origin", b"via", b"pos", b"phase"] for key in keys]
    replies: list[Any] = await conn.calls(commands) if commands else []
    out: dict[str, int] = {}
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            continue
        origin, via, pos, phase = reply
        position = parse_position(pos or b"")
        if position is not None and phase == b"stream":
            name = (via or origin or b"").decode("utf-8", "replace")
            out[name] = max(position[1], out.get(name, -1))
    return out
