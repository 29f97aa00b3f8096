"""The conflicts of a link on disk: ``conflicts.jsonl`` in its state directory, the newest some thousand.

One JSON object a line: when, database, key (text, and base64 of the bytes), both writes as datacenter and offset in its
stream, winner, and why it counts as a conflict. Two files of bounded size take turns, so that a storm of conflicts does
not fill the disk. A log for people: nothing is read back by the link, and a line that is lost does no harm.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from canal.errors import StateError
from sync.conflict import Conflict

log = logging.getLogger(__name__)

FILE_NAME: Final = "conflicts.jsonl"
OLD_NAME: Final = "conflicts-older.jsonl"
MAX_BYTES: Final = 4 << 20
_KEY_BYTES: Final = 512


class ConflictLog:
    """Appends; ``flush`` writes what was added since. Each key once per flush."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = directory / FILE_NAME
        self._old = directory / OLD_NAME
        self._max = max_bytes
        self._waiting: dict[object, Conflict] = {}
        self._broken = False

    def add(self, conflict: Conflict) -> None:
        """Take one up."""
        self._waiting[conflict.place] = conflict

    def flush(self) -> None:
        """Write; a disk that refuses is told once in the log."""
        if not self._waiting:
            return
        lines = "".join(json.dumps(_line(conflict)) + "\n" for conflict in self._waiting.values())
        self._waiting.clear()
        try:
            with self._path.open("a") as file:
                file.write(lines)
                size = file.tell()
            if size > self._max:
                self._path.replace(self._old)
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._broken = True


def _line(conflict: Conflict) -> dict[str, Any]:
    db, key = conflict.place
    return {
        "at": round(conflict.at, 3),
        "db": db,
        "key": key[:_KEY_BYTES].decode("utf-8", "backslashreplace"),
        "raw": base64.b64encode(key[:_KEY_BYTES]).decode(),
        "first": {"dc": conflict.first[0], "offset": conflict.first[1]},
        "second": {"dc": conflict.second[0], "offset": conflict.second[1]},
        "winner": conflict.winner,
        "reason": conflict.reason,
    }


def read_conflicts(directory: Path) -> list[dict[str, Any]]:
    """All that is kept, oldest first; a line torn by a crash is passed over. StateError: it is unreadable."""
    return [line for name in (OLD_NAME, FILE_NAME) for line in _lines(directory / name)]


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}") from None
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
