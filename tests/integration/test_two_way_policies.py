"""Two ways: servers that evict are refused, and what empties a database stops the link unless told otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from canal.endpoint import parse_url
from canal.errors import Refused
from sync.config import LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.process import eventually
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def _link(source: Server, target: Server, state: Path, **more: Any) -> Link:
    sides = {"source_dc": "a", "target_dc": "b", "two_way": True}
    return Link(LinkConfig("a-b", parse_url(source.url), parse_url(target.url), state, **{**sides, **more}))


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_server_that_evicts_is_refused(redis_server: StartServer, tmp_path: Path, side: str) -> None:
    servers = {"source": redis_server(), "target": redis_server()}
    servers[side].config_set(maxmemory_policy="allkeys-lru")
    with pytest.raises(Refused, match=r"maxmemory-policy allkeys-lru.*--accept-evictions"):
        await _link(servers["source"], servers["target"], tmp_path / "s").run()
    assert servers["target"].client().keys("*") == [], "nothing was to be written before the refusal"


async def test_evictions_can_be_accepted(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(maxmemory_policy="allkeys-lru"), redis_server()
    link = _link(source, target, tmp_path / "s", accept_evictions=True)
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 60, "streaming")
    link.stop()
    await running


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
async def test_a_flush_stops_a_two_way_link(redis_server: StartServer, tmp_path: Path, command: str) -> None:
    source, target = redis_server(), redis_server()
    link = _link(source, target, tmp_path / "s")
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 60, "streaming")
    source.client().set("k", "v")
    await eventually(lambda: target.client().get("k") == b"v", 60, "the key")
    source.client().execute_command(command)
    with pytest.raises(Refused, match=rf"{command} at offset \d+.*--flush"):
        await asyncio.wait_for(running, 60)
    assert target.client().get("k") == b"v"


@pytest.mark.parametrize(("policy", "left"), [("replay", None), ("drop", b"v")])
async def test_a_flush_by_policy(redis_server: StartServer, tmp_path: Path, policy: str, left: bytes | None) -> None:
    source, target = redis_server(), redis_server()
    link = _link(source, target, tmp_path / "s", flush=policy)
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 60, "streaming")
    client = source.client()
    client.set("k", "v")
    await eventually(lambda: target.client().get("k") == b"v", 60, "the key")
    client.flushall()
    client.set("after", "1")
    await eventually(lambda: target.client().get("after") == b"1", 60, "what came after")
    assert target.client().get("k") == left
    link.stop()
    await running
