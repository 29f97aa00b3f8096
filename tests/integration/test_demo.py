"""``redis-canal demo`` from start to verdict, and what is left of it: nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.process import ROOT, end, spawn, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
DEMO = (sys.executable, "-m", "console.cli.main", "demo")


def children_of(directory: Path) -> list[int]:
    """Processes that work in this directory or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = str((entry / "cwd").readlink())
            except OSError:
                continue
            if where.startswith(str(directory)):
                found.append(int(entry.name))
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The temporary directory that the demonstration is given, and a home that it must leave alone."""
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {"TMPDIR": str(place / "tmp"), "HOME": str(place / "home"), "PYTHONDONTWRITEBYTECODE": "1"}


def test_both_sides_end_equal_and_nothing_is_left(place: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--seconds", "3"], capture_output=True, text=True, timeout=250, check=False, cwd=ROOT,
        env={**os.environ, **environment(place)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"EQUAL: ([\d,]+) keys compared by content and deadline after ([\d,]+) writes, .*", last)
    assert found is not None, last
    assert int(found[1].replace(",", "")) > 100
    assert done.stderr == ""
    assert list((place / "tmp").iterdir()) == []
    assert list((place / "home").iterdir()) == []
    assert children_of(place) == []


def test_ctrl_c_stops_the_writers_and_compares(place: Path) -> None:
    log = place / "log"
    with log.open("wb") as output:
        process = spawn((*DEMO, "--seconds", "600"), stdout=output, stderr=output, cwd=ROOT, env=environment(place))
    try:
        wait_until(lambda: re.search(r"\d\.\d s  writing on both", log.read_text()), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        end(process)
    assert "\nEQUAL: " in log.read_text()
    assert children_of(place) == []


def test_nothing_outlives_a_demo_that_is_killed(place: Path) -> None:
    log = place / "log"
    with log.open("wb") as output:
        process = spawn((*DEMO, "--seconds", "600"), stdout=output, stderr=output, cwd=ROOT, env=environment(place))
    try:
        wait_until(lambda: "writing on both" in log.read_text(), 60)
        assert len(children_of(place)) == 4
    finally:
        end(process)
    wait_until(lambda: children_of(place) == [], what="servers and links are gone")


def test_a_link_that_dies_is_a_failure_that_says_so(place: Path) -> None:
    log = place / "log"
    with log.open("wb") as output:
        process = spawn((*DEMO, "--seconds", "600"), stdout=output, stderr=output, cwd=ROOT, env=environment(place))
    try:
        wait_until(lambda: "writing on both" in log.read_text(), 60)
        links = [pid for pid in children_of(place) if b"run" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        assert len(links) == 2
        os.kill(links[0], signal.SIGKILL)
        assert process.wait(60) == 1
    finally:
        end(process)
    assert re.search(r"redis-canal: error: link \w+ → \w+ ended with code -9", log.read_text())
    assert children_of(place) == []


def test_a_port_in_use_is_refused_before_anything_starts(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*DEMO, "--port", str(min(port, 65532)), "--seconds", "1"], capture_output=True, text=True, timeout=250,
            check=False, cwd=ROOT, env={**os.environ, **environment(place)},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("redis-canal: error: port ")
    assert tempfile.gettempdir() not in done.stderr
