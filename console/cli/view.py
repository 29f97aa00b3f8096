"""What ``run`` shows while it runs: a live line on a terminal, log lines everywhere else.

Both only read the status; they never slow the link down. ``Follower`` calls ``update`` a few times a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from console.cli.meter import Meter, Rates, snapshot_fraction, snapshot_seconds_left
from console.cli.output import duration, number, size
from sync.status import LinkStatus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

log = logging.getLogger(__name__)
PLAIN_EVERY_S: Final = 10.0
REFRESH_S: Final = 0.25


class View(Protocol):
    """Shows one link."""

    def update(self, status: LinkStatus, now: float) -> None:
        """Show the status; ``now`` is monotonic seconds."""

    def close(self, status: LinkStatus) -> None:
        """Show the last state and leave the terminal as it was."""


def summary(status: LinkStatus, rates: Rates) -> str:
    """The one line of a link: state, and what matters in that state."""
    words: list[str] = [status.state]
    if status.state == "snapshot":
        words.append(snapshot_words(status, rates))
    elif status.state == "streaming":
        words.append(
            f"{number(rates.commands)} commands/s, {size(rates.bytes)}/s, lag {duration(status.lag_seconds)} "
            f"({size(status.lag_bytes)}), applied {number(status.commands_applied)}, offset {status.applied_offset}"
        )
    words += notes(status)
    return "; ".join(word for word in words if word)


def snapshot_words(status: LinkStatus, rates: Rates) -> str:
    """Keys, bytes, share and estimate of the snapshot."""
    progress = status.snapshot
    keys = number(progress.keys_done) + (f" of {number(progress.keys_total)}" if progress.keys_total else "")
    done = size(progress.bytes_done) + (f" of {size(progress.bytes_total)}" if progress.bytes_total else "")
    left = snapshot_seconds_left(status, rates)
    fraction = snapshot_fraction(status)
    share = "" if fraction is None else f", {fraction:.0%}"
    return f"{keys} keys, {done}{share}" + ("" if left is None else f", {duration(left)} left")


def notes(status: LinkStatus) -> list[str]:
    """What is out of the ordinary."""
    out = []
    if status.detail:
        out.append(status.detail)
    if status.state in ("streaming", "snapshot"):
        if not status.source_connected:
            out.append("source not connected")
        if not status.target_connected:
            out.append("target not connected")
    if status.journal_full:
        out.append(f"journal full: {status.journal_full}")
    if status.dead_letters:
        out.append(f"{status.dead_letters} dead letters")
    return out


class PlainView:
    """Log lines: one for each change of state, one with figures every ten seconds."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._state = ""
        self._next = 0.0

    def update(self, status: LinkStatus, now: float) -> None:
        rates = self._meter.rates(status, now)
        if status.state != self._state:
            log.info("%s/%s: %s -> %s", status.task, status.shard, self._state or "start", summary(status, rates))
            self._state = status.state
            self._next = now + PLAIN_EVERY_S
        elif now >= self._next:
            log.info("%s/%s: %s", status.task, status.shard, summary(status, rates))
            self._next = now + PLAIN_EVERY_S

    def close(self, status: LinkStatus) -> None:
        self.update(status, time.monotonic())


class TerminalView:
    """A progress bar during the snapshot, one live line after it, at the bottom of the terminal."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._meter = Meter()
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def update(self, status: LinkStatus, now: float) -> None:
        self._live.update(render(status, self._meter.rates(status, now)), refresh=True)

    def close(self, status: LinkStatus) -> None:
        self.update(status, time.monotonic())
        self._live.stop()


def render(status: LinkStatus, rates: Rates) -> RenderableType:
    """The live area: a bar with its words while a snapshot is applied, one coloured line otherwise."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    name = Text(f"{status.source_dc} → {status.target_dc} ", style="bold")
    state = Text(status.state, style=_STYLES.get(status.state, ""))
    grid = Table.grid(padding=(0, 1))
    if status.state != "snapshot":
        rest = summary(status, rates).partition(";")[2].strip()
        grid.add_row(name + state, Text(rest))
        return grid
    fraction = snapshot_fraction(status)
    bar = ProgressBar(total=1.0, completed=fraction or 0.0, width=30, pulse=fraction is None)
    words = "; ".join([snapshot_words(status, rates), *notes(status)])
    grid.add_row(name + state, bar, Text(words))
    return grid


_STYLES: Final = {
    "streaming": "green",
    "snapshot": "cyan",
    "connecting": "yellow",
    "failed": "bold red",
    "stopped": "dim",
}


class Follower:
    """Keeps a view up to date until it is stopped."""

    def __init__(self, view: View, status: LinkStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._view, self._status, self._clock = view, status, clock

    async def run(self) -> None:
        while True:
            self._view.update(self._status, self._clock())
            await asyncio.sleep(REFRESH_S)
