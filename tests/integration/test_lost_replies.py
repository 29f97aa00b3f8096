"""Keys whose replies were lost are compared before anybody takes them for disputed, so that no write is undone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sync import doubts as module
from sync.doubts import Doubts
from sync.homes import Place
from sync.status import LinkStatus
from sync.transform import Transform
from sync.verify.mapping import TaskMapping
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import Link, link_between, link_config
from tests.support.process import PATIENCE_S, eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers


class Told:
    """`Doubts` about a pair without links, and what they tell."""

    def __init__(self, first: Server, second: Server | Proxy, directory: Path) -> None:
        self.status = LinkStatus("test", "0", "a", "b")
        self.status.state = "streaming"
        self.disputed: list[Place] = []
        self.restless: list[Place] = []
        config = link_config(first, second, directory)
        mapping = TaskMapping(Transform(config.transform))
        self.doubts = Doubts(config, self.status, mapping, self.disputed.extend, self.restless.extend)


@contextlib.asynccontextmanager
async def running(told: Told) -> AsyncIterator[None]:
    task = asyncio.create_task(told.doubts.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "_REST_S", 0.1)
    monkeypatch.setattr(module, "_PATIENCE_S", 2.0)


async def test_a_key_that_never_rests_is_told_as_that(redis_server: StartServer, tmp_path: Path, fast: None) -> None:
    first, second = redis_server(), redis_server()
    told = Told(first, second, tmp_path)
    writer = first.client()
    async with running(told):
        writer.set("k", 0)
        told.doubts.add([(0, b"k")])

        def counted() -> bool:
            writer.incr("k")
            return not len(told.doubts)

        await eventually(counted, 20, "it is given up")
    assert (told.disputed, told.restless) == ([], [(0, b"k")])


async def test_nothing_is_compared_while_the_link_is_down_and_nothing_is_forgotten(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, fast: None
) -> None:
    first, second = redis_server(), redis_server()
    door = proxy(second)
    first.control.set("k", 1)
    told = Told(first, door, tmp_path)
    told.status.state = "connecting"
    async with running(told):
        told.doubts.add([(0, b"k")])
        await asyncio.sleep(0.3)
        assert door.accepted == 0
        door.refuse()
        told.status.state = "streaming"
        await asyncio.sleep(0.3)
        assert len(told.doubts) == 1
        door.accept()
        await eventually(lambda: told.disputed == [(0, b"k")], 20, "compared at last")


@pytest.mark.parametrize("home", ["a", "b"])
def test_connections_that_break_while_one_side_counts_undo_nothing(
    redis_server: StartServer,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fast: None,
    home: str,
) -> None:
    """What the side that writes has is never set back to what the other has got so far, whoever is the home."""
    caplog.set_level(logging.INFO, "sync.doubts")
    a, b = redis_server("7.0"), redis_server("7.0")
    from_a, to_b = proxy(a), proxy(b)
    there = link_between(from_a, to_b, tmp_path, "a-b", two_way=True, home=(home,))
    back = link_between(b, a, tmp_path, "b-a", two_way=True, home=(home,))
    client = a.client()
    with there, back:
        there.streaming()
        back.streaming()
        client.rpush("queue", *range(20))
        client.set("price", 0)
        from_a.delay(0.03, "to_client")  # b is late, always
        count, told_at, cut_at, stalled, end = 0, 0.0, 0.0, False, time.monotonic() + 2 * PATIENCE_S
        while not told_at or time.monotonic() < told_at + 1.5:  # what an echo undoes comes back within that
            assert time.monotonic() < end, "no reply was lost, or the keys are still in doubt"
            for _ in range(10):
                count += 1
                assert client.incr("counter") == count, "set back"
                assert client.incrbyfloat("price", 0.5) == count / 2, "set back"
                client.rpush("queue", count + 19)
                assert client.lpop("queue") == b"%d" % (count - 1), "taken twice, or lost"
            time.sleep(0.01)
            told_at = told_at or (time.monotonic() if "never rest" in caplog.text else 0.0)
            flows = not told_at and not _doubts(there) and there.status.state == "streaming"
            if stalled and time.monotonic() > cut_at + 0.1:  # what was sent meanwhile has no reply
                to_b.cut()
                to_b.flow()
                cut_at, stalled = time.monotonic(), False
            elif flows and not stalled and time.monotonic() > cut_at + 0.5:
                to_b.stall("to_client")
                cut_at, stalled = time.monotonic(), True
        there.in_step(a)
        wait_equal(a, b, 20)
        assert int(b.control.get("counter") or 0) == count


def _doubts(link: Link) -> Doubts:
    replay = None if link.product is None else link.product._replay
    assert replay is not None and replay._converge is not None
    return replay._converge._doubts
