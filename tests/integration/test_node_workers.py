"""The parent of the workers and the messages to them: starts, ends, deaths. No Redis needed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from canal.url import parse_url
from node import frames
from node.forkserver import Child, ForkServer
from node.worker import start_message, status_of
from sync.config import LinkConfig
from sync.status import LinkStatus
from tests.support.process import ROOT, ReservedPort, end, eventually, spawn


class Workers(ForkServer):
    """Closes the daemon's ends with the test."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[Child] = []

    async def spawn(self) -> Child:
        self.spawned.append(await super().spawn())
        return self.spawned[-1]


@pytest.fixture
async def workers() -> AsyncIterator[ForkServer]:
    server = Workers()
    yield server
    await server.close()
    for child in server.spawned:
        child.writer.close()
        with contextlib.suppress(ConnectionError):
            await child.writer.wait_closed()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[LinkConfig]:
    port = ReservedPort()  # nobody listens there
    url = f"redis://:hunter2@127.0.0.1:{port.number}"
    yield LinkConfig("sh-bj", parse_url(url), parse_url(url), tmp_path / "state", epoch=3, uid="u" * 16)
    port.release()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def ended(child: Child) -> int:
    return await asyncio.wait_for(asyncio.shield(child.ended), 60)


async def test_a_worker_tells_its_status_and_how_it_ended(workers: ForkServer, config: LinkConfig) -> None:
    child = await workers.spawn()
    child.writer.write(frames.encode(start_message(config, paused=False, log_level=20)))
    messages = []
    while (message := await asyncio.wait_for(frames.read(child.reader), 60)) is not None:
        messages.append(message)
    statuses = [status_of(message) for message in messages if "status" in message]
    assert statuses and isinstance(statuses[-1], LinkStatus) and statuses[-1].state == "failed"
    [end_message] = [message["end"] for message in messages if "end" in message]
    assert end_message["kind"] == "failed" and end_message["transient"] is True
    assert "127.0.0.1" in end_message["error"] and "hunter2" not in str(messages)
    assert await ended(child) == 0


async def test_no_secret_is_in_the_process_list(workers: ForkServer, config: LinkConfig) -> None:
    child = await workers.spawn()
    child.writer.write(frames.encode(start_message(config, paused=False, log_level=20)))
    await frames.read(child.reader)
    for name in ("cmdline", "environ"):
        assert b"hunter2" not in Path(f"/proc/{child.pid}/{name}").read_bytes()
    child.kill()
    assert await ended(child) == -signal.SIGKILL


async def test_many_workers_start_in_a_moment_and_share_their_parent(workers: ForkServer) -> None:
    await workers.start()
    started = asyncio.get_running_loop().time()
    children = [await workers.spawn() for _ in range(50)]
    took = asyncio.get_running_loop().time() - started
    print(f"50 workers in {took:.2f} s")
    assert took < 10 and len({child.pid for child in children}) == 50
    parents = {Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1] for child in children}
    assert len(parents) == 1
    for child in children:
        child.writer.close()
    assert {await ended(child) for child in children} == {0}, "a worker whose daemon hangs up ends by itself"


async def test_a_dead_parent_takes_the_workers_with_it_and_is_started_again(workers: ForkServer) -> None:
    child = await workers.spawn()
    parent = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert await ended(child) == -signal.SIGKILL
    await eventually(lambda: not alive(child.pid), 10, "the worker is gone")
    another = await workers.spawn()
    assert alive(another.pid) and another.pid != child.pid


async def test_workers_and_their_parent_die_with_a_killed_daemon(tmp_path: Path) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(
        "import asyncio, sys\n"
        "from node.forkserver import ForkServer\n"
        "async def main():\n"
        "    workers = ForkServer()\n"
        "    child = await workers.spawn()\n"
        "    print(workers._process.pid, child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with (tmp_path / "out").open("wb") as out:
        daemon = spawn([sys.executable, script], stdout=out, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    await eventually(lambda: (tmp_path / "out").read_text().endswith("\n"), 20, "it has a worker")
    pids = [int(word) for word in (tmp_path / "out").read_text().split()]
    assert all(alive(pid) for pid in pids)
    end(daemon)
    await eventually(lambda: not any(alive(pid) for pid in pids), 10, "all are gone")


async def test_frames_survive_any_split_and_a_torn_end_is_an_end() -> None:
    reader = asyncio.StreamReader()
    data = frames.encode({"a": 1}) + frames.encode({"b": "x" * 100_000})
    for byte in data[:50]:
        reader.feed_data(bytes([byte]))
    reader.feed_data(data[50:] + b"\0\0\0\x10{")
    reader.feed_eof()
    assert await frames.read(reader) == {"a": 1}
    assert await frames.read(reader) == {"b": "x" * 100_000}
    assert await frames.read(reader) is None
    absurd = asyncio.StreamReader()
    absurd.feed_data(b"\xff\xff\xff\xff")
    assert await frames.read(absurd) is None


def test_a_daemon_that_is_gone_before_it_is_answered_leaves_no_traceback() -> None:
    """Killed between its question and the answer: who closes the line instead is a test, which hears what is said."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    command = [sys.executable, "-m", "node.forkserver", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=ROOT, stderr=subprocess.PIPE
        )  # dies with us
    try:
        with ours:
            assert b"ready" in ours.recv(100)
            near, far = socket.socketpair()
            process.send_signal(signal.SIGSTOP)
            socket.send_fds(ours, [b'{"spawn": 1}'], [far.fileno()])
            near.close()
            far.close()
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
    finally:
        end(process)
