"""The snapshot on disk while it is received, so that the source is drained at network speed and a restart can resume.

Without a sound description that says complete, and without all its bytes, a spool is discarded: half a snapshot cannot
be continued, the source is asked for a new one. Blocks are checked against their checksums as they are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canal.errors import StateError
from canal.journal.chunk import SpoolAborted
from canal.journal.disk import free_bytes, make_directory
from canal.journal.transfer import BLOCK, RDB_NAME, Transfer, delete_files, load_transfer
from canal.position import Position

CallSoon = Callable[..., object]


def _at_once(callback: Callable[..., object], *args: Any) -> None:
    callback(*args)


def _nothing(*_: object) -> None:
    return


class Spool:
    """Holds at most one snapshot, in a directory of its own; used by one thread, which it never blocks but in `open`.

    ``call_soon`` carries callbacks from the writing thread (``loop.call_soon_threadsafe``). ``on_full(reason)``: the
    snapshot could not be written and is lost; ``on_complete()``: all of it is on disk. ``on_pressure(True)``: more than
    ``high_water_bytes`` wait to be written, the disk is slower than the network; ``on_pressure(False)``: no longer.
    """

    def __init__(
        self,
        directory: Path,
        *,
        reserve_bytes: int = 16 << 20,
        high_water_bytes: int = 4 << 20,
        call_soon: CallSoon = _at_once,
        on_full: Callable[[str], None] = _nothing,
        on_complete: Callable[[], None] = _nothing,
        on_pressure: Callable[[bool], None] = _nothing,
    ) -> None:
        self.directory = directory
        self._reserve = reserve_bytes
        self._call_soon = call_soon
        self._on_full = on_full
        self._on_complete = on_complete
        self._on_pressure = on_pressure
        self._high_water = high_water_bytes
        self._pressed = False
        self._transfer: Transfer | None = None
        self._busy: threading.Thread | None = None  # the last one that may touch the files

    # -- figures -------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position | None:
        """Of the snapshot; None when there is none."""
        return None if self._transfer is None else self._transfer.position

    @property
    def length(self) -> int | None:
        """Its size in bytes, when known: announced by the source, or because it is complete."""
        transfer = self._transfer
        if transfer is None:
            return None
        return transfer.written if transfer.complete else transfer.length

    @property
    def received(self) -> int:
        """Bytes that have come."""
        return 0 if self._transfer is None else self._transfer.received

    @property
    def pending_bytes(self) -> int:
        """Received and not yet written: bounded by whoever reads from the source."""
        transfer = self._transfer
        return 0 if transfer is None or transfer.error is not None else transfer.received - transfer.written

    @property
    def complete(self) -> bool:
        """Whether all of it is on disk, and survives a restart."""
        return self._transfer is not None and self._transfer.complete and self._transfer.error is None

    # -- changes -------------------------------------------------------------------------------------------------

    def open(self) -> str | None:
        """See what an earlier process left; one line about what had to be discarded, None when nothing had.

        After it ``complete`` tells whether there is a whole snapshot. StateError when the directory cannot be used.
        """
        make_directory(self.directory, "snapshot directory")
        try:
            found, trouble = load_transfer(self.directory, self._reserve)
            self._transfer = found
            if found is None:
                delete_files(self.directory)
        except OSError as error:
            raise StateError(f"the snapshot in {self.directory} cannot be read ({error.strerror or error})") from None
        return trouble

    def begin(self, position: Position, length: int | None) -> str | None:
        """A snapshot of ``length`` bytes (None: not known) follows; an earlier one is given up, whoever reads it.

        Returns why it cannot be received (no room on the disk); None when it can.
        """
        self.abort()
        if length is not None:
            missing = length + self._reserve - free_bytes(self.directory) - self._size_on_disk()
            if missing > 0:
                return (
                    f"a snapshot of {length} bytes needs {missing} more on the file system of {self.directory}: "
                    "free some, capture resumes by itself"
                )
        transfer = Transfer(self.directory, position, length, self._reserve)
        self._transfer = transfer
        self._busy = transfer.start(self._busy, lambda: self._changed(transfer))
        return None

    def _size_on_disk(self) -> int:
        """Bytes of an earlier snapshot, which goes when a new one begins."""
        path = self.directory / RDB_NAME
        try:
            return path.stat().st_size
        except FileNotFoundError:  # gone just now
            return 0

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the RDB; copied, never blocks. Without effect when the transfer has failed."""
        transfer = self._transfer
        if transfer is not None and transfer.error is None:
            transfer.received += len(data)
            transfer.put(bytes(data))
            if not self._pressed and transfer.received - transfer.written > self._high_water:
                self._pressed = True
                self._on_pressure(True)

    def finish(self) -> None:
        """That was all of it. ``complete`` follows when it is safely on disk."""
        if self._transfer is not None:
            self._transfer.end()

    def abort(self) -> None:
        """The transfer broke, or the snapshot is of no use any more: readers get SpoolAborted.

        A complete one stays on disk until `delete` or the next `begin`; what there is of an incomplete one goes.
        """
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.give_up("it was given up")

    def delete(self) -> None:
        """The snapshot has been applied, or is not wanted: remove its files, in a thread."""
        self.abort()
        before = self._busy

        def remove() -> None:
            if before is not None:
                before.join()
            with contextlib.suppress(OSError):
                delete_files(self.directory)

        self._busy = threading.Thread(target=remove, name="spool-remover", daemon=True)
        self._busy.start()

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Stop; a complete snapshot stays for the next process, an incomplete one is discarded. Blocks."""
        self.abort()
        if self._busy is not None:
            self._busy.join(timeout_s)

    def reader(self, offset: int = 0) -> SpoolReader:
        """A reader of the snapshot from byte ``offset`` on; it follows the writer. StateError when there is none."""
        if self._transfer is None:
            raise StateError(f"there is no snapshot in {self.directory}")
        return SpoolReader(self._transfer, offset)

    def _changed(self, transfer: Transfer) -> None:
        """In the writing thread: after a write, and at the end."""
        if self._pressed and self.pending_bytes < self._high_water // 4:
            self._pressed = False
            self._tell(self._on_pressure, False)
        if transfer.complete:
            self._tell(self._on_complete)
        elif transfer.no_room is not None:
            self._tell(self._on_full, transfer.no_room)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._call_soon(callback, *args)


class SpoolReader:
    """Reads a snapshot while it is received, or after; reads happen in a thread, the event loop never waits."""

    def __init__(self, transfer: Transfer, offset: int) -> None:
        self.offset = offset
        self._transfer = transfer
        self._fd = -1
        self._block = -1  # whose checked content ``_data`` is
        self._data = b""

    async def read(self, size: int = BLOCK) -> bytes:
        """Up to ``size`` bytes from ``offset`` on, as soon as there are some; b"" at the end of the snapshot.

        SpoolAborted when it will never be complete, or its file is not what was written.
        """
        transfer = self._transfer
        loop = asyncio.get_running_loop()
        while True:
            if transfer.error is not None:
                self.close()
                raise SpoolAborted(f"snapshot {transfer.position}: {transfer.error}")
            if transfer.written > self.offset:
                data = await loop.run_in_executor(None, self._read, size)
                if data:
                    self.offset += len(data)
                    return data
            elif transfer.complete:
                return b""
            else:
                await self._more(loop)

    async def _more(self, loop: asyncio.AbstractEventLoop) -> None:
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:  # the loop is closed
                return

        self._transfer.when_changed(self.offset, tell)
        await waiter

    def _read(self, size: int) -> bytes:
        """In a thread. Whole blocks are checked; only the newest, still growing one cannot be."""
        transfer = self._transfer
        block = self.offset // BLOCK
        inside = self.offset - block * BLOCK
        if block != self._block:
            try:
                if self._fd < 0:
                    self._fd = os.open(transfer.path, os.O_RDONLY)
                checksum = transfer.checksum_of(block)
                if checksum is None:
                    return os.pread(self._fd, min(size, transfer.written - self.offset), self.offset)
                data = os.pread(self._fd, self._block_size(block), block * BLOCK)
            except OSError as error:
                transfer.error = transfer.error or f"its file cannot be read ({error.strerror})"
                return b""
            if zlib.crc32(data) != checksum:
                begin = block * BLOCK
                transfer.error = transfer.error or f"its file is damaged between bytes {begin} and {begin + BLOCK}"
                return b""
            self._block, self._data = block, data
        return self._data[inside : inside + size]

    def _block_size(self, block: int) -> int:
        transfer = self._transfer
        return min(BLOCK, transfer.written - block * BLOCK) if transfer.complete else BLOCK

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
