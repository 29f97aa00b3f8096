"""Who changed what: one JSON object a line, appended to the file that console.yaml names, else to the log."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from canal.errors import ConfigError

log = logging.getLogger(__name__)


class Audit:
    """Writes through at once. A file that cannot be written is an error before anything is changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o640))
            except OSError as error:
                raise ConfigError(f"audit_log: {path} cannot be written: {error.strerror or error}") from None

    def write(self, who: str, address: str, action: str, subject: str, **more: Any) -> None:
        """Add a line: ``who`` did ``action`` to ``subject``. Never a token, password or key."""
        line = json.dumps(
            {"at": round(time.time(), 3), "who": who, "address": address, "action": action, "subject": subject, **more},
            ensure_ascii=False,
        )
        if self._path is None:
            log.info("audit: %s", line)
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise ConfigError(f"audit_log: {self._path} cannot be written: {error.strerror or error}") from None
