"""What decides the fate of each command of a stream, and the counts of it. No I/O; `sync.unit` reads by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from sync.tag import Tag

_FAR: Final = 1 << 62


class Dropped(NamedTuple):
    """A command that is not replayed, on purpose. ``reason``: one of a closed set of short words, for the counters."""

    reason: str


class Impossible(NamedTuple):
    """A command that cannot be carried out at this target; it becomes a dead letter by policy."""

    reason: str


Adjusted = list[tuple[int, list[bytes]]] | Dropped | Impossible
Adjust = Callable[[int, list[bytes], int, int], Adjusted]
"""(db, argv, received unix ms, stream position after the command) → commands for the target.

Returning the argv object itself passes its bytes through.
"""


class Watch(Protocol):
    """Told of everything in the order of the stream, in two-way links; see `sync.conflict`."""

    seen: str
    needs: str

    def tag(self, tag: Tag, end: int) -> None:
        """A tag, bare or before its commands, that ends at ``end``."""

    def local(self, db: int, raw: bytes, end: int) -> None:
        """A run of the source's own writes that pass."""

    def command(self, db: int, argv: list[bytes], end: int) -> None:
        """One of the source's own writes that is looked at."""

    def unit(self, tag: Tag, sources: list[tuple[int, bytes]], end: int) -> None:
        """The commands of a tagged transaction, as they stand in the stream."""


@dataclass(slots=True)
class Rules:
    """What decides the fate of a command. ``drop``: origins whose writes the target has or gets by another task."""

    source_dc: str
    drop: frozenset[str]
    plain: dict[bytes, int]
    adjust: Adjust
    noscript: frozenset[bytes] = frozenset()
    flush: str = "replay"  # replay | drop | stop
    databases: int = _FAR  # how many the target has: SELECT of others fails there, and its commands would go elsewhere
    look_at: set[bytes] | None = None  # keys whose commands are looked at though they are plain
    passing: Callable[[int, bytes], bytes] | None = None  # (db, plain commands) → what is sent for them
    over: Callable[[int, list[bytes]], str] | None = None  # why a command is passed over; "": it is not
    observe: Callable[[int, list[bytes], int], None] | None = None  # told of what is dropped as an echo, too
    watch: Watch | None = None
    expired: Callable[[tuple[int, bytes], int, int], bool] | None = None  # passed? (place, unix ms, end of the delete)
    transaction: int = -1  # where the one begins that the command to be adjusted stands in; -1: none
    max_commands: int = 1000
    max_bytes: int = 256 * 1024


@dataclass(slots=True)
class Counters:
    """What the reader counted since it was made; ``dropped_bytes`` is reset by whoever writes a bare tag."""

    received: int = 0
    loops_dropped: int = 0
    dropped_bytes: int = 0
    filtered: dict[str, int] = field(default_factory=dict)

    def filter(self, reason: str, count: int = 1) -> None:
        """Count ``count`` commands that are not replayed for ``reason``."""
        self.filtered[reason] = self.filtered.get(reason, 0) + count
