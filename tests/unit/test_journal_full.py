"""A disk that is full, bounded, or refuses: nothing that is not applied is lost, the journal ends at a whole chunk, the
reason is said, and writing resumes by itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from canal.journal import segment, writer
from canal.journal.disk import reason_of
from canal.journal.journal import Journal
from canal.journal.recovery import survey
from canal.position import Position

A = "a" * 40


class Told:
    """What a journal said: (event, text), in order."""

    def __init__(self) -> None:
        self.events: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def full(self, reason: str) -> None:
        self.events.put(("full", reason))

    def room(self) -> None:
        self.events.put(("room", ""))

    def next(self) -> tuple[str, str]:
        return self.events.get(timeout=10)


def journal_in(directory: Path, told: Told, **options: int) -> Journal:
    settings = {"segment_bytes": 1000, "retain_bytes": 0, "retain_seconds": 0, "reserve_bytes": 0} | options
    journal = Journal(directory, fsync="no", on_full=told.full, on_room=told.room, **settings)  # type: ignore[arg-type]
    journal.open()
    return journal


def content(journal: Journal) -> bytes:
    cursor = journal.cursor()
    offset, out = journal.start, b""
    while chunks := cursor.read(offset, 500):
        out += b"".join(chunk.data for chunk in chunks)
        offset = chunks[-1].end
    return out


def lines(count: int, start: int = 0) -> list[bytes]:
    return [b"%099d\n" % number for number in range(start, start + count)]


def test_bound_stops_writing_and_release_lets_it_go_on(tmp_path: Path) -> None:
    told = Told()
    journal = journal_in(tmp_path, told, max_bytes=20_000)
    journal.reset(Position(A, 0))
    for number, line in enumerate(lines(400)):
        journal.append(line, 100 * number)
    event, reason = told.next()
    assert event == "full"
    assert reason == (
        f"the journal in {tmp_path} has reached max_bytes (20000): "
        "it shrinks, and capture resumes by itself, as the target applies what is journaled"
    )
    assert journal.full_reason == reason
    held = journal.durable_end
    assert journal.start == 0
    assert journal.size <= 20_000
    assert content(journal) == b"".join(lines(400))[:held]
    assert journal.pending_bytes == 40_000 - held
    applied = 0
    while journal.durable_end < 40_000:  # a reader that applies what there is
        applied = journal.durable_end
        journal.release(applied)
        time.sleep(0.001)
    assert told.next() == ("room", "")
    assert journal.full_reason is None
    assert journal.flush()  # the last release has been acted upon
    assert journal.size <= 20_000
    assert content(journal) == b"".join(lines(400))[journal.start :]
    assert journal.start <= applied
    journal.close()


def test_margin_is_given_up_before_capture_stops(tmp_path: Path) -> None:
    told = Told()
    journal = journal_in(tmp_path, told, max_bytes=20_000, retain_bytes=1 << 30, retain_seconds=1 << 30)
    journal.reset(Position(A, 0))
    for number, line in enumerate(lines(1000)):
        journal.release(journal.end)
        journal.append(line, 100 * number)
        if number % 50 == 49:
            journal.flush()
    assert journal.durable_end == 100_000
    assert told.events.empty()
    assert 10_000 < journal.size <= 20_000
    journal.close()


def test_reset_frees_a_full_journal(tmp_path: Path) -> None:
    told = Told()
    journal = journal_in(tmp_path, told, max_bytes=10_000)
    journal.reset(Position(A, 0))
    for number, line in enumerate(lines(200)):
        journal.append(line, 100 * number)
    assert told.next()[0] == "full"
    journal.reset(Position(A, 50_000))
    assert told.next()[0] == "room"
    journal.append(b"on", 1)
    assert journal.flush()
    assert content(journal) == b"on"
    journal.close()


def test_truncate_drops_what_found_no_room(tmp_path: Path) -> None:
    told = Told()
    journal = journal_in(tmp_path, told, max_bytes=10_000)
    journal.reset(Position(A, 0))
    for number, line in enumerate(lines(200)):
        journal.append(line, 100 * number)
    assert told.next()[0] == "full"
    journal.truncate(5_050)
    assert told.next()[0] == "room"
    journal.append(b"on", 1)
    assert journal.flush()
    assert content(journal) == b"".join(lines(200))[:5050] + b"on"
    journal.close()


def test_close_while_full_gives_up_what_was_not_written(tmp_path: Path) -> None:
    told = Told()
    journal = journal_in(tmp_path, told, max_bytes=10_000)
    journal.reset(Position(A, 0))
    for number, line in enumerate(lines(200)):
        journal.append(line, 100 * number)
    assert told.next()[0] == "full"
    assert journal.close()
    again = journal_in(tmp_path, told)
    assert 6_000 < again.end < 10_000
    assert content(again) == b"".join(lines(200))[: again.end]
    again.close()


def test_reserve_of_the_file_system_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1_500_000]
    monkeypatch.setattr(writer, "free_bytes", lambda directory: free[0])
    monkeypatch.setattr(writer, "_RETRY_S", 0.01)
    told = Told()
    journal = journal_in(tmp_path, told, reserve_bytes=1_000_000)
    journal.reset(Position(A, 0))
    journal.append(b"x" * 100, 1)
    assert journal.flush()
    free[0] = 900_000
    journal.append(b"y" * (5 << 20), 2)  # longer than the distance between two looks
    event, reason = told.next()
    assert event == "full"
    assert reason == (
        f"no space left on the file system of {tmp_path} beyond the reserve of 1000000 bytes: "
        "free some, capture resumes by itself"
    )
    free[0] = 2_500_000  # enough for the next chunk, but with less than twice the reserve it would flutter
    time.sleep(0.1)
    assert told.events.empty()
    free[0] = 10_000_000
    assert told.next()[0] == "room"
    assert content(journal) == b"x" * 100 + b"y" * (5 << 20)
    journal.close()


@pytest.mark.parametrize("failing", ["log", "index"])
def test_half_a_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """The disk takes a part and then refuses, five times, in the bytes or in their record."""
    real = os.write
    refuse = [5]

    def half(fd: int, data: bytes | memoryview) -> None:
        if refuse[0] and (len(data) == 32) == (failing == "index"):
            refuse[0] -= 1
            real(fd, data[: len(data) // 2])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd, data)

    told = Told()
    journal = journal_in(tmp_path, told)
    journal.reset(Position(A, 0))
    journal.append(b"before", 1)
    assert journal.flush()
    monkeypatch.setattr(segment, "write_all", half)
    monkeypatch.setattr(writer, "_RETRY_S", 0.01)
    journal.append(b"x" * 50, 100)
    event, reason = told.next()
    assert event == "full"
    assert reason == f"the disk under {tmp_path} reports I/O errors: look at the kernel's log and replace it"
    assert told.next() == ("room", "")
    assert content(journal) == b"before" + b"x" * 50
    assert survey(tmp_path, everything=True).damages == []
    journal.close()


def test_failed_fsync_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_RETRY_S", 0.01)
    broken = [True]
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        if broken[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    told = Told()
    journal = Journal(tmp_path, fsync="always", reserve_bytes=0, on_full=told.full, on_room=told.room)
    journal.open()
    journal.reset(Position(A, 0))
    assert journal.flush()
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal.append(b"x", 1)
    assert told.next()[0] == "full"
    assert journal.durable_end == 0
    assert not journal.flush(0.1)
    broken[0] = False
    assert told.next()[0] == "room"
    assert journal.flush()
    assert journal.durable_end == 1
    journal.close()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space left on the file system of /j: free some, capture resumes by itself"),
        (errno.EDQUOT, "the disk quota for /j is used up: raise it or free some, capture resumes by itself"),
        (errno.EROFS, "the file system of /j is read-only: remount it writable, capture resumes by itself"),
        (errno.EIO, "the disk under /j reports I/O errors: look at the kernel's log and replace it"),
        (errno.EACCES, "cannot write to /j: Permission denied"),
    ],
)
def test_reasons(number: int, text: str) -> None:
    assert reason_of(OSError(number, os.strerror(number)), Path("/j")) == text


REAL = """
import json, os, pathlib, subprocess, sys, time
from queue import SimpleQueue
from canal.journal.journal import Journal
from canal.journal.recovery import survey
from canal.position import Position

directory = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", directory], check=True)
(directory / "ballast").write_bytes(bytes(1 << 20))
state = directory / "state"
events = SimpleQueue()
journal = Journal(state, segment_bytes=1 << 18, fsync="no", reserve_bytes=0, on_full=events.put,
                  on_room=lambda: events.put("room"))
journal.open()
journal.reset(Position("a" * 40, 0))
data = os.urandom(1_500_000)
for start in range(0, len(data), 10_000):
    journal.append(data[start:start + 10_000], start)
told = [events.get(timeout=10)]
sound = survey(state, everything=True)
held = journal.durable_end
told.append(sound.damages)
told.append(sound.runs[-1][-1].end == held and held > 500_000)
(directory / "ballast").unlink()
told.append(events.get(timeout=10))
journal.flush()
subprocess.run(["mount", "--bind", state, state], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", state], check=True)
more = os.urandom(300_000)
for start in range(0, len(more), 10_000):
    journal.append(more[start:start + 10_000], start)
told.append(events.get(timeout=10))
subprocess.run(["umount", state], check=True)
told.append(events.get(timeout=10))
journal.flush()
cursor, out = journal.cursor(), b""
while chunks := cursor.read(len(out), 100_000):
    out += b"".join(chunk.data for chunk in chunks)
cursor.forget()
told.append(out == data + more)
told.append(journal.close())
told.append(survey(state, everything=True).damages)
print(json.dumps(told))
"""


@pytest.mark.slow
def test_full_and_read_only_file_system(tmp_path: Path) -> None:
    """With a real file system of 2 MB in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-c", textwrap.dedent(REAL), str(mounted)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    state = mounted / "state"
    assert json.loads(done.stdout) == [
        f"no space left on the file system of {state}: free some, capture resumes by itself",
        [],
        True,
        "room",
        f"the file system of {state} is read-only: remount it writable, capture resumes by itself",
        "room",
        True,
        True,
        [],
    ]
