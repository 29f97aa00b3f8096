"""What a node tells of its processes and its dead letters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from node.coordination.plan import ShardId
from node.letters import NEWEST, letter_documents
from node.usage import usage
from sync.deadletter import DeadLetters
from tests.support.process import end, spawn, wait_until


def test_usage_is_that_of_the_process_and_its_descendants() -> None:
    inner = "import sys; x = bytearray(50 << 20); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    child = spawn([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: (found := usage(child.pid)) and found.processes == 2 and found.memory_bytes > 50 << 20, 10)
        found = usage(child.pid)
        assert found is not None and 0 < found.cpu_seconds < 10 and found.memory_bytes < 500 << 20
        mine = usage()
        assert mine is not None and mine.processes >= 3
    finally:
        end(child)
    assert usage(child.pid) is None


def test_dead_letters_are_told_without_their_values(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        directory.mkdir()
    letters = DeadLetters(first)
    for number in range(NEWEST + 5):
        letters.write(number, "r" * 40, 0, [b"SET", b"k\xff%d" % number, b"secret"], "OOM")
    DeadLetters(second).write(7, "r" * 40, 3, [b"flushall"], "NOPERM")
    found = letter_documents([(ShardId("t", "0"), first), (ShardId("u", "0"), second), (ShardId("v", "0"), tmp_path)])
    assert len(found) == NEWEST + 1 and "secret" not in str(found)
    assert (found[0]["task"], found[0]["command"], found[0]["key"], found[0]["db"]) == ("u", "FLUSHALL", None, 3)
    assert found[1]["key"] == f"k\\xff{NEWEST + 4}" and found[1]["settled"] is None
