"""kill -9 at random moments: what is left is always a prefix of the stream, and no shorter than was called durable."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from canal.journal.journal import Journal
from tests.support.effort import share

WRITE = """
import pathlib, random, sys, time
from canal.journal.journal import Journal
from canal.position import Position

directory, fsync, seed = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sizes = random.Random(seed)
journal = Journal(directory, segment_bytes=20_000, fsync=fsync, reserve_bytes=0)
found = journal.open()
if not journal.positioned:
    journal.reset(Position("a" * 40, 8))
print("open", found.end, len(found.damages), flush=True)
while True:
    first = journal.end // 8
    count = sizes.randrange(1, 1000)
    journal.append(b"".join(b"%07d\\n" % number for number in range(first, first + count)), first)
    journal.mark(journal.end, sizes.randrange(3))
    if sizes.randrange(4) == 0:
        time.sleep(0.001)
    if sizes.randrange(50) == 0:
        journal.truncate(journal.end - sizes.randrange(100) * 8)
    print("durable", journal.durable_end, flush=True)
"""


CUT = 800 + 8000
"""A cut takes back up to 100 lines; a kill within it also the chunk that it splits, up to 1000 lines, of which the kept
part is written anew.
"""


def survivors(directory: Path) -> tuple[int, list[str]]:
    """The end of what is left, after checking every byte of it; and what recovery said."""
    journal = Journal(directory, reserve_bytes=0)
    found = journal.open()
    cursor = journal.cursor()
    offset = found.start
    while chunks := cursor.read(offset, 1 << 20):
        data = b"".join(chunk.data for chunk in chunks)
        first = offset // 8 * 8
        expected = b"".join(b"%07d\n" % number for number in range(first // 8, (offset + len(data)) // 8 + 1))
        assert data == expected[offset - first :][: len(data)]
        offset += len(data)
    cursor.forget()
    assert offset == found.end
    journal.close()
    return found.end, found.damages


def killed_after(directory: Path, fsync: str, seed: int, seconds: float) -> int:
    """Run a writer, kill it; returns the last offset that it had called durable."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(directory), fsync, str(seed)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"open ")
        deadline = time.monotonic() + seconds
        durable = [0, 0]  # the last two: a cut may take back the very last one
        for line in process.stdout:
            durable = [durable[1], int(line.split()[1])]
            if time.monotonic() > deadline:
                break
        process.kill()
        rest = process.stdout.read().splitlines()
    for line in rest:
        if line.count(b" ") == 1 and line.split()[1].isdigit():
            durable = [durable[1], int(line.split()[1])]
    return min(durable)


@pytest.mark.slow
def test_killed_writers_leave_a_prefix(tmp_path: Path) -> None:
    """The same journal, killed again and again, written on by the next."""
    moments = random.Random(3)
    ends = [0]
    said: list[str] = []
    for seed in range(max(3, share(9))):
        durable = killed_after(tmp_path, ("no", "always", "everysec")[seed % 3], seed, moments.uniform(0, 0.1))
        end, damages = survivors(tmp_path)
        said += damages
        assert end >= durable - CUT * 2
        assert end >= ends[-1] - CUT * 2
        ends.append(end)
    assert ends[-1] > 15_000
    assert all("torn write left" in damage for damage in said), said
