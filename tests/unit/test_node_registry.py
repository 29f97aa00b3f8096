"""Whether a registered process of this machine certainly lives: only then is a second daemon refused at once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from node.coordination.records import NodeRecord
from node.coordination.registry import boot_id, pid_started, process_lives

PID = os.getpid()
SELF = NodeRecord("a", host=os.uname().nodename, pid=PID, boot=boot_id(), pid_started=pid_started(PID))


def test_this_process_lives() -> None:
    assert SELF.boot and SELF.pid_started and process_lives(SELF)


@pytest.mark.parametrize(
    "change",
    [
        {"pid_started": SELF.pid_started - 1},  # its number was given to another process
        {"boot": "another boot"},
        {"boot": ""},
        {"host": "another-machine"},
        {"pid": 2**22 + 1},
        {"pid_started": 0},
    ],
)
def test_anything_else_may_be_dead(change: dict[str, int | str]) -> None:
    assert not process_lives(replace(SELF, **change))  # type: ignore[arg-type]


def test_a_process_that_has_ended_does_not_live_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    record = replace(SELF, pid=child.pid, pid_started=pid_started(child.pid))
    assert process_lives(record)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert not process_lives(record) and pid_started(child.pid) == 0
    child.wait()
