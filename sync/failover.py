"""A source that failed over to a replica which lacks the newest bytes of the stream.

Capture may be ahead of the promoted replica: asking it for those bytes gives a full resync, asking at the fork goes on
(Redis `second_repl_offset`, the first offset at which the old replication id is not valid any more). So before PSYNC
the journal is cut at the fork. What had been replayed beyond it no longer exists at the source: every key written there
is fetched again (`sync.refetch`), and the checkpoint goes back to the fork.

The fork is kept in ``fork.json`` of the state directory until the target's checkpoint has gone back, so that a crash in
between is no loss.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from canal import formats
from canal.commands import Flag, lookup, written_in
from canal.errors import CanalError
from canal.journal.disk import unwritable, write_atomically
from canal.journal.journal import Journal
from canal.position import Position
from canal.resp import parse
from sync.refetch import Place
from sync.tag import is_reserved

log = logging.getLogger(__name__)

_NAME: Final = "fork.json"
_READ_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 1_000_000
_DISK_S: Final = 60.0


class Unknowable(CanalError):
    """What was written beyond the fork cannot be listed key by key, so only a full resync is left."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where the histories part: the old replid, the last common offset, the database selected there, and the keys that
    were written beyond it.
    """

    position: Position
    db: int
    places: list[Place]

    def save(self, directory: Path) -> None:
        """Write durably. Raises `StateError`, `NoRoom` while the disk is full."""
        value = {
            "format": formats.written(),
            "position": str(self.position),
            "db": self.db,
            "keys": [[db, base64.b64encode(key).decode()] for db, key in self.places],
        }
        try:
            write_atomically(directory / _NAME, json.dumps(value).encode())
        except OSError as error:
            raise unwritable(error, directory / _NAME) from None

    @classmethod
    def load(cls, directory: Path) -> Fork | None:
        """The fork that a crash left, or None. One that cannot be read counts as none: a full resync follows.

        Raises `StateError` for a newer format.
        """
        try:
            value = json.loads((directory / _NAME).read_text())
            formats.check(str(directory / _NAME), int(value["format"]))
            keys = [(int(db), base64.b64decode(key)) for db, key in value["keys"]]
            return cls(Position.parse(value["position"]), int(value["db"]), keys)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read: %s", directory / _NAME, error)
            return None

    @staticmethod
    def forget(directory: Path) -> None:
        """The target's checkpoint has gone back."""
        (directory / _NAME).unlink(missing_ok=True)


def written_beyond(journal: Journal, boundary: tuple[int, int], fork: int) -> tuple[int, list[Place]]:
    """(database selected at ``fork``, keys written after it), read from the journal. Blocks.

    ``boundary``: (offset, database) of a unit boundary at or before the fork. Raises Unknowable for commands that do
    not name their keys, JournalDamaged for a journal that cannot be read.
    """
    _wait_for_disk(journal)
    db_at_fork = boundary[1]
    places: dict[Place, None] = {}
    for at, db, argv in _commands(journal, boundary):
        if at <= fork:
            db_at_fork = db
        if at < fork:
            continue
        name = argv[0].upper()
        if name in (b"SELECT", b"MULTI", b"EXEC", b"PING", b"REPLCONF", b"PUBLISH", b"SPUBLISH", b"CLUSTER"):
            continue
        written = written_in(db, argv)
        info = lookup(name)
        if info is None or info.flags & Flag.ALLKEYS or (not written and info.flags & Flag.WRITE):
            raise Unknowable(f"{name.decode('ascii', 'replace')} at offset {at} does not name the keys that it changed")
        places.update(dict.fromkeys(place for place in written if not is_reserved(place[1])))
        if len(places) > _MOST_KEYS:
            raise Unknowable(f"more than {_MOST_KEYS} keys were written after offset {fork}")
    return db_at_fork, list(places)


def _wait_for_disk(journal: Journal) -> None:
    """What was received last may still be on its way to the files that are read here; the disk may be slow."""
    deadline = time.monotonic() + _DISK_S
    while journal.durable_end < journal.end:
        if time.monotonic() > deadline:
            raise Unknowable(f"the journal was not written within {_DISK_S:g} s")
        time.sleep(0.005)


def _commands(journal: Journal, boundary: tuple[int, int]) -> Iterator[tuple[int, int, list[bytes]]]:
    """(offset before it, database, command) from the boundary to the journal's end; a database counts from the command
    after its SELECT.
    """
    cursor = journal.cursor()
    offset, db = boundary
    rest = b""
    try:
        while chunks := cursor.read(offset + len(rest), _READ_BYTES):
            data = rest + b"".join(chunk.data for chunk in chunks)
            at = 0
            while (parsed := parse(data, at, len(data))) is not None:
                argv, after = parsed
                yield offset + at, db, argv
                if argv[0].upper() == b"SELECT":
                    db = int(argv[1])
                at = after
            offset += at
            rest = data[at:]
    finally:
        cursor.forget()
    if offset + len(rest) < journal.end:
        raise Unknowable(f"the journal could be read up to offset {offset + len(rest)} only, it ends at {journal.end}")
