"""The target away for many times the source's backlog, the daemon killed with -9 again and again, before and while it
catches up: exact, no second full resync, and its memory stays small.

Short by default; REDIS_CANAL_FULL=1 runs the whole of it (300 MB, 50 kills).
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import ROOT, end, spawn, wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
MEGABYTES = 300 if FULL else 20
KILLS = 50 if FULL else 6
MEMORY_MB = 120
GAP_BYTES = 400_000  # written around each kill; the backlog holds more than twice that


class Daemon:
    """``redis-canal run``, started again and again on one state directory."""

    def __init__(self, source: Server, door: Proxy, directory: Path) -> None:
        self.log = directory / "log"
        self.peak_kb = 0
        self._arguments = [
            *(sys.executable, "-m", "console.cli.main", "run", "--source", source.url, "--target", door.url),
            *("--state-dir", str(directory / "state"), "--http", "127.0.0.1:0"),
        ]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = spawn(self._arguments, stdout=log, stderr=log, cwd=ROOT)

    def alive(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return True

    def kill(self) -> None:
        self.alive()
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        self.peak_kb = max(self.peak_kb, int(found[1]))
        end(self.process)


def write(server: Server, count: int, size: int) -> None:
    """``count`` commands of ``size`` bytes, such that one lost or applied twice shows."""
    client = server.client()
    for start in range(0, count, 200):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 200, count)):
            pipe.setrange(f"value:{number % 500}", number % 7 * 10, b"%d" % number + b"x" * size)
            pipe.incr(f"count:{number % 20}")
        pipe.execute()


def followed(source: Server) -> Callable[[], bool]:
    """Whether the daemon is in the source's list, and so near that the backlog holds what it lacks."""

    def near() -> bool:
        replicas = [value for key, value in source.info("replication").items() if key.startswith("slave")]
        return any(isinstance(one, dict) and source.offset - int(one["offset"]) < 10_000 for one in replicas)

    return near


def test_exact_with_one_full_resync(redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    source, target = redis_server("7.0", repl_backlog_size="1mb"), redis_server("7.0")
    door = proxy(target)
    moments = random.Random(7)
    write(source, 1000, 100)
    daemon = Daemon(source, door, tmp_path)
    wait_until(lambda: daemon.alive() and target.control.get("count:1") == source.control.get("count:1"), 60)
    door.refuse()
    door.cut()
    kills = KILLS // 2
    size = 2000
    for _ in range(kills):
        write(source, MEGABYTES * 1_000_000 // kills // size, size)
        wait_until(lambda: daemon.alive() and followed(source)(), 60, "capture to be in step")
        write(source, moments.randrange(GAP_BYTES // size), size)
        time.sleep(moments.uniform(0, 0.05))
        daemon.kill()
        daemon.start()
        wait_until(lambda: daemon.alive() and followed(source)(), 60, "capture to go on")
    assert source.offset > MEGABYTES * 1_000_000
    assert target.control.get("count:1") != source.control.get("count:1")

    door.limit(MEGABYTES * 1_000_000 / 20)
    door.accept()
    for _ in range(KILLS - kills):
        wait_until(lambda: daemon.alive() and followed(source)(), 60, "capture to go on")
        time.sleep(moments.uniform(0, 1))
        write(source, moments.randrange(GAP_BYTES // size), size)
        daemon.kill()
        daemon.start()
    door.flow()
    write(source, 100, size)
    wait_until(lambda: daemon.alive() and target.control.get("count:1") == source.control.get("count:1"), 120)
    wait_equal(source, target, 60)
    daemon.kill()
    assert source.sync_full == 1
    print(f"peak memory of the daemon: {daemon.peak_kb} kB")
    assert daemon.peak_kb < MEMORY_MB * 1000, f"{daemon.peak_kb} kB"
