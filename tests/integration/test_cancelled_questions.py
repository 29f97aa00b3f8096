"""Whoever asks a server something and is cancelled meanwhile leaves no connection behind, and ends at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from canal.cluster.discover import ask
from canal.endpoint import Endpoint, parse_url
from canal.errors import ConfigError, Unready
from canal.located import answer
from sync.horizon import replication_info
from sync.preflight import source_info
from tests.conftest import StartServer
from tests.support.links import link_config
from tests.support.process import eventually
from tests.support.servers import Server

pytestmark = pytest.mark.servers


async def _topology(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="no node of a Redis Cluster"):
        await ask(endpoint)


async def _source_info(endpoint: Endpoint) -> None:
    server = type("Named", (), {"url": f"redis://{endpoint.address}"})()
    await source_info(link_config(server, server, Path()))


QUESTIONS: dict[str, Callable[[Endpoint], Awaitable[Any]]] = {
    "backlog": replication_info,
    "topology": _topology,
    "source": _source_info,
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_that_is_cancelled_leaves_nothing_behind(redis_server: StartServer, question: str) -> None:
    """At every turn of the loop; what is not closed warns when it is collected, which fails the test."""
    server = redis_server()
    endpoint, asked = parse_url(server.url), QUESTIONS[question]
    ended = 0
    for turns in range(40):
        task = asyncio.ensure_future(asked(endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            ended += 1
    assert ended > 5, "it was to be cancelled while it asks"
    await asked(endpoint)
    await eventually(lambda: _clients(server) == 1, 10, "nobody but this test is connected")
    gc.collect()


def _clients(server: Server) -> int:
    return len(server.control.client_list())


async def test_a_server_that_cannot_answer_now_is_asked_again_later(redis_server: StartServer) -> None:
    server = redis_server()
    server.control.config_set("busy-reply-threshold", 1)
    blocking = asyncio.ensure_future(asyncio.to_thread(server.client().eval, "while true do end", 0))
    with pytest.raises(Unready, match="not now: BUSY"):
        while not blocking.done():
            await answer(parse_url(server.url), b"INFO")
    server.control.script_kill()
    with pytest.raises(redis.ResponseError, match="killed"):
        await blocking
