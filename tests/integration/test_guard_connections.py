"""The connections over which a late link looks ahead: made when needed, closed when it is in time again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import sync.look
from canal.endpoint import parse_url
from sync.look import Servers
from tests.conftest import StartServer
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def connected(server: Server) -> int:
    """TCP connections: the test's own are over the Unix socket."""
    return sum(not one["addr"].startswith(str(server.unix_socket)) for one in server.control.client_list())


async def test_they_are_closed_when_nobody_asks_and_made_anew_when_somebody_does(
    redis_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = redis_server(), redis_server()
    source.control.set("timed", "v", ex=1000)
    monkeypatch.setattr(sync.look, "_IDLE_S", 2.0)  # longer than a busy machine takes to ask both
    servers = Servers(parse_url(source.url), parse_url(target.url))
    for _ in range(2):
        assert [left > 0 for left in await servers.lives("source", [(0, b"timed")])] == [True]
        assert await servers.lives("target", [(0, b"timed")]) == [-2]
        assert connected(source) == connected(target) == 1
        await eventually(lambda: connected(source) == connected(target) == 0, 20, "the connections are closed")
    servers.close()


async def test_a_connection_that_waits_for_a_reply_is_not_idle(
    redis_server: StartServer, proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = redis_server()
    door = proxy(source)
    monkeypatch.setattr(sync.look, "_IDLE_S", 0.05)
    servers = Servers(parse_url(door.url), parse_url(source.url))
    assert await servers.lives("source", [(0, b"none")]) == [-2]
    door.stall("to_client")
    asked = asyncio.create_task(servers.lives("source", [(0, b"none")]))
    resting = servers._rest
    looked = 0

    def rest() -> None:
        nonlocal looked
        looked += 1
        resting()

    monkeypatch.setattr(servers, "_rest", rest)
    await eventually(lambda: looked >= 2, 20, "it was looked at twice whether they are idle")
    assert not asked.done()
    door.flow()
    assert await asked == [-2]
    servers.close()
    await eventually(lambda: connected(source) == 0, 20, "closed")
