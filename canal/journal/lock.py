"""One daemon per state directory: an advisory lock that the kernel gives up when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from canal.errors import StateError, StateLocked
from canal.journal.disk import is_no_room, make_directory, unwritable

LOCK_NAME = "lock"


class StateLock:
    """Holds ``<directory>/lock`` from ``acquire`` to ``release``; usable as a context manager.

    The file holds the holder's process id, for people and for the message of whoever comes second. It stays when the
    lock is given up: deleting it would let two processes lock two different files of one name.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd = -1

    def acquire(self) -> None:
        """Create the directory when it is missing, and lock it.

        StateLocked when another process holds it; StateError when it cannot be created or written.
        """
        make_directory(self.directory, "state directory")
        path = self.directory / LOCK_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if is_no_room(error):
                raise unwritable(error, path) from None
            raise StateError(
                f"state directory {self.directory} cannot be written ({error.strerror}); "
                "name a directory that this user may write"
            ) from None
        try:
            _lock(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise StateLocked(
                f"state directory {self.directory} is in use by {holder}; stop it, or name another directory"
            ) from None
        except OSError as error:
            os.close(fd)
            raise unwritable(error, path) from None
        self._fd = fd

    def release(self) -> None:
        """Give the lock up; does nothing when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def lock_holder(directory: Path) -> int | None:
    """Process id of whoever holds the lock of ``directory`` now (0 when unknown); None when nobody does."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(fd)
    except OSError:
        return None
    else:
        return None
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    """Lock, or raise BlockingIOError. A second try, because `lock_holder` in another process looks by locking."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.05)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _holder(fd: int) -> str:
    pid = _pid(fd)
    return f"process {pid}" if pid else "another process"
