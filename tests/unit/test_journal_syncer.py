"""With fsync everysec the journal is written while the disk is waited for, and a disk that refuses is heard of."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from canal.journal.journal import Journal
from canal.position import Position
from tests.support.process import wait_until

START = Position("a" * 40, 1000)


class Disk:
    """fdatasync as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.asked = 0
        self.error: OSError | None = None
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        self.asked += 1
        assert self.answers.wait(30)
        if self.error is not None:
            raise self.error
        self._real(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.error = None
    made.answers.set()


def test_writing_goes_on_while_the_disk_is_waited_for(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, segment_bytes=3000, reserve_bytes=0)
    journal.open()
    disk.answers.set()
    journal.reset(START)
    assert journal.flush()
    disk.answers.clear()
    disk.asked = 0
    journal.append(b"x" * 500, 1)
    wait_until(lambda: disk.asked > 0, 10, "the disk is asked")
    for number in range(8):  # into the next segment
        journal.append(b"y" * 500, 1000 * number)
    wait_until(lambda: journal.durable_end == journal.end, 10, "all of it is written")
    disk.answers.set()
    assert journal.flush()
    assert journal.close()
    again = Journal(tmp_path, reserve_bytes=0)
    assert again.open().end == START.offset + 9 * 500
    again.close()


def test_a_disk_that_refuses_is_heard_of_and_tried_again(tmp_path: Path, disk: Disk) -> None:
    told: list[str] = []
    journal = Journal(tmp_path, reserve_bytes=0, on_full=told.append, on_room=lambda: told.append("room"))
    journal.open()
    disk.answers.set()
    journal.reset(START)
    assert journal.flush()
    disk.error = OSError(errno.EIO, "Input/output error")
    journal.append(b"x" * 500, 1)
    wait_until(lambda: bool(told), 10, "the reason")
    assert "I/O errors" in told[0]
    disk.error = None
    wait_until(lambda: told[-1] == "room", 10, "room again")
    assert journal.close()


def test_closing_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, reserve_bytes=0)
    journal.open()
    disk.answers.set()
    journal.reset(START)
    assert journal.flush()
    disk.answers.clear()
    journal.append(b"x" * 500, 1)
    wait_until(lambda: journal.durable_end == journal.end, 10, "written")
    assert not journal.close(timeout_s=0.05), "the disk has not answered"
