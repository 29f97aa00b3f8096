"""A key that the source renewed is whole at the target, whatever the lag; its deadline in the end is the source's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.config import LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

# The full form of the issue: 5 s, every 2 s, away for 20 s, 3 s of lag, 200 keys of each kind.
FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
TTL_MS = 5000 if FULL else 1500
EVERY_S = 2.0 if FULL else 0.5
AWAY_S = 20.0 if FULL else 5.0
LAG_S = 3.0 if FULL else 1.0
KEYS = 200 if FULL else 60


class Sessions:
    """Renews sessions and counters in time, as an application would; some are let die."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def __enter__(self) -> Sessions:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        client = self._server.client()
        while not self._stop.is_set():
            begun = time.monotonic()
            pipe = client.pipeline(transaction=False)
            for i in range(KEYS):
                if i % 10 == 9 and self.rounds > 2:
                    continue  # this one is let die
                pipe.hset(f"session:{i}", f"field:{self.rounds}", "v")
                pipe.pexpire(f"session:{i}", TTL_MS)
                pipe.incr(f"counter:{i}")
                pipe.pexpire(f"counter:{i}", TTL_MS)
            pipe.execute()
            self.rounds += 1
            self._stop.wait(max(0.0, EVERY_S - (time.monotonic() - begun)))


def _long_lived(client: object) -> None:
    """All keys get a deadline far away, so that they can be compared at leisure."""
    pipe = client.pipeline(transaction=False)  # type: ignore[attr-defined]
    for i in range(KEYS):
        pipe.pexpire(f"session:{i}", 600_000)
        pipe.pexpire(f"counter:{i}", 600_000)
    pipe.execute()


async def _start(source: Server, door: Proxy, state: Path) -> tuple[Link, asyncio.Task[None]]:
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), state))
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 20, "streaming")
    return link, running


@pytest.mark.parametrize("version", ["7.0", "6.2"])
async def test_target_away_for_longer_than_the_keys_live(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    door = proxy(target)
    link, running = await _start(source, door, tmp_path / "state")
    with Sessions(source) as sessions:
        await eventually(lambda: sessions.rounds >= 3, 20, "the first rounds")
        door.refuse()
        door.cut()
        await eventually(lambda: sessions.rounds >= 3 + AWAY_S / EVERY_S, AWAY_S * 3, "the outage to last")
        assert target.client().exists("session:1") == 0, "the target was to lose its keys meanwhile"
        door.accept()
        await eventually(lambda: link.status.applied_offset >= source.offset - 200, 30, "catching up")
        sessions.stop()
        await asyncio.to_thread(wait_equal, source, target, 5, ttl_tolerance_ms=60)
        assert target.client().hlen("session:1") == source.client().hlen("session:1") >= sessions.rounds - 1
        assert not target.client().exists("session:9")
    link.stop()
    await running


async def test_steady_lag(redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    source, target = redis_server("7.0"), redis_server("7.0")
    door = proxy(target)
    link, running = await _start(source, door, tmp_path / "state")
    door.delay(LAG_S / 2, "both")
    rounds = int(12 * LAG_S / EVERY_S)
    with Sessions(source) as sessions:
        await eventually(lambda: sessions.rounds >= rounds, 120, "rounds under lag")
        door.flow()
        await eventually(lambda: link.status.applied_offset >= source.offset - 200, 60, "catching up")
        _long_lived(source.client())
        sessions.stop()
        _long_lived(source.client())
        await asyncio.to_thread(wait_equal, source, target, 20, ttl_tolerance_ms=60)
        assert target.client().hlen("session:1") == sessions.rounds
        assert int(target.client().get("counter:1")) == sessions.rounds
    link.stop()
    await running


@pytest.mark.parametrize("by", ["snapshot", "stream"])
async def test_the_only_key_with_a_deadline_dies_at_the_target_alone(
    redis_server: StartServer, tmp_path: Path, by: str
) -> None:
    """Nothing on either side has a deadline any more when the late link looks: that there was one still counts."""
    source, target = redis_server(), redis_server()
    if by == "snapshot":
        source.client().set("n", 7, px=1500)
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(target.url), tmp_path / "state"))
    running = asyncio.create_task(link.run())
    try:
        await eventually(lambda: link.status.state == "streaming", 60)
        if by == "stream":
            source.client().set("n", 7, px=1500)
        await eventually(lambda: target.client().exists("n"), 60)
        link.pause()
        await eventually(lambda: link.status.paused, 60)
        source.client().persist("n")
        await eventually(lambda: not target.client().exists("n"), 60)
        source.client().incr("n")
        await asyncio.sleep(0.5)  # so that the link is late
        link.resume()
        await asyncio.to_thread(wait_equal, source, target)
    finally:
        link.stop()
        await asyncio.wait_for(running, 60)
