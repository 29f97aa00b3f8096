"""What the demonstration shows: a live table on a terminal, a line a second otherwise."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from console.cli.output import duration, number, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SideRow:
    """A datacenter: what was written there, and how many keys it holds (its own and the other's)."""

    name: str
    address: str
    written: int
    keys: int


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A direction, with what its ``/status`` says."""

    name: str
    state: str
    status: dict[str, Any]

    def figure(self, name: str) -> int:
        value = self.status.get(name)
        return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class Picture:
    """One moment of the demonstration."""

    seconds: float
    phase: str
    sides: tuple[SideRow, ...]
    links: tuple[LinkRow, ...]


class Screen(Protocol):
    """Shows pictures and lines."""

    def show(self, picture: Picture) -> None:
        """Show this moment."""

    def say(self, line: str) -> None:
        """Print a line that stays: above the live area, or below it once that is closed."""

    def close(self) -> None:
        """End the live area, leaving its last picture. Harmless when it has ended."""


def open_screen(stream: TextIO | None = None) -> Screen:
    """The live table when ``stream`` (default: stdout) is a terminal, else plain lines."""
    chosen = sys.stdout if stream is None else stream
    if not chosen.isatty():
        return PlainScreen(chosen)
    from rich.console import Console

    return LiveScreen(Console(file=chosen))


class PlainScreen:
    """One line a second at most, and one for each change of phase."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[str, float] = ("", 0.0)

    def show(self, picture: Picture) -> None:
        phase, at = self._last
        if picture.phase == phase and picture.seconds - at < PLAIN_EVERY_S:
            return
        self._last = (picture.phase, picture.seconds)
        self.say(plain_line(picture))

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


def plain_line(picture: Picture) -> str:
    """The picture in one line."""
    sides = ", ".join(
        f"{side.name} wrote {number(side.written)} holds {number(side.keys)} keys" for side in picture.sides
    )
    links = ", ".join(
        f"{link.name} {link.state} applied {number(link.figure('commands_applied'))} lag {_lag(link)}"
        for link in picture.links
    )
    return f"{picture.seconds:5.1f} s  {picture.phase}: {sides}; {links}"


def _lag(link: LinkRow) -> str:
    seconds = link.status.get("lag_seconds")
    return f"{duration(seconds)} ({size(link.figure('lag_bytes'))})"


class LiveScreen:
    """Two tables that are drawn anew in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, picture: Picture) -> None:
        self._live.update(render(picture), refresh=True)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def render(picture: Picture) -> RenderableType:
    """Datacenters above, links below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sides = Table(title=f"{picture.phase}, {picture.seconds:.0f} s", title_justify="left", title_style="bold")
    for heading in ("datacenter", "server"):
        sides.add_column(heading)
    for heading in ("commands written here", "keys held"):
        sides.add_column(heading, justify="right")
    for side in picture.sides:
        sides.add_row(side.name, side.address, f"{side.written:,}", f"{side.keys:,}")
    links = Table()
    for heading in ("link", "state"):
        links.add_column(heading)
    for heading in ("applied", "lag", "echoes dropped", "full / partial resyncs", "errors"):
        links.add_column(heading, justify="right")
    for link in picture.links:
        style = "green" if link.state == "streaming" else "yellow"
        resyncs = f"{link.figure('full_resyncs')} / {link.figure('partial_resyncs')}"
        figures = (f"{link.figure('commands_applied'):,}", _lag(link), f"{link.figure('loops_dropped'):,}")
        links.add_row(link.name, Text(link.state, style=style), *figures, resyncs, str(link.figure("errors")))
    return Group(sides, links)
