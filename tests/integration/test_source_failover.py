"""A source fails over to a replica that lacks the newest stream: no full resync, and equal with the new master."""

from __future__ import annotations

import asyncio
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


async def _offset_reached(link: Link, server: Server) -> None:
    await eventually(lambda: link.status.applied_offset >= server.offset, 20, "the target to be in step")


def _follow(replica: Server, master: Proxy) -> None:
    replica.client().execute_command("REPLICAOF", "127.0.0.1", master.port)


@pytest.mark.parametrize("lost_bytes", [0, 1_000_000], ids=["nothing lost", "1 MB lost"])
async def test_no_full_resync_and_equal(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, lost_bytes: int
) -> None:
    master, replica, target = redis_server("7.0", repl_backlog_size="16mb"), redis_server("7.0"), redis_server("7.0")
    replica.config_set(repl_backlog_size="16mb")
    to_master = proxy(master)
    door = proxy(master)
    await asyncio.to_thread(_follow, replica, to_master)
    client = master.client()
    for i in range(200):
        client.rpush(f"list:{i % 20}", i)
        client.incr("count")
    await eventually(lambda: replica.offset == master.offset and master.offset > 0, 20, "the replica to be in step")

    link = Link(LinkConfig("t", parse_url(door.url), parse_url(target.url), tmp_path / "state"))
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 20, "streaming")
    for i in range(200):
        client.rpush(f"list:{i % 20}", i)
        client.incr("count")
    await _offset_reached(link, master)
    await eventually(lambda: replica.offset == master.offset, 20, "the replica to be in step")

    if lost_bytes:
        to_master.stall("both")
        pipe = master.client(3).pipeline(transaction=False)
        for i in range(lost_bytes // 1000):
            pipe.set(f"lost:{i}", b"x" * 900)
            pipe.append("grown", b"y" * 50)
        await asyncio.to_thread(pipe.execute)
        client.rpush("list:3", "lost")
        client.incr("count")
        await _offset_reached(link, master)
        assert target.client(3).exists("lost:1")
    await asyncio.to_thread(master.kill)
    replica.client().execute_command("REPLICAOF", "NO", "ONE")
    fresh = replica.client()
    for i in range(50):
        fresh.rpush(f"list:{i % 20}", f"new:{i}")
        fresh.incr("count")
    full_before = replica.sync_full
    door.target = replica.address
    door.cut()
    await eventually(lambda: link.status.source_connected and link.status.partial_resyncs > 0, 30, "the new master")
    for i in range(50):
        fresh.rpush(f"list:{i % 20}", f"newer:{i}")
        fresh.incr("count")
    await _offset_reached(link, replica)
    await asyncio.to_thread(wait_equal, replica, target, 20)
    assert replica.sync_full == full_before
    assert link.status.full_resyncs == 1
    assert not target.client().exists("redis-canal:refetch:t/0")
    link.stop()
    await running
