"""Where an interrupted comparison goes on: a small JSON file, replaced as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from canal.errors import StateError


class StateFile:
    """``what``: which comparison this is; a file of another one is refused."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def load(self) -> dict[str, Any] | None:
        """What was saved; None when there is nothing. Raises StateError for a file that is not ours."""
        try:
            found = json.loads(self._path.read_text())
            what, saved = found["what"], found["saved"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._path} holds no comparison to go on with: {error}; remove it") from None
        if what != self._what:
            raise StateError(f"{self._path} is of another comparison ({what}); name another file, or remove it")
        assert isinstance(saved, dict)
        return saved

    def save(self, saved: dict[str, Any]) -> None:
        """Replace what is there. Raises StateError."""
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_text(json.dumps({"what": self._what, "saved": saved}))
            fresh.replace(self._path)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}") from None

    def done(self) -> None:
        """It has come to its end."""
        self._path.unlink(missing_ok=True)
