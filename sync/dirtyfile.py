"""``dirty.log`` in the state directory: a `DirtySet` and the place of the stream up to which it knows.

Records: magic ``RCD1``, length and crc32 (each 4 bytes big-endian, the crc goes on from that of the record before), one
line of JSON, and hashes, 8 bytes little-endian each. Each record tells the whole place, so what a crash cut off at its
end only makes the file know less far; the stream from there on is asked for again.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from canal.journal.disk import write_all, write_atomically
from canal.position import Position
from sync.dirtyset import HASH_BYTES, DirtySet

_NAME: Final = "dirty.log"
_HEAD: Final = struct.Struct(">4sII")
_MAGIC: Final = b"RCD1"
_FORMAT: Final = 1
_SPARE: Final = 256 << 10


@dataclass(slots=True)
class Stored:
    """What the file says. ``lost``: why nothing is known; else the set knows all up to ``position`` (outside MULTI,
    where ``db`` is selected).
    """

    position: Position
    db: int
    lost: str = ""


class DirtyFile:
    """The file of one link. What raises OSError leaves it as it was."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._size = 0
        self._crc = 0

    def load(self, keys: DirtySet) -> Stored | None:
        """Fill ``keys`` with what is sound. None: there is no such file, or nothing sound in it."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        found: Stored | None = None
        self._size = self._crc = 0
        while (record := _record(data, self._size, self._crc)) is not None:
            stored, hashes, self._size, self._crc = record
            if stored is None:
                return None
            found = stored
            keys.take_packed(hashes)
        return found

    def begin(self, stored: Stored, keys: DirtySet) -> None:
        """Write it anew, durably. Raises OSError."""
        keys.take_new()
        record = _packed(stored, b"" if stored.lost else keys.packed(), 0)
        write_atomically(self._path, record)
        self._size, self._crc = len(record), zlib.crc32(record[_HEAD.size :])

    def go_on(self, stored: Stored, keys: DirtySet) -> None:
        """Add what is new in ``keys``, and how far it knows now. Raises OSError, after which it has to be begun."""
        record = _packed(stored, keys.take_new(), self._crc)
        if self._size + len(record) > 3 * HASH_BYTES * len(keys) + _SPARE:
            self.begin(stored, keys)
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, self._size)  # of what a crash, or a disk without room, left half written
            os.lseek(fd, self._size, os.SEEK_SET)
            write_all(fd, record)
        finally:
            os.close(fd)
        self._size, self._crc = self._size + len(record), zlib.crc32(record[_HEAD.size :], self._crc)

    def forget(self) -> None:
        """Both sides are equal again."""
        self._path.unlink(missing_ok=True)
        self._size = self._crc = 0


def _packed(stored: Stored, hashes: bytes, crc: int) -> bytes:
    value: dict[str, Any] = {"format": _FORMAT, "position": str(stored.position), "db": stored.db, "lost": stored.lost}
    payload = json.dumps(value).encode() + b"\n" + hashes
    return _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload, crc)) + payload


def _record(data: bytes, at: int, crc: int) -> tuple[Stored | None, bytes, int, int] | None:
    """(what it says, hashes, index after it, its crc); None where no sound record stands."""
    if len(data) < at + _HEAD.size:
        return None
    magic, size, wanted = _HEAD.unpack_from(data, at)
    payload = data[at + _HEAD.size : at + _HEAD.size + size]
    if magic != _MAGIC or len(payload) != size or zlib.crc32(payload, crc) != wanted:
        return None
    line, _, hashes = payload.partition(b"\n")
    try:
        value = json.loads(line)
        known = value["format"] == _FORMAT and len(hashes) % HASH_BYTES == 0
        stored = Stored(Position.parse(value["position"]), int(value["db"]), str(value["lost"])) if known else None
    except (ValueError, KeyError, TypeError):
        stored = None
    return stored, hashes, at + _HEAD.size + size, wanted
