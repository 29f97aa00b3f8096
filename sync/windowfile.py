"""Where the window of unseen writes begins, kept in the state directory so that it can be read again from the journal.

``window.json``, and the field ``past`` of the checkpoint at the target for nodes that lack this directory: a unit
boundary of the stream at or before everything that some datacenter has not yet seen, the database selected there, and
what this datacenter had applied of the others by then.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from canal import formats
from canal.position import Position

_NAME: Final = "window.json"


@dataclass(frozen=True, slots=True)
class Boundary:
    """``position`` and ``db``: outside MULTI. ``seen``: as in a tag. ``floor``: up to there every key counts as written
    (the snapshot's position, while somebody has not seen it); -1: nothing does.
    """

    position: str
    db: int
    seen: str
    floor: int = -1

    @property
    def place(self) -> Position:
        """``position``. Raises ValueError when it is none."""
        return Position.parse(self.position)

    def save(self, directory: Path) -> None:
        """Write; not durably: an older one is as right, and without one every key counts as written. OSError."""
        fresh = directory / f"{_NAME}.new"
        fresh.write_text(json.dumps({"format": formats.written(), **asdict(self)}))
        fresh.replace(directory / _NAME)

    @classmethod
    def load(cls, directory: Path) -> Boundary | None:
        """None where there is none that can be read."""
        try:
            value = json.loads((directory / _NAME).read_text())
            if value["format"] > formats.NEWEST:
                return None
            found = cls(str(value["position"]), int(value["db"]), str(value["seen"]), int(value.get("floor", -1)))
            return found if found.place else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        """As the tag's field ``past``."""
        return f"{self.position} {self.db} {self.floor} {self.seen}"

    @staticmethod
    def parse(text: str) -> Boundary | None:
        """Read the tag's field; None for an empty one and for what cannot be read."""
        words = [*text.split(" ", 3), ""]
        try:
            found = Boundary(words[0], int(words[1]), words[3], int(words[2]))
            return found if found.place else None
        except (ValueError, IndexError):
            return None

    @staticmethod
    def forget(directory: Path) -> None:
        """What it says belongs to another stream."""
        (directory / _NAME).unlink(missing_ok=True)
