"""Two links from one source that come to one target in the same instant: not both may go on."""

from __future__ import annotations

import asyncio

import pytest

from canal.endpoint import parse_url
from canal.errors import Refused
from canal.position import Position
from sync.tag import INDEX, checkpoint_key
from sync.target.connection import Connection, connect
from sync.target.duplicates import claim_source, refuse_duplicate
from sync.target.fence import fence
from tests.conftest import StartServer
from tests.support.servers import Server

pytestmark = pytest.mark.servers

REPLID, OTHER = "a" * 40, "b" * 40


async def arrive(server: Server, task: str, stored: Position | None = None) -> str:
    """What becomes of a link of this task."""
    conn: Connection = await connect(parse_url(server.url))
    try:
        await fence(conn, task, "0", 1)
        await claim_source(conn, checkpoint_key(task, "0"), stored, [OTHER, REPLID])
        return "goes on"
    except Refused:
        return "refused"
    finally:
        conn.close()


async def test_of_two_that_start_in_the_same_instant_never_both_go_on(redis_server: StartServer) -> None:
    server = redis_server()
    for _ in range(30):
        ends = await asyncio.gather(arrive(server, "one"), arrive(server, "two"))
        assert "refused" in ends
        if ends.count("refused") == 2:  # each saw the other: no claim is left to stand in the way of the next try
            assert await arrive(server, "one") == "goes on"
        server.control.flushall()


async def test_a_claim_of_another_source_disturbs_nobody(redis_server: StartServer) -> None:
    server = redis_server()
    assert await arrive(server, "one") == "goes on"
    conn = await connect(parse_url(server.url))
    try:
        assert await conn.call(b"SCARD", INDEX) == 1
        await refuse_duplicate(conn, checkpoint_key("two", "0"), {"c" * 40})
        with pytest.raises(Refused, match=r"checkpoint:one/0 follows the same replication id a{40}"):
            await refuse_duplicate(conn, checkpoint_key("two", "0"), {REPLID})
    finally:
        conn.close()


async def test_a_link_whose_checkpoint_says_whom_it_follows_claims_nothing(redis_server: StartServer) -> None:
    server = redis_server()
    assert await arrive(server, "one", Position(REPLID, 7)) == "goes on"
    assert server.control.hget(checkpoint_key("one", "0"), "claim") is None
    assert await arrive(server, "one", Position(OTHER, 7)) == "goes on"
    assert server.control.hget(checkpoint_key("one", "0"), "claim") == REPLID.encode()


async def test_other_keys_of_a_link_are_no_checkpoints(redis_server: StartServer) -> None:
    """Found by chaos in a mesh: a set of keys that another link has to fetch ended a third one for good."""
    server = redis_server()
    server.control.sadd(INDEX, "redis-canal:refetch:other/0")
    server.control.sadd("redis-canal:refetch:other/0", "0:key")
    assert await arrive(server, "one") == "goes on"
