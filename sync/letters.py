"""The dead letters of a state directory as a queue: read, settle, and ask the link to fetch a key again.

The link alone writes ``dead-letters.jsonl`` (`sync.deadletter`); people's decisions stand in a file of their own beside
it, ``dead-letters-settled.jsonl``, so that neither ever rewrites what the other appends to. A letter that is written
again after it was settled waits again.

A request to fetch a key is a file in ``refetch/``. The link carries it out, running or at its next start, with its own
fence and checkpoint: nobody else may write to its target. Carrying one out twice does no harm.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from canal.errors import ProtocolError, StateError
from canal.journal.disk import append_durably, unwritable
from canal.resp import parse
from sync.deadletter import FILE_NAME
from sync.refetch import Place

SETTLED_NAME: Final = "dead-letters-settled.jsonl"
REQUESTS_NAME: Final = "refetch"
_LOOK_S: Final = 0.5

Settled = Literal["acknowledged", "retried", "refetch asked for"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One refused command. ``db`` and ``argv`` are as they were sent to the target; ``offset`` is where its unit ended
    in the source's stream."""

    id: str
    at: float
    replid: str
    offset: int
    db: int
    argv: tuple[bytes, ...]
    error: str
    times: int = 1  # how often it was refused
    settled: Settled | None = None
    settled_at: float = 0.0
    settled_by: str = ""


def letter_id(replid: str, offset: int, raw: bytes) -> str:
    """The same command at the same place of the same stream has the same id, in every process."""
    return hashlib.sha256(b"%b:%d:%b" % (replid.encode(), offset, raw)).hexdigest()[:10]


def read_letters(directory: Path) -> list[Letter]:
    """All letters, oldest first; a line torn by a crash is passed over. Raises `StateError` for an unreadable file."""
    found: dict[str, dict[str, Any]] = {}
    for line in _lines(directory / FILE_NAME):
        try:
            raw = base64.b64decode(line["raw"])
            command = parse(raw, 0, len(raw))
            argv = [] if command is None else command[0]
            name = letter_id(line["replid"], line["offset"], raw)
            seen = found.get(name)
            values = {key: line[key] for key in ("at", "replid", "offset", "db", "error")}
        except (KeyError, TypeError, ValueError, ProtocolError):
            continue
        times = 1 if seen is None else seen["times"] + 1
        found[name] = {**values, "id": name, "argv": tuple(argv), "times": times}
    for line in _lines(directory / SETTLED_NAME):
        letter = found.get(str(line.get("id")))
        if letter is not None and float(line.get("at", 0)) >= letter["at"]:
            letter.update(settled=line["how"], settled_at=float(line["at"]), settled_by=str(line.get("by", "")))
    return [Letter(**values) for values in found.values()]


def settle(directory: Path, ids: Iterable[str], how: Settled, by: str) -> None:
    """Record what was decided about letters, durably. Raises `StateError`."""
    lines = [json.dumps({"id": name, "how": how, "by": by, "at": round(time.time(), 3)}) + "\n" for name in ids]
    path = directory / SETTLED_NAME
    try:
        append_durably(path, "".join(lines))
    except OSError as error:
        raise unwritable(error, path) from None


def ask_refetch(directory: Path, places: Iterable[Place]) -> None:
    """Ask the directory's link to fetch keys from the source (places as the source names them). Raises `StateError`."""
    where = directory / REQUESTS_NAME
    body = [[db, base64.b64encode(key).decode()] for db, key in places]
    try:
        where.mkdir(exist_ok=True)
        fresh = where / f".{secrets.token_hex(6)}"
        fresh.write_text(json.dumps(body))
        fresh.rename(where / f"{time.time_ns():020d}-{secrets.token_hex(3)}.json")
    except OSError as error:
        raise StateError(f"{where} cannot be written: {error.strerror}") from None


class Requests:
    """The link's side of `ask_refetch`. A request's file goes once what it asked for is committed."""

    def __init__(self, directory: Path) -> None:
        self._where = directory / REQUESTS_NAME
        self._taken: list[Path] = []
        self._looked = 0.0

    def take(self) -> list[Place]:
        """New requests. To be called when everything is committed that was made of the earlier ones."""
        now = time.monotonic()
        if not self._taken and now - self._looked < _LOOK_S:
            return []
        self._looked = now
        for path in self._taken:
            path.unlink(missing_ok=True)
        self._taken = []
        places: list[Place] = []
        if not self._where.is_dir():
            return places
        for path in sorted(self._where.glob("*.json")):
            self._taken.append(path)
            try:
                places += [(int(db), base64.b64decode(key)) for db, key in json.loads(path.read_text())]
            except (OSError, TypeError, ValueError):
                continue  # not ours to read: it goes with the others
        return places


class WaitingCount:
    """How many letters wait; reads the files again only when they have changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = [directory / name for name in (FILE_NAME, SETTLED_NAME)]  # asked for many times a second
        self._seen: tuple[object, ...] = ()
        self._count = 0

    def value(self) -> int:
        """The number now; the last known one while a file cannot be read."""
        stamps = tuple(map(_stamp, self._files))
        if stamps != self._seen:
            try:
                self._count = sum(1 for letter in read_letters(self._directory) if letter.settled is None)
                self._seen = stamps
            except StateError:
                pass
        return self._count


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


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
