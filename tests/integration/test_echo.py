"""An echo leaves the key as it is and puts its whole state into the stream, as one write after those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from canal.endpoint import parse_url
from canal.errors import CanalError
from sync.echo import Echoed, Echoer, EchoFigures, echo
from sync.homes import FUNCTIONS
from sync.target.connection import connect
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually, wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

LIBRARY = "#!lua name=lib\nredis.register_function('answer', function() return 42 end)"


def follow(replica: Server, master: Server) -> Any:
    """Make one server a writable replica of another, so that it can differ; a client of it."""
    client: Any = replica.client()
    client.execute_command("REPLICAOF", *master.address)
    wait_until(lambda: client.info("replication")["master_link_status"] == "up", 20, "a replica")
    client.config_set("replica-read-only", "no")
    return client


def filled(server: Server) -> list[tuple[int, bytes]]:
    client: Any = server.client()
    client.set("string", "v" * 100)
    client.set("timed", "v", px=60_000)
    client.rpush("list", *range(300))
    client.sadd("set", *range(300))
    client.zadd("zset", {f"m{n}": n + 0.1 for n in range(300)})
    client.hset("hash", mapping={f"f{n}": n for n in range(300)})
    client.expire("hash", 1000)
    client.xadd("stream", {"a": 1})
    client.xgroup_create("stream", "group")
    client.execute_command("SELECT", 3)
    client.set("elsewhere", "v")
    names = (b"string", b"timed", b"list", b"set", b"zset", b"hash", b"stream")
    return [*((0, name) for name in names), (3, b"elsewhere")]


async def echoed(server: Server, *places: tuple[int, bytes], big_bytes: int = 1 << 20) -> list[Echoed]:
    conn = await connect(parse_url(server.url), who="source")
    try:
        return await echo(conn, list(places), big_bytes)
    finally:
        conn.close()


async def test_a_replica_that_differs_has_every_key_after_its_echo(
    redis_server: StartServer, server_version: str
) -> None:
    master, other = redis_server(server_version), redis_server(server_version)
    places = filled(master)
    client = follow(other, master)
    client.delete("string", "list", "set")
    client.rpush("zset2", "extra")
    client.set("gone", "should not be here")
    client.delete("hash")
    client.set("hash", "of another type")
    client.persist("timed")
    before = master.control.pttl("timed")
    done = await echoed(master, *places, (0, b"gone"), (0, b"zset2"))
    assert [one.outcome for one in done] == ["echoed"] * len(places) + ["absent", "absent"]
    await asyncio.to_thread(wait_equal, master, other, 10)
    assert before - 5000 < master.control.pttl("timed") <= before
    assert other.control.pttl("timed") > 0


async def test_the_position_told_is_just_before_the_echo(redis_server: StartServer) -> None:
    server = redis_server()
    follow(redis_server(), server)
    server.client().set("k", "v")
    (one,) = await echoed(server, (0, b"k"))
    first = server.offset
    (two,) = await echoed(server, (0, b"k"))
    assert one.after.replid == server.replid
    assert one.after.offset < first <= two.after.offset < server.offset


async def test_a_key_that_would_block_the_server_is_reported(redis_server: StartServer) -> None:
    server = redis_server()
    server.client().rpush("list", *["x" * 100] * 2000)
    offset = server.offset
    (one,) = await echoed(server, (0, b"list"), big_bytes=50_000)
    assert (one.outcome, one.size > 50_000) == ("big", True)
    assert server.offset - offset < 100


async def test_function_libraries_are_keys_too(redis_server: StartServer) -> None:
    server, other = redis_server("7.0"), redis_server("7.0")
    master: Any = server.client()
    master.function_load(LIBRARY)
    client = follow(other, server)
    client.function_delete("lib")
    client.function_load(LIBRARY.replace("lib", "extra").replace("answer", "more"))
    done = await echoed(server, (FUNCTIONS, b"lib"), (FUNCTIONS, b"extra"))
    assert [one.outcome for one in done] == ["echoed", "absent"]

    def libraries() -> list[bytes]:
        return [library[1] for library in client.execute_command("FUNCTION", "LIST")]

    await eventually(lambda: libraries() == [b"lib"], 10, "the libraries of the server")


async def test_a_burst_of_asking_echoes_each_key_once_and_an_outage_drops_none(
    redis_server: StartServer, proxy: Callable[..., Proxy]
) -> None:
    server = redis_server()
    door = proxy(server)
    server.client().mset({f"k{n}": n for n in range(250)})
    figures, told = EchoFigures(), list[Echoed]()
    echoer = Echoer(parse_url(door.url), figures, told.append, per_second=5000)
    task = asyncio.create_task(echoer.run())
    try:
        door.refuse()
        for _ in range(3):
            echoer.ask((0, b"k%d" % n) for n in range(250))
        await eventually(lambda: echoer.last_error is not None, 10, "an attempt that failed")
        assert (figures.waiting, figures.echoed) == (250, 0)
        door.accept()
        await eventually(lambda: figures.echoed == 250, 10, "all echoed")
        assert figures.waiting == 0
        assert len({one.place for one in told}) == 250
        echoer.suspend(True)
        echoer.ask([(0, b"k1")])
        await asyncio.sleep(0)
        assert figures.waiting == 1
        echoer.suspend(False)
        await eventually(lambda: figures.echoed == 251, 10, "the one that was held back")
    finally:
        task.cancel()


async def test_what_is_not_permitted_raises(redis_server: StartServer) -> None:
    server = redis_server("7.0")
    master: Any = server.client()
    master.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-eval")
    conn = await connect(parse_url(server.url.replace("redis://", "redis://weak:pw@")), who="source")
    try:
        with pytest.raises(CanalError, match=r"echoing.*eval"):
            await echo(conn, [(0, b"k")])
    finally:
        conn.close()


async def test_at_a_server_that_is_not_the_trusted_one_keys_wait(redis_server: StartServer) -> None:
    server = redis_server("7.0")
    server.control.set("k", "v")
    figures = EchoFigures()
    echoer = Echoer(parse_url(server.url), figures, trusted="")
    running = asyncio.create_task(echoer.run())
    try:
        echoer.ask([(0, b"k")])
        await eventually(lambda: echoer.stranger, 20, "it has met the server")
        assert figures.echoed == 0 and figures.waiting == 1
        echoer.trust(server.control.info("server")["run_id"])
        await eventually(lambda: figures.echoed == 1, 20, "its echo")
        assert not echoer.stranger and figures.waiting == 0
        await asyncio.to_thread(server.restart)
        echoer.ask([(0, b"k")])
        await eventually(lambda: echoer.stranger, 20, "it has met the server anew")
        assert figures.echoed == 1
        echoer.trust(server.control.info("server")["run_id"])
        await eventually(lambda: figures.echoed == 2, 20, "its echo at the server that is back")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
