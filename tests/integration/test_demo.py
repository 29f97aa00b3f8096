"""``redis-canal demo`` from start to verdict, and what is left of it: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.support.process import ROOT, end, spawn, wait_until
from tests.support.zookeeper import ZooKeeper

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


def workers_in(place: Path) -> list[int]:
    """The processes that run links: grandchildren of the nodes, named by what forked them."""
    found = []
    for pid in children_of(place):
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            commands = [Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0") for one in (pid, parent)]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        if commands[0] == commands[1] and b"forkserver" in b" ".join(commands[0]):
            found.append(pid)
    return found


@contextmanager
def running(place: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A demonstration that writes until it is told to stop, and its log."""
    log = place / "log"
    with log.open("wb") as output:
        command = (*DEMO, "--seconds", "600", *arguments)
        process = spawn(command, stdout=output, stderr=output, cwd=ROOT, env=environment(place))
    try:
        wait_until(lambda: re.search(r"\d\.\d s  writing on both", log.read_text()), 120)
        yield process, log
    finally:
        end(process)


def test_both_sides_end_equal_and_nothing_is_left(place: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--seconds", "3"], capture_output=True, text=True, timeout=250, check=False, cwd=ROOT,
        env={**os.environ, **environment(place), "REDIS_CANAL__NODE": "of somebody else"},
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


def test_the_console_is_open_on_it_and_a_worker_that_dies_is_replaced(place: Path) -> None:
    with running(place) as (process, log):
        address = re.search(r"the console, open on it: (http://127\.0\.0\.1:\d+)/", log.read_text())
        assert address is not None, log.read_text()

        def tasks() -> dict[str, str]:
            with urllib.request.urlopen(f"{address[1]}/api/v1/tasks", timeout=30) as answer:
                return {task["task"]: task["state"] for task in json.load(answer)["tasks"]}

        both = {"shanghai-beijing": "streaming", "beijing-shanghai": "streaming"}
        wait_until(lambda: tasks() == both, 30, "the console shows both tasks")
        before = workers_in(place)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(set(workers_in(place)) - set(before)) == 1, 30, "another worker has taken its place")
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0, log.read_text()
    assert "\nEQUAL: " in log.read_text()
    assert children_of(place) == []


def test_nothing_outlives_a_demo_that_is_killed(place: Path) -> None:
    with running(place) as (process, _):
        assert len(children_of(place)) >= 2 + 2 * 3 + 1, "servers; daemon, fork server and worker of each node; console"
        end(process)
        wait_until(lambda: children_of(place) == [], what="everything that it started is gone")


def test_a_node_that_dies_is_a_failure_that_says_so(place: Path) -> None:
    with running(place) as (process, log):
        nodes = [pid for pid in children_of(place) if b"node" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        os.kill(nodes[0], signal.SIGKILL)
        wait_until(lambda: process.poll() is not None, 90, "the demonstration ends")
        assert process.returncode == 1
    assert re.search(r"redis-canal: error: node \w+-1 ended with code -9", log.read_text())
    assert children_of(place) == []


@pytest.mark.zookeeper
def test_the_same_on_an_ensemble_which_is_left_as_it_was(place: Path) -> None:
    with ZooKeeper.start() as zookeeper:
        client = KazooClient(hosts=zookeeper.hosts)
        client.start()
        done = subprocess.run(
            [*DEMO, "--seconds", "2", "--zookeeper", zookeeper.hosts], capture_output=True, text=True, timeout=250,
            check=False, cwd=ROOT, env={**os.environ, **environment(place)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].startswith("EQUAL: ")
        assert client.get_children("/redis-canal-demo") == []
        client.stop()
        client.close()


def test_an_ensemble_that_does_not_answer_is_refused_before_anything_starts(place: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--zookeeper", "127.0.0.1:1"], capture_output=True, text=True, timeout=250, check=False, cwd=ROOT,
        env={**os.environ, **environment(place)},
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("redis-canal: error: zookeeper 127.0.0.1:1/redis-canal-demo cannot be reached")


def test_a_port_in_use_is_refused_before_anything_starts(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*DEMO, "--port", str(min(port, 65531)), "--seconds", "1"], capture_output=True, text=True, timeout=250,
            check=False, cwd=ROOT, env={**os.environ, **environment(place)},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("redis-canal: error: port ")
    assert tempfile.gettempdir() not in done.stderr
