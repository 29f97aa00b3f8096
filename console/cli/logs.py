"""Logging of the foreground commands: text for people, or one JSON object per line for machines. Always on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """``2026-11-21T22:20:01Z INFO sync.link: message``; an attached exception follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).strftime(datefmt or "%Y-%m-%dT%H:%M:%SZ")


class JsonFormatter(logging.Formatter):
    """One object per line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, extras, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        out: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        out |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out, default=str, ensure_ascii=False)


def setup(verbose: int = 0, json_lines: bool = False, handler: logging.Handler | None = None) -> logging.Handler:
    """Send our own log to ``handler`` (default: stderr); -v shows debug lines of ours, -vv those of libraries too."""
    chosen = logging.StreamHandler(sys.stderr) if handler is None else handler
    chosen.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [chosen]
    root.setLevel(logging.DEBUG if verbose > 1 else logging.WARNING)
    for room in ("canal", "sync", "node", "console"):
        logging.getLogger(room).setLevel(logging.DEBUG if verbose else logging.INFO)
    return chosen
