"""Before a home echoes a key: does its datacenter have what the other side has written until now?

An echo is the home's whole state. At the other side it sets back what the home had not seen of the key; as a rule that
follows by the link back, is a conflict, and the next echo has all. Where the link back is lost just then for good (its
source restarted without its replication history, its journal thrown away) that write was acknowledged and is nowhere
any more. So an echo is not made in a moment in which the home is late: what is at stake is then what was written while
the echo was on its way, and not all of an outage of the link back.

`Abreast` asks the other side where its stream stands and waits until a link back has applied that much here; `OwnLag`
does the same for a link's own target, without asking anybody. Neither waits for ever: a link that is stopped must not
keep the sides from converging.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.position import Position
from sync.evidence import links_from
from sync.target.connection import Connection, connect
from sync.target.fence import ServerInfo, server_info

log = logging.getLogger(__name__)

MOST_S: Final = 30.0
_LOOK_S: Final = 0.02
_TURN_S: Final = 0.5  # so long at a time, since the caller has other things to look at
_SLACK_BYTES: Final = 512  # PINGs and tags, which a link does not commit by themselves
_IDLE_S: Final = 10.0
"""A connection of which nothing was asked for so long is closed."""
_PINGS_BYTES_S: Final = 2.0  # of an idle source: 14 bytes every ten seconds as a rule


class Abreast:
    """``other``: the server of datacenter ``datacenter``, whose stream a link back brings here. ``most_s``: so long is
    waited for what it had written; then echoes are made as they come, until the link back has caught up once.
    ``fresh_s``: for so long an answer holds.
    """

    def __init__(self, other: Endpoint, datacenter: str, most_s: float = MOST_S, fresh_s: float = 0.2) -> None:
        self._other, self._datacenter, self._most_s, self._fresh_s = other, datacenter, most_s, fresh_s
        self._conn: Connection | None = None
        self._goal: ServerInfo | None = None
        self._since = 0.0  # monotonic, when it began to wait; 0 while it does not
        self._passed = 0.0
        self._gave_up = False
        self._leaving: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Leave the other side, until it is asked again."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    async def late(self, here: Connection) -> bool:
        """Does the server of ``here`` lack what the other side had when this was asked first? After half a second at
        most; ask again then. False where no link comes back, for a cluster, and when it has taken too long.

        Raises Unreachable when ``here`` is lost.
        """
        now = time.monotonic()
        if here.several or now - self._passed < self._fresh_s:
            return False
        self._since = self._since or now
        until = now + (0.0 if self._gave_up else _TURN_S)
        while True:
            try:
                if await self._reached(here):
                    self._end(gave_up=False)
                    return False
            except _Away as error:
                log.debug("where datacenter %s stands is not known: %s", self._datacenter, error)
            now = time.monotonic()
            if not self._gave_up and now - self._since > self._most_s:
                log.info(
                    "what datacenter %s wrote has not come by the link back for %g s: echoes go on without it",
                    *(self._datacenter, self._most_s),
                )
                self._end(gave_up=True)
            if self._gave_up:
                return False
            if now >= until:
                return True
            await asyncio.sleep(_LOOK_S)

    def _end(self, *, gave_up: bool) -> None:
        self._goal, self._since, self._gave_up = None, 0.0, gave_up
        self._passed = time.monotonic()

    async def _reached(self, here: Connection) -> bool:
        """Raises `_Away` when the other side does not answer, and what ``here`` raises."""
        back = await links_from(here, self._datacenter)
        if not back:
            return True
        goal = self._goal = self._goal or await self._ask()
        places = [told for told in back if told.position is not None and told.position.replid == goal.replid]
        ahead = [goal.offset - told.position.offset - _unwritten(told.at_ms) for told in places if told.position]
        if not ahead:
            self._goal = None  # it has another history by now: ask again
        return bool(ahead) and max(ahead) <= 0

    async def _ask(self) -> ServerInfo:
        try:
            if self._conn is None or self._conn.closed is not None:
                self._conn = await connect(self._other)
            if self._leaving is not None:
                self._leaving.cancel()
            self._leaving = asyncio.get_running_loop().call_later(_IDLE_S, self.close)
            return server_info(await self._conn.call(b"INFO", timeout=5.0))
        except CanalError as error:
            self.close()
            raise _Away(str(error)) from None


class _Away(CanalError):
    """The other side does not answer."""


def _unwritten(at_ms: int) -> float:
    """Bytes of a stream that its link need not have committed since then, though it has all writes in them."""
    return _SLACK_BYTES + _PINGS_BYTES_S * max(0.0, time.time() - at_ms / 1000)


class OwnLag:
    """The same of a link's target, as the link itself knows it. ``stands``: the newest byte received, None while the
    source is not connected; ``applied``: the offset up to which the target has all.
    """

    def __init__(
        self,
        stands: Callable[[], Position | None],
        applied: Callable[[], int],
        most_s: float = MOST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stands, self._applied, self._most_s, self._clock = stands, applied, most_s, clock
        self._goal: Position | None = None
        self._since: float | None = None
        self._gave_up = False

    def late(self) -> bool:
        """Does the target lack what had been received when this was asked first?"""
        now, stands = self._clock(), self._stands()
        if self._since is None:
            self._since = now
        if self._goal is None or (stands is not None and stands.replid != self._goal.replid):
            self._goal = stands
        if self._goal is not None and self._applied() >= self._goal.offset:
            self._goal, self._since, self._gave_up = None, None, False
            return False
        self._gave_up = self._gave_up or now - self._since > self._most_s
        return not self._gave_up


__all__ = ["MOST_S", "Abreast", "OwnLag"]
