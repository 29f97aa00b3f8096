"""Exactly once, whatever dies: the daemon by kill -9, the target, the connections, at random moments.

REDIS_CANAL_SOAK=1 runs the long form: 30 kills, 5 restarts of the target, 50 cuts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.journal.transfer import META_NAME
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import MODES, LinkProcess
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Wire
from tests.support.workload import COUNTING, Workload

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SOAK = os.environ.get("REDIS_CANAL_SOAK") == "1"
KILLS, RESTARTS, CUTS = (30, 5, 50) if SOAK else (6, 2, 10)


def phase(target: Server, task: str = "test") -> str:
    """What the checkpoint says: "snapshot", "stream", or "" before the first batch."""
    return (target.control.hget(f"redis-canal:checkpoint:{task}/0", "phase") or b"").decode()


@pytest.mark.timeout(900 if SOAK else 300)
@pytest.mark.parametrize("writer", MODES)
def test_every_write_once_across_kills_restarts_and_cuts(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    chance = random.Random(f"{writer}{SOAK}")
    source = redis_server(repl_backlog_size="64mb")
    target = redis_server(appendonly="yes", appendfsync="always")
    near, far = proxy(source), proxy(target)
    events = ["kill"] * KILLS + ["restart"] * RESTARTS + ["cut source", "cut target"] * (CUTS // 2)
    chance.shuffle(events)
    with (
        Workload(source, writers=3, rate=3000, commands=COUNTING) as load,
        LinkProcess(near, far, tmp_path, "--writer", writer) as link,
    ):
        wait_until(lambda: phase(target) == "stream", 30, "the snapshot is applied")
        for event in events:
            load.wait(200)
            time.sleep(chance.random() * 0.3)  # not a wait for anything: a random moment
            assert link.running, link.log[-3000:]
            if event == "kill":
                link.kill()
                link.start()
            elif event == "restart":
                target.restart(graceful=False)
            else:
                cut = chance.choice(["rst", "fin"])
                (near if event == "cut source" else far).cut(cut)  # type: ignore[arg-type]
        load.stop()
        wait_equal(source, target, 60)
        assert link.terminate() == 0, link.log[-3000:]
    wait_equal(source, target, 1)
    assert source.sync_full == 1


@pytest.mark.parametrize("writer", MODES)
def test_kills_while_the_snapshot_is_applied(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    """What was received is on disk: the source is asked for one snapshot only, though the daemon dies in the middle."""
    source, target = redis_server(repl_backlog_size="64mb"), redis_server()
    with Wire(source) as wire:
        wire.call([("RPUSH", f"list:{n}", *range(n, n + 100)) for n in range(10_000)])
    far = proxy(target)
    far.limit(2_000_000)
    with (
        Workload(source, writers=2, rate=500, commands=COUNTING) as load,
        LinkProcess(source, far, tmp_path, "--writer", writer) as link,
    ):
        wait_until((tmp_path / "state/test/snapshot" / META_NAME).exists, 30, "the snapshot is on disk")
        for share in (1, 2, 3):
            wait_until(lambda goal=share * 1500: target.control.dbsize() > goal, 30, "a part of it is applied")
            assert phase(target) != "stream"
            link.kill()
            link.start()
        far.flow()
        wait_until(lambda: phase(target) == "stream", 30, "all of it is applied")
        load.stop()
        wait_equal(source, target, 30)
    assert source.sync_full == 1
