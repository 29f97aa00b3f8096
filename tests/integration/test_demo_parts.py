"""The demonstration's processes: they end with it, and its writers really write all types."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from canal.errors import CanalError
from console.demo import children
from console.demo.servers import find_server, free_ports, start_server
from console.demo.writer import Writer
from tests.conftest import StartServer
from tests.support.process import ROOT, eventually, wait_until

pytestmark = pytest.mark.servers


def alive(pid: int) -> bool:
    """Whether the process runs (one that waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_child_is_stopped_and_its_end_explained(tmp_path: Path) -> None:
    child = await children.start("c", [sys.executable, "-c", "print('one\\ntwo'); raise SystemExit(3)"], tmp_path)
    assert await child.process.wait() == 3
    assert (child.running, child.tail()) == (False, "one | two")
    assert await child.stop(1) == 3
    sleeper = await children.start("s", ["sleep", "60"], tmp_path)
    assert await sleeper.stop(5) == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    child = await children.start("c", [sys.executable, "-c", code], tmp_path)
    await eventually(lambda: child.tail() == "ready")
    assert await child.stop(0.1) == -signal.SIGKILL


async def test_a_child_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CanalError, match=r"cannot start c \(/nowhere/x\): No such file"):
        await children.start("c", ["/nowhere/x"], tmp_path)


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from console.demo import children\n"
        "async def main():\n"
        f"    child = await children.start('c', ['sleep', '60'], Path({str(tmp_path)!r}))\n"
        "    print(child.process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), what="the child is gone")


async def test_a_server_of_the_demo_answers_and_ends(tmp_path: Path) -> None:
    binary, version = find_server()
    assert version.split()[0] in ("Redis", "Valkey")
    (port,) = free_ports(1)
    server = await start_server(binary, "one", port, tmp_path)
    client = server.client()
    assert await client.ping()
    await client.aclose()
    with pytest.raises(CanalError, match=f"port {port} is in use by another server|did not start on port {port}"):
        await start_server(binary, "two", port, tmp_path)
    await server.child.stop(10)
    assert not server.child.running
    assert {path.name for path in tmp_path.iterdir()} <= {"one.log", "two.log"}


async def test_the_writer_writes_every_type_under_its_own_names(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    async with server.async_client() as client:
        writer = Writer("sh", client, 7)
        task = asyncio.create_task(writer.run())
        await eventually(lambda: writer.written >= 4000 or task.done(), 30)
        writer.stop()
        await task
    for db in (0, 1):
        found = server.client(db=db)
        keys = found.keys("*")
        assert all(key.startswith(b"sh:") for key in keys)
        kinds = {key.split(b":")[1] for key in keys}
        assert kinds >= {
            b"string", b"deadline", b"counter", b"append", b"bits", b"list", b"set", b"zset", b"hash", b"stream",
            b"geo", b"visitors", b"account",
        }  # fmt: skip
        assert {found.type(key) for key in keys} - {b"none"} == {
            b"string",
            b"list",
            b"set",
            b"zset",
            b"hash",
            b"stream",
        }
        assert found.xpending("sh:stream:0", "workers")["pending"] > 0


async def test_a_writer_says_when_its_server_has_gone(redis_server: StartServer) -> None:
    server = redis_server()
    async with server.async_client() as client:
        task = asyncio.create_task(Writer("sh", client, 1).run())
        await eventually(lambda: server.offset > 0 or server.client().dbsize() > 0)
        await asyncio.to_thread(server.kill)
        with pytest.raises(Exception, match=r"[Cc]onnect|closed|reading"):
            await asyncio.wait_for(task, 60)
