"""The few file system operations that durability needs, and errors of the disk in words that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from canal.errors import NoRoom, StateError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def reason_of(error: OSError, directory: Path) -> str:
    """One line for people: why writing to ``directory`` failed and what frees it."""
    if error.errno == errno.ENOSPC:
        return f"no space left on the file system of {directory}: free some, capture resumes by itself"
    if error.errno == errno.EDQUOT:
        return f"the disk quota for {directory} is used up: raise it or free some, capture resumes by itself"
    if error.errno == errno.EROFS:
        return f"the file system of {directory} is read-only: remount it writable, capture resumes by itself"
    if error.errno == errno.EIO:
        return f"the disk under {directory} reports I/O errors: look at the kernel's log and replace it"
    return f"cannot write to {directory}: {error.strerror or error}"


def is_no_room(error: OSError) -> bool:
    """Whether deleting something would help."""
    return error.errno in _NO_ROOM


def unwritable(error: OSError, path: Path) -> StateError:
    """The error for a small file that cannot be written: `NoRoom`, which passes, or one that needs a person."""
    if is_no_room(error):
        return NoRoom(f"{path} cannot be written: {error.strerror}; free some space, it goes on by itself")
    return StateError(f"{path} cannot be written: {error.strerror}")


def free_bytes(directory: Path) -> int:
    """Bytes that an unprivileged user may still write to the file system of ``directory``."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in ``directory`` survive a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path``: after a crash it holds the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_directory(path.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """``write`` until all of ``data`` is out; raises OSError, with an unknown part of it written."""
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += os.write(fd, view[done:])


def append_durably(path: Path, text: str) -> None:
    """Add ``text`` to a file that is this user's alone, and have it on disk. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: Path, what: str) -> None:
    """Create ``directory`` with its parents, for this user alone; StateError when that is impossible."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if is_no_room(error):
            raise unwritable(error, directory) from None
        raise StateError(
            f"{what} {directory} cannot be created ({error.strerror}); name a directory that this user may write"
        ) from None
