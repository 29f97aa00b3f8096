"""One snapshot on its way to disk: a thread that writes it, and the three files that it leaves.

::

    snapshot.rdb    the RDB, byte for byte, without the transfer's framing
    snapshot.crc    u32 little endian per block of `BLOCK` bytes: crc32 (zlib) of that block
    snapshot.json   format, replid and offset of the snapshot, bytes, "complete"; written last, atomically
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from canal import formats
from canal.journal.disk import free_bytes, reason_of, write_all, write_atomically
from canal.position import Position

BLOCK: Final = 1 << 20
RDB_NAME: Final = "snapshot.rdb"
CRC_NAME: Final = "snapshot.crc"
META_NAME: Final = "snapshot.json"
NAMES: Final = (META_NAME, CRC_NAME, RDB_NAME)
"""In the order in which they go: without its description a snapshot does not count."""
_ROOM_EVERY_BYTES: Final = 16 << 20


class Transfer:
    """One snapshot on its way to disk, or there. Its thread writes; others read the figures.

    ``written``: bytes that can be read from the file. ``checksums``: one for each whole block of them, and once
    ``complete`` for the last one too. ``error``: why it will never be complete.
    """

    def __init__(self, directory: Path, position: Position, length: int | None, reserve_bytes: int) -> None:
        self.position = position
        self.length = length
        self.written = 0
        self.received = 0
        self.complete = False
        self.error: str | None = None
        self.no_room: str | None = None
        self.checksums: array[int] = array("I")
        self.directory = directory
        self._reserve = reserve_bytes
        self._queue: SimpleQueue[bytes | bool] = SimpleQueue()
        self._fd = -1
        self._crc = 0
        self._until_room_check = 0
        self._after: threading.Thread | None = None
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], None]] = []
        self._changed: Callable[[], None] = lambda: None
        self.put = self._queue.put

    @property
    def path(self) -> Path:
        """The file of RDB bytes."""
        return self.directory / RDB_NAME

    def start(self, after: threading.Thread | None, changed: Callable[[], None]) -> threading.Thread:
        """Begin writing when ``after`` has ended: it may still be busy with the files of an earlier snapshot.

        ``changed`` is called in the writing thread after each write and at the end.
        """
        self._after = after
        self._changed = changed
        thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        thread.start()
        return thread

    def end(self) -> None:
        """No more bytes come, these were all."""
        self.put(True)

    def give_up(self, why: str) -> None:
        """It will never be complete, or is of no use any more: what is not written yet need not be."""
        if self.error is None:
            self.error = why
            self.put(False)
            self._wake_waiters()

    def when_changed(self, written: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, in the writing thread or at once, when there is more than ``written`` or an end."""
        with self._lock:
            if self.written <= written and not self.complete and self.error is None:
                self._waiters.append(callback)
                return
        callback()

    def checksum_of(self, block: int) -> int | None:
        """The checksum of a block, None while it is not known."""
        return self.checksums[block] if block < len(self.checksums) else None

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self.no_room = reason_of(error, self.directory)
            self.error = self.error or f"the snapshot could not be kept: {self.no_room}"
            self._discard()
        except BaseException as error:  # a fault of ours must not leave a reader waiting for ever
            self.error = f"the writer of the snapshot failed: {error!r}"
        finally:
            if self._fd >= 0:
                os.close(self._fd)
        self._tell()

    def _write(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        delete_files(self.directory)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        while self.error is None:
            item = self._queue.get()
            if isinstance(item, bool):
                self._finish()
                break
            self._check_room(len(item))
            write_all(self._fd, item)
            self._add_checksums(item)
            self.written += len(item)
            self._tell()
        if not self.complete:
            delete_files(self.directory)

    def _discard(self) -> None:
        """Free what a snapshot took that could not be written."""
        with contextlib.suppress(OSError):
            delete_files(self.directory)

    def _check_room(self, size: int) -> None:
        self._until_room_check -= size
        if self._until_room_check <= 0:
            if free_bytes(self.directory) < self._reserve + size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._until_room_check = _ROOM_EVERY_BYTES

    def _add_checksums(self, data: bytes) -> None:
        view = memoryview(data)
        at = self.written
        while view:
            room = BLOCK - at % BLOCK
            self._crc = zlib.crc32(view[:room], self._crc)
            at += len(view[:room])
            view = view[room:]
            if at % BLOCK == 0:
                self.checksums.append(self._crc)
                self._crc = 0

    def _finish(self) -> None:
        if self.error is None and self.length is not None and self.written != self.length:
            self.error = f"expected a snapshot of {self.length} bytes, got {self.written}"
        if self.error is not None:
            return
        checksums = array("I", self.checksums)
        if self.written % BLOCK:
            checksums.append(self._crc)
        os.fsync(self._fd)
        write_atomically(self.directory / CRC_NAME, checksums.tobytes())
        write_atomically(self.directory / META_NAME, _meta(self.position, self.written))
        self.complete = True
        self.checksums = checksums  # after ``complete``: the last one is of a shorter block

    def _tell(self) -> None:
        self._wake_waiters()
        self._changed()

    def _wake_waiters(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()


def delete_files(directory: Path) -> None:
    """Remove the snapshot in ``directory``, if any."""
    for name in NAMES:
        (directory / name).unlink(missing_ok=True)


def _meta(position: Position, size: int) -> bytes:
    value = {"format": formats.written(), "position": str(position), "bytes": size, "complete": True}
    return json.dumps(value).encode() + b"\n"


def load_transfer(directory: Path, reserve: int) -> tuple[Transfer | None, str | None]:
    """The complete snapshot in ``directory``, if any, and why another had to be discarded."""
    rdb = directory / RDB_NAME
    size = rdb.stat().st_size if rdb.exists() else None
    meta = directory / META_NAME
    if not meta.exists():
        trouble = None if size is None else f"{rdb} is incomplete ({size} bytes): the source is asked for a new one"
        return None, trouble
    try:
        value = json.loads(meta.read_bytes())
        version = int(value["format"])
        position = Position.parse(value["position"])
        expected = int(value["bytes"])
    except (ValueError, KeyError, TypeError) as error:
        return None, f"{meta} is not a snapshot's description ({error}): the source is asked for a new one"
    formats.check(f"snapshot {meta}", version, hint="use that one, or delete the directory (a full resync follows)")
    if size != expected:
        return None, f"{rdb} should have {expected} bytes, has {size or 0}: the source is asked for a new one"
    transfer = Transfer(directory, position, expected, reserve)
    transfer.checksums.frombytes(_read_checksums(directory / CRC_NAME))
    if len(transfer.checksums) != -(-expected // BLOCK):
        return None, f"{directory / CRC_NAME} does not fit the snapshot: the source is asked for a new one"
    transfer.written = transfer.received = expected
    transfer.complete = True
    return transfer, None


def _read_checksums(path: Path) -> bytes:
    data = path.read_bytes() if path.exists() else b""
    return data[: len(data) - len(data) % 4]
