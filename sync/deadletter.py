"""The dead letters of a link: commands that the target did not take, with all that is needed to look or try again.

One JSON object a line in ``dead-letters.jsonl`` of the link's state directory, written through to disk before the link
goes on. ``raw`` is the command as RESP in base64; ``offset`` is the stream position after the unit that held it.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

from canal.journal.disk import append_durably, unwritable
from canal.resp import encode

FILE_NAME = "dead-letters.jsonl"
_SHOWN = 80


def shown(word: bytes) -> str:
    """Bytes for people: as text where it is text, shortened."""
    text = word[:_SHOWN].decode("utf-8", "backslashreplace")
    return text + "…" if len(word) > _SHOWN else text


def describe(argv: list[bytes]) -> str:
    """A command for messages: name and first arguments."""
    words = " ".join(repr(shown(word)) if i > 1 else shown(word) for i, word in enumerate(argv[:4]))
    return words + (f" … ({len(argv)} arguments)" if len(argv) > 4 else "")


class DeadLetters:
    """Appends to the file; remembers the (offset, command number) pairs of this process so that a retry adds none."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self.count = 0
        self._known: set[tuple[int, bytes]] = set()

    def write(self, offset: int, replid: str, db: int, argv: list[bytes], error: str) -> bool:
        """Add one; False when it is there already. Raises `StateError` when the disk does not take it, `NoRoom`
        while it is full."""
        raw = encode(argv)
        mark = (offset, raw)
        if mark in self._known:
            return False
        line = {
            "at": round(time.time(), 6),  # so that letters of one moment keep their order
            "replid": replid,
            "offset": offset,
            "db": db,
            "command": shown(argv[0]).upper(),
            "key": shown(argv[1]) if len(argv) > 1 else None,
            "error": error,
            "raw": base64.b64encode(raw).decode(),
        }
        try:
            append_durably(self.path, json.dumps(line) + "\n")
        except OSError as problem:
            raise unwritable(problem, self.path) from None
        if len(self._known) < 100_000:
            self._known.add(mark)
        self.count += 1
        return True
