"""What a link remembers in its state directory: the task's uid, its epoch, and that it has worked before.

``link.json``, written to a new file and renamed, so that a crash leaves the old or the new one.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canal import formats
from canal.errors import StateError
from canal.journal.disk import unwritable, write_atomically

_NAME = "link.json"


@dataclass(slots=True)
class LinkState:
    """``worked``: this directory's link has reached its servers once, so that later failures are outages."""

    uid: str = ""
    epoch: int = 0
    worked: bool = False
    full_resyncs: int = 0
    ttl_seen: bool = False  # keys with a TTL were met, at the source, the target or in the stream

    @classmethod
    def load(cls, directory: Path) -> LinkState:
        """Read the file, or make up a new uid. Raises `StateError` for a file that cannot be read."""
        path = directory / _NAME
        try:
            found: Any = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(uid=secrets.token_hex(8))
        except (OSError, ValueError) as error:
            raise StateError(f"{path} cannot be read: {error}. Restore it, or start with a new --state-dir") from None
        version = found.get("format") if isinstance(found, dict) else None
        if not isinstance(version, int):
            raise StateError(f"{path}: expected a JSON object with a format number, found {str(found)[:60]!r}")
        formats.check(str(path), version)
        try:
            return cls(
                str(found["uid"]),
                int(found["epoch"]),
                bool(found["worked"]),
                int(found.get("full_resyncs", 0)),
                bool(found.get("ttl_seen", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{path}: field missing or wrong: {error}") from None

    def save(self, directory: Path) -> None:
        """Write durably. Raises `StateError` when the directory cannot be written, `NoRoom` while the disk is full."""
        path = directory / _NAME
        try:
            write_atomically(path, json.dumps({"format": formats.written(), **asdict(self)}).encode())
        except OSError as error:
            raise unwritable(error, path) from None
