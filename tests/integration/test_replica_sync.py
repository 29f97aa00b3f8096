"""Snapshot and stream of real servers: whole, exact, and going on after every kind of cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from canal.errors import Unreachable, Unready
from canal.position import Position
from canal.replica import Timing
from tests.conftest import StartServer
from tests.support.following import follow, rdb_is_whole
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import MORE_VERSIONS, Server

pytestmark = pytest.mark.servers

StartProxy = Callable[[Server], Proxy]


def fill(server: Server, keys: int = 500) -> None:
    with server.client().pipeline(transaction=False) as pipe:
        for number in range(keys):
            pipe.set(f"key:{number}", f"{number}\r\n$EOF:" * 20)
        pipe.execute()


@pytest.mark.parametrize("diskless", ["yes", "no"])
async def test_snapshot_then_stream(redis_server: StartServer, server_version: str, diskless: str) -> None:
    server = redis_server(server_version, repl_diskless_sync=diskless)
    fill(server)
    if server.at_least((7, 4), (9, 0)):
        server.control.hset("hash", "field", "value")
        server.control.execute_command("HPEXPIRE", "hash", 1_000_000, "FIELDS", 1, "field")
    async with follow(server, fail_fast=True) as following:
        sink = following.sink
        await eventually(lambda: sink.complete)
        assert rdb_is_whole(sink.rdb)
        magic = b"VALKEY080" if server_version == "valkey-9.1" else b"REDIS00"
        assert sink.rdb.startswith(magic), "the snapshot was converted down"
        assert sink.events[0][2] == (None if diskless == "yes" else len(sink.rdb))
        server.control.set("after", "x")
        await eventually(lambda: sink.stream, 3, "the stream starts soon after the snapshot")
        await following.in_step(server)
        assert following.commands() == [[b"SET", b"after", b"x"]]
    assert server.sync_full == 1


@pytest.mark.parametrize("version", MORE_VERSIONS)
async def test_other_versions_too(redis_server: StartServer, version: str) -> None:
    server = redis_server(version, repl_diskless_sync="yes")
    fill(server)
    async with follow(server, fail_fast=True) as following:
        await eventually(lambda: following.sink.complete)
        assert rdb_is_whole(following.sink.rdb)
        server.control.set("after", "x")
        await following.in_step(server)
        server.control.execute_command("CLIENT", "KILL", "TYPE", "replica" if version != "5.0" else "slave")
        server.control.set("again", "y")
        await following.in_step(server)
        assert following.commands() == [[b"SET", b"after", b"x"], [b"SET", b"again", b"y"]]
    assert server.sync_full == 1


async def test_writes_during_the_snapshot_are_in_the_stream(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version, rdb_key_save_delay="2000")
    fill(server)
    async with follow(server) as following:
        await eventually(lambda: server.info("stats")["sync_full"] == 1)
        written = 0
        while not following.sink.complete:
            server.control.rpush("list", written)
            written += 1
            await asyncio.sleep(0.02)
        assert written > 10
        server.config_set(rdb_key_save_delay="0")
        await following.in_step(server)
        assert [argv[2] for argv in following.commands()] == [b"%d" % number for number in range(written)]


async def test_the_stream_has_no_gap_however_often_it_is_cut(
    redis_server: StartServer, server_version: str, proxy: StartProxy
) -> None:
    server = redis_server(server_version)
    cut = proxy(server)
    written = 0
    async with follow(cut.url) as following:
        await eventually(lambda: following.sink.complete)
        for number in range(25):
            for _ in range(20):
                server.control.rpush("list", written)
                written += 1
            if number % 3 == 0:
                server.control.execute_command("CLIENT", "KILL", "TYPE", "replica")
            else:
                cut.cut("rst" if number % 3 == 1 else "fin")
            await asyncio.sleep(0.01 * (number % 7))
        await following.in_step(server)
        assert [argv[2] for argv in following.commands()] == [b"%d" % number for number in range(written)]
        assert len(following.sink.named("full")) == 1
    assert server.sync_full == 1 and server.sync_partial_ok >= 5


async def test_cut_in_the_middle_of_a_command(redis_server: StartServer, proxy: StartProxy) -> None:
    server = redis_server()
    link = proxy(server)
    async with follow(link.url) as following:
        await eventually(lambda: following.sink.complete)
        link.connections[-1].cut_after(1000, "to_client")
        server.control.set("a", "x" * 5000)
        await following.in_step(server)
        assert following.commands() == [[b"SET", b"a", b"x" * 5000]]
        assert [event[0] for event in following.sink.events] == ["full", "rdb-end", "disconnect", "continue"]


async def test_a_backlog_that_was_too_small_means_a_new_snapshot(redis_server: StartServer) -> None:
    server = redis_server(repl_backlog_size="16kb")
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        following.replica.pause("test")
        await eventually(lambda: following.sink.errors)
        server.control.set("big", "x" * 100_000)
        following.replica.resume()
        await following.in_step(server)
        assert len(following.sink.named("full")) == 2
        assert rdb_is_whole(following.sink.rdb)


async def test_a_snapshot_cut_in_the_middle_is_taken_again(redis_server: StartServer, proxy: StartProxy) -> None:
    server = redis_server()
    fill(server, 5000)
    link = proxy(server)
    link.on_connect = lambda connection: connection.cut_after(50_000, "to_client") if link.accepted == 1 else None
    async with follow(link.url) as following:
        await following.in_step(server)
        assert [event[0] for event in following.sink.events] == ["full", "disconnect", "full", "rdb-end"]
        assert "bytes of the snapshot" in str(following.sink.errors[0])
        assert rdb_is_whole(following.sink.rdb)


async def test_a_source_that_restarts_gracefully_goes_on(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version, save="3600 1000")
    remembers = server.at_least((7, 0))
    async with follow(server) as following:
        sink = following.sink
        await eventually(lambda: sink.complete)
        server.control.set("a", 1)
        await asyncio.to_thread(server.stop)
        await eventually(lambda: sink.errors)
        await asyncio.to_thread(server.restart)
        server.control.set("b", 2)
        await following.in_step(server)
        assert len(sink.named("full")) == (1 if remembers else 2)
        if remembers:
            assert following.commands() == [[b"SET", b"a", b"1"], [b"SET", b"b", b"2"]]


async def test_a_source_that_was_killed_sends_a_snapshot(redis_server: StartServer) -> None:
    server = redis_server(appendonly="yes")
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        server.control.set("a", 1)
        await following.in_step(server)
        old = following.sink.position
        await asyncio.to_thread(server.restart, graceful=False)
        await following.in_step(server)
        assert old is not None and following.sink.position is not None
        assert following.sink.position.replid != old.replid
        assert len(following.sink.named("full")) == 2


async def test_a_position_of_another_life_means_a_snapshot(redis_server: StartServer) -> None:
    server = redis_server()
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        for wrong in (Position("0" * 40, 5), Position(server.replid, 1 << 40)):
            following.sink.position = wrong
            following.replica.pause("test")
            following.replica.resume()
            await following.in_step(server)
        assert len(following.sink.named("full")) == 3


async def test_a_source_that_hangs_is_left_and_found_again(redis_server: StartServer) -> None:
    server = redis_server(repl_ping_replica_period="1")
    async with follow(server, timing=Timing(connect_s=1.0, timeout_s=2.5)) as following:
        sink = following.sink
        await eventually(lambda: sink.complete)
        await asyncio.sleep(3)
        assert not sink.errors, "PINGs are signs of life"
        server.pause()
        try:
            await eventually(lambda: len(sink.errors) >= 2, 10)
        finally:
            server.resume()
        assert all(isinstance(error, Unreachable) for error in sink.errors)
        assert "nothing heard for 2.5 s" in str(sink.errors[0])
        server.control.set("a", 1)
        await following.in_step(server)
        assert len(sink.named("full")) == 1


async def test_a_source_that_loads_is_waited_for(redis_server: StartServer) -> None:
    server = redis_server(save="3600 1000")
    fill(server, 300)
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.restart, key_load_delay="5000", loading_process_events_interval_bytes="1024")
        await following.in_step(server)
        loading = [error for error in following.sink.errors if isinstance(error, Unready)]
        assert loading and "loading its data" in str(loading[0])


async def test_through_a_replica(redis_server: StartServer) -> None:
    """A chained source has its master's replid and offsets; without a link it says so, and is waited for."""
    master, middle = redis_server(), redis_server()
    gone = redis_server()
    gone_port = gone.port
    gone.stop()
    middle.control.replicaof("127.0.0.1", gone_port)
    async with follow(middle, fail_fast=True) as following:
        await eventually(lambda: following.sink.errors)
        assert isinstance(following.sink.errors[0], Unready)
        assert "replica that has no link to its own master" in str(following.sink.errors[0])
        middle.control.replicaof("127.0.0.1", master.port)
        master.control.set("a", 1)
        await following.in_step(master)
        assert following.sink.position == Position(master.replid, master.offset)


async def test_a_promoted_source_goes_on_under_a_new_replid(redis_server: StartServer, server_version: str) -> None:
    master, middle = redis_server(server_version), redis_server(server_version)
    middle.control.replicaof("127.0.0.1", master.port)
    await eventually(lambda: middle.info("replication")["master_link_status"] == "up")
    async with follow(middle) as following:
        master.control.set("a", 1)
        await following.in_step(master)
        before = following.sink.position
        middle.control.replicaof("no", "one")
        middle.control.set("b", 2)
        await following.in_step(middle)
        assert before is not None
        assert [event[0] for event in following.sink.events] == ["full", "rdb-end", "disconnect", "continue"]
        assert following.sink.position is not None and following.sink.position.replid != before.replid
        assert following.sink.events[-1][1].offset >= before.offset
