"""The echoes of a two-way link: an `Echoer` at each of its two servers, and what makes them hold still.

They hold still while the sides do not agree on the homes of keys, at a side that was rolled back, and at a server that
nobody has looked at since it was restarted or took over: what waits for its echo there would make its old state, if it
has one, a new write in the moment before that is noticed (`sync.rollback`). At the source also while a link back has
not taken up the target's present history: the source lacks writes which that link can only bring by a resync.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from canal.position import Position
from sync.config import LinkConfig
from sync.echo import Echoed, Echoer, EchoFigures
from sync.status import LinkStatus
from sync.target.fence import ServerInfo

log = logging.getLogger(__name__)


class Echoes:
    """``source`` and ``target`` are asked for keys; ``run`` is a task beside the link."""

    def __init__(self, config: LinkConfig, status: LinkStatus, on_echoed: Callable[[Echoed], None]) -> None:
        self._status = status
        self._figures = EchoFigures()
        self.source = Echoer(config.source.whole, self._figures, on_echoed, "source", config.echoes_per_second)
        self.target = Echoer(config.target, self._figures, on_echoed, "target", config.echoes_per_second)
        self._distrusted = (False, False)  # source and target
        self._apart = False  # the source does not follow the target's history
        self.source.lacks = lambda: self._apart
        self._vets = False
        self._met: ServerInfo | None = None  # the source, as it said of itself last

    async def run(self) -> None:
        """Carry them out until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.source.run())
            group.create_task(self.target.run())

    def show(self) -> None:
        """Put the figures into the status."""
        status, figures = self._status, self._figures
        status.echoes, status.echo_bytes = figures.echoed, figures.bytes
        status.echoes_waiting = figures.waiting
        status.echoes_big, status.echoes_failed = figures.big, figures.failed

    # --- holding still ---

    def suspend(self, why: str) -> None:
        """At both servers, for as long as there is a reason; empty: go on."""
        if why == self._status.echoes_suspended:
            return
        if why:
            log.error("echoes are suspended: %s", why)
        else:
            log.info("echoes go on: both sides agree on the homes of keys")
        self._status.echoes_suspended = why
        self._hold()

    def distrust(self, *, source: bool, target: bool) -> None:
        """A side was rolled back: while that is being mended its keys are not echoed there, so as not to win."""
        if self._distrusted != (source, target):
            self._distrusted = source, target
            self._hold()

    def part(self, apart: bool) -> None:
        """Has no link back taken up the history that the target has now? Nobody knows: it may not have."""
        self._apart = apart

    def _hold(self) -> None:
        suspended = bool(self._status.echoes_suspended)
        for echoer, distrusted in zip((self.source, self.target), self._distrusted, strict=True):
            echoer.suspend(suspended or distrusted)

    # --- whom to trust ---

    def vet(self) -> None:
        """From now on echo only at servers of which it is known that they have lost nothing, or what they have lost."""
        self._vets = True
        self.source.trust("")
        self.target.trust("")

    def trust_target(self, server: ServerInfo) -> None:
        """The target was looked at, as this server."""
        self.target.trust(server.run_id)

    def trust_source(self, streams: Position | None, asked: ServerInfo | None) -> None:
        """What streams under a replication id has all that was had of it: a server with that id is the one judged.

        ``streams``: the end of what has come, None while the source is not connected. ``asked``: what it said of itself
        before it was.
        """
        if streams is None:
            self._met = None
            return
        server = self._met or asked
        if self._vets and server is not None and server.replid == streams.replid:
            self.source.trust(server.run_id)

    def met_source(self, server: ServerInfo) -> None:
        """The source, asked again because of `waits_for_trust`."""
        self._met = server

    @property
    def waits_for_trust(self) -> bool:
        """Is there a server at which nothing is echoed because it was not yet looked at?"""
        return self._vets and (self.source.stranger or self.target.stranger or self._apart)
