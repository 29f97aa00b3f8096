"""Two ways without conflicts (``conflicts: off``): expired keys that live on at the target are echoed there.

A key that expired at the source while the datacenter that writes it gave it a later deadline is kept by the conditional
delete (`sync.expiry`). What gave it the deadline finds nothing at the source, so the whole key is put into the target's
stream again, and the link back brings it. Elsewhere `sync.converge` does that among much else.
"""

from __future__ import annotations

from sync.config import LinkConfig
from sync.echo import Echoed, Echoer, EchoFigures
from sync.status import LinkStatus


class Kept:
    """``run`` is a task beside the link; keys are given to ``echoer``."""

    def __init__(self, config: LinkConfig, status: LinkStatus) -> None:
        self._status = status
        self._figures = EchoFigures()
        self.echoer = Echoer(config.target, self._figures, self._show, "target", config.echoes_per_second)

    async def run(self) -> None:
        """Echo until cancelled."""
        await self.echoer.run()

    def _show(self, echoed: Echoed) -> None:
        status, figures = self._status, self._figures
        status.echoes, status.echo_bytes = figures.echoed, figures.bytes
        status.echoes_waiting = figures.waiting
        status.echoes_big, status.echoes_failed = figures.big, figures.failed
