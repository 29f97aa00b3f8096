"""The journal's own small state, ``journal.json``: its id and the history of replids.

A source failover continues the stream under a new replid. The history says from which offset on each id was in use:
``(A, 0), (B, 1000)`` means that bytes up to 1000 were received from A's master, later ones from B's.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from canal import formats
from canal.errors import StateError
from canal.journal.disk import write_atomically
from canal.journal.index import OR_DELETE
from canal.position import Position

STATE_NAME: Final = "journal.json"


@dataclass(slots=True)
class History:
    """Replids by the offset from which each was in use, oldest first; offsets never fall."""

    entries: list[tuple[str, int]] = field(default_factory=list)

    def at(self, offset: int) -> str | None:
        """The replid under which the byte before ``offset`` was received, or the first one."""
        for replid, start in reversed(self.entries):
            if start <= offset:
                return replid
        return self.entries[0][0] if self.entries else None

    def knows(self, position: Position) -> bool:
        """Whether ``position`` lies on this stream.

        An id is good up to the offset at which its successor took over: what the old master wrote later is another
        stream. A successor's id is good for what came before it too, as it is for PSYNC (Redis: replid2).
        """
        for number in range(len(self.entries) - 1, -1, -1):
            if self.entries[number][0] == position.replid:
                return number + 1 == len(self.entries) or position.offset <= self.entries[number + 1][1]
        return False

    def continued(self, replid: str, offset: int) -> History:
        """With ``replid`` in use from ``offset`` on; unchanged when it is already."""
        if self.entries and self.entries[-1][0] == replid:
            return self
        return History([*self.cut(offset).entries, (replid, offset)])

    def cut(self, offset: int) -> History:
        """Without the ids that came into use after ``offset``."""
        kept = [entry for entry in self.entries if entry[1] <= offset]
        return History(kept or self.entries[:1])

    def pruned(self, start: int) -> History:
        """Without the ids whose last byte came before ``start``."""
        keep = 0
        while keep + 1 < len(self.entries) and self.entries[keep + 1][1] < start:
            keep += 1
        return History(self.entries[keep:])


@dataclass(slots=True)
class JournalState:
    """What ``journal.json`` holds. ``journal_id`` is new at every reset, so that older files are told from newer."""

    journal_id: bytes
    history: History

    @classmethod
    def fresh(cls, position: Position | None = None) -> JournalState:
        """The state of a new journal that begins at ``position``."""
        return cls(os.urandom(16), History([] if position is None else [(position.replid, position.offset)]))

    def replace(self, other: JournalState) -> None:
        """Become ``other``."""
        self.journal_id = other.journal_id
        self.history = other.history

    def save(self, directory: Path) -> None:
        """Write it so that a crash leaves the old state or the new."""
        text = json.dumps(
            {
                "format": formats.written(),
                "id": self.journal_id.hex(),
                "replids": [list(entry) for entry in self.history.entries],
            }
        )
        write_atomically(directory / STATE_NAME, text.encode() + b"\n")


def load_state(directory: Path) -> JournalState | str | None:
    """The state in ``directory``; None when there is none, or one line that says why it cannot be used.

    Raises StateError for a newer format.
    """
    path = directory / STATE_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror})") from None
    try:
        return _parse(json.loads(raw), path)
    except (ValueError, KeyError, TypeError) as error:
        return f"{path} is not a journal's state ({error})"


def _parse(value: dict[str, Any], path: Path) -> JournalState:
    formats.check(f"journal {path}", int(value["format"]), hint=OR_DELETE)
    entries = [(Position.parse(f"{replid}:{offset}").replid, int(offset)) for replid, offset in value["replids"]]
    if any(later[1] < earlier[1] for earlier, later in itertools.pairwise(entries)):
        raise ValueError("offsets of its replids fall")
    journal_id = bytes.fromhex(value["id"])
    if len(journal_id) != 16:
        raise ValueError(f"id {value['id']!r}")
    return JournalState(journal_id, History(entries))
