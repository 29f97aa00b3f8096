"""Keys whose replies were lost: only what differs at rest, with nothing on its way, is in dispute."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.config import LinkConfig
from sync.doubts import Doubts
from sync.homes import Place
from sync.status import LinkStatus
from sync.tag import INDEX, PREFIX
from sync.transform import Transform
from sync.verify.mapping import TaskMapping
from tests.conftest import StartServer
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers


class Compared:
    """Two servers, and what is found in dispute between them."""

    def __init__(self, a: Server, b: Server, directory: Path) -> None:
        self.a, self.b = a, b
        self.disputed: list[Place] = []
        config = LinkConfig(
            "t", parse_url(a.url), parse_url(b.url), directory, source_dc="a", target_dc="b", two_way=True
        )
        self.status = LinkStatus("t", "0", "a", "b")
        self.status.state = "streaming"
        mapping = TaskMapping(Transform(config.transform))
        told = self.disputed.extend
        self.doubts = Doubts(config, self.status, mapping, told, told, lambda place: place[1] == b"third's")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.doubts.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def back_is_at(self, offset: int) -> None:
        """A link from b to a has applied so much."""
        replid = self.b.info("replication")["master_replid"]
        self.a.control.sadd(INDEX, PREFIX + b"b-a/0")
        self.a.control.hset(PREFIX + b"b-a/0", mapping={"pos": f"{replid}:{offset}", "origin": "b"})


@pytest.fixture
def compared(redis_server: StartServer, tmp_path: Path) -> Compared:
    return Compared(redis_server(), redis_server(), tmp_path)


async def _until(done: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, lambda: bool(done()), 60, "it came true")


async def test_what_differs_at_rest_is_in_dispute_and_what_does_not_is_forgotten(compared: Compared) -> None:
    for server in (compared.a, compared.b):
        server.control.set("same", 1)
        server.control.set("unlike", server.port)
        server.control.set("third's", server.port)
    async with compared.running():
        compared.doubts.add([(0, key) for key in (b"same", b"unlike", b"nowhere", b"third's")])
        await _until(lambda: len(compared.doubts) == 1)
        assert compared.disputed == [(0, b"unlike")], "the third's write may be on its way to one of the two"
        compared.b.control.set("third's", compared.a.port)
        await _until(lambda: not len(compared.doubts))
    assert compared.disputed == [(0, b"unlike")]


async def test_nothing_is_in_dispute_that_a_link_back_has_still_to_bring(compared: Compared) -> None:
    compared.a.control.set("k", "older")
    compared.b.control.set("k", "newer")
    # a new server counts from its first replica on; until then nothing is on its way
    compared.b.control.execute_command("REPLICAOF", "NO", "ONE")
    compared.back_is_at(-100_000)

    def polls() -> int:
        return int(compared.a.control.info("commandstats").get("cmdstat_smembers", {}).get("calls", 0))

    async with compared.running():
        compared.doubts.add([(0, b"k")])
        await _until(lambda: polls() > 45)  # about ten in a look
        assert compared.disputed == []
        compared.back_is_at(1 << 40)
        await _until(lambda: compared.disputed)
    assert compared.disputed == [(0, b"k")]


async def test_a_key_that_never_rests_is_not_in_dispute_soon(compared: Compared) -> None:
    """One side is ahead of the other all the time: to write its older value over the newer one would undo writes."""
    reads = 0
    async with compared.running():
        compared.doubts.add([(0, b"k")])
        for _ in range(400):
            compared.b.control.incr("k")
            await asyncio.sleep(0.02)
            reads = compared.b.control.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
            reads += compared.b.control.info("commandstats").get("cmdstat_eval", {}).get("calls", 0)
            if reads > 13:
                break
        assert compared.disputed == []
        await _until(lambda: compared.disputed)
