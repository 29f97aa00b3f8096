"""One daemon per state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canal.errors import StateError, StateLocked
from canal.journal.lock import StateLock, lock_holder

HOLD = """
import sys, pathlib
from canal.journal.lock import StateLock
StateLock(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_second_holder_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "on the way"
    with StateLock(directory):
        assert lock_holder(directory) == os.getpid()
        with pytest.raises(StateLocked, match=f"is in use by process {os.getpid()}; stop it, or name another"):
            StateLock(directory).acquire()
    assert lock_holder(directory) is None
    StateLock(directory).acquire()


def test_lock_ends_with_its_process_however_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateLocked, match=f"process {holder.pid}"):
            StateLock(tmp_path).acquire()
        holder.kill()
    with StateLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state cannot be created \(Not a directory\); name a directory"):
        StateLock(tmp_path / "file" / "state").acquire()


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StateError, match=r"cannot be written \(Is a directory\); name a directory"):
        StateLock(tmp_path).acquire()
    assert lock_holder(tmp_path / "missing") is None


def test_release_twice_is_harmless(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
