"""A full disk is waited for: nothing that a link keeps beside its journal fails for good because of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.errors import NoRoom, StateError
from canal.journal.lock import StateLock
from canal.position import Position
from sync.deadletter import DeadLetters
from sync.failover import Fork
from sync.linkstate import LinkState

Write = Callable[[Path], object]

WRITERS: list[Write] = [
    lambda directory: LinkState("uid").save(directory),
    lambda directory: Fork(Position("a" * 40, 1), 0, []).save(directory),
    lambda directory: DeadLetters(directory).write(1, "a" * 40, 0, [b"SET", b"k", b"v"], "ERR"),
    lambda directory: StateLock(directory).acquire(),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_transient(write: Write, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    for name in ("fsync", "pwrite"):
        monkeypatch.setattr(os, name, full)
    with pytest.raises(NoRoom, match="free some space") as caught:
        write(tmp_path)
    assert caught.value.transient and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
def test_other_faults_of_the_disk_need_a_person(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("fsync", "pwrite"):
        monkeypatch.setattr(os, name, broken)
    with pytest.raises(StateError, match="cannot be written: Input/output error") as caught:
        write(tmp_path)
    assert not caught.value.transient


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_written_is_for_this_user_alone(write: Write, tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    write(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes and set(modes.values()) == {0o600}, modes


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LinkState("kept", 7).save(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoRoom):
        LinkState("kept", 8).save(tmp_path)
    monkeypatch.undo()
    assert LinkState.load(tmp_path).epoch == 7
