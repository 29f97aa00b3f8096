"""Two ways: writes at the target whose replies were lost, so that nobody knows what they met there.

Replies tell which writes met another state (`sync.effects`, errors). A connection that breaks after EXEC, or a process
that dies, takes them along, while the checkpoint says that the writes are applied. How far replies were looked at is
kept in ``judged.json``; the stretch of the stream from there to the checkpoint is read again, and its keys count as
conflicting, but for those that were only written whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from canal.keyscan import command_keys
from canal.position import Position
from canal.resp import parse
from sync.homes import Place
from sync.tag import Tag, is_reserved
from sync.window import places_written

_NAME: Final = "judged.json"
_WHOLE: Final = dict.fromkeys(
    (*(b"SET", b"MSET", b"DEL", b"UNLINK", b"SETEX", b"PSETEX"), *(b"set", b"mset", b"del", b"unlink", b"setex")), 1
)
"""After these a key is the same whatever it was."""


@dataclass(frozen=True, slots=True)
class Judged:
    """All replies up to ``position`` (outside MULTI, where ``db`` is selected) were looked at."""

    position: Position
    db: int

    def save(self, directory: Path) -> None:
        """Write; not durably: an older one only makes more keys count as conflicting. Raises OSError."""
        fresh = directory / f"{_NAME}.new"
        fresh.write_text(json.dumps({"format": 1, "position": str(self.position), "db": self.db}))
        fresh.replace(directory / _NAME)

    @classmethod
    def load(cls, directory: Path) -> Judged | None:
        """None where there is none that can be read."""
        try:
            value = json.loads((directory / _NAME).read_text())
            return cls(Position.parse(value["position"]), int(value["db"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def forget(directory: Path) -> None:
        """What it says belongs to another stream."""
        (directory / _NAME).unlink(missing_ok=True)


@dataclass(slots=True)
class Unjudged:
    """Collects the keys of such a stretch: a `sync.unit.Watch`. ``drop``: origins whose writes are not sent."""

    drop: frozenset[str]
    places: dict[Place, None] = field(default_factory=dict)
    seen: str = ""
    needs: str = ""

    def tag(self, tag: Tag, end: int) -> None:
        """Of no concern."""

    def local(self, db: int, raw: bytes, end: int) -> None:
        """A run of commands that pass."""
        for at in command_keys(raw, _WHOLE)[1]:
            found = parse(raw, at, len(raw))
            assert found is not None
            self.command(db, found[0], end)

    def command(self, db: int, argv: list[bytes], end: int) -> None:
        """One command."""
        if argv[0] in _WHOLE or argv[0].upper() in _WHOLE:
            return
        self.places.update(dict.fromkeys(place for place in places_written(db, argv) if not is_reserved(place[1])))

    def unit(self, tag: Tag, sources: list[tuple[int, bytes]], end: int) -> None:
        """A transaction of another link, which is passed on where its origin is not dropped."""
        if tag.origin not in self.drop:
            for db, raw in sources:
                self.local(db, raw, end)
