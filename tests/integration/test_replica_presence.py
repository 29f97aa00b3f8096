"""A canal must not be taken for a real replica: what WAIT, FAILOVER and Sentinel make of it.

What cannot be helped is tested too, so that the documentation stays true: it counts for min-replicas-to-write, and a
WAIT that outlasts a second of silence is answered.
"""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest
import redis

from canal.acks import MARGIN
from tests.conftest import StartServer
from tests.support.following import follow
from tests.support.process import ReservedPort, end, eventually, spawn
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def wait(server: Server, timeout_ms: int) -> tuple[int, float]:
    """A write and WAIT 1 on one connection: how many replicas were counted, after how many seconds."""
    client = server.client()
    client.set("k", time.time())
    began = time.monotonic()
    return int(client.execute_command("WAIT", 1, timeout_ms)), time.monotonic() - began


async def test_wait_is_not_satisfied_by_a_canal(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    async with follow(server) as following:
        await following.in_step(server)
        for _ in range(3):
            assert (await asyncio.to_thread(wait, server, 700))[0] == 0


async def test_wait_while_others_write_is_not_satisfied_either(redis_server: StartServer) -> None:
    """Only silence is answered exactly: what others write keeps the answer 64 bytes behind."""
    server = redis_server(repl_ping_replica_period="3600")
    async with follow(server) as following:
        await following.in_step(server)

        async def others() -> None:
            while True:
                server.control.incr("n")
                await asyncio.sleep(0.2)

        before = server.offset
        writing = asyncio.create_task(others())
        counted, _ = await asyncio.to_thread(wait, server, 20_000)
        writing.cancel()
        assert counted == 1
        assert server.offset - before > 40 + MARGIN  # the write itself, and then 64 bytes of others


async def test_wait_in_silence_is_answered_after_a_second(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    async with follow(server) as following:
        await following.in_step(server)
        counted, took = await asyncio.to_thread(wait, server, 5000)
        assert counted == 1 and took >= 0.95


async def test_it_stays_behind_and_announces_no_port(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version, repl_ping_replica_period="1")
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        server.control.set("k", "x" * 1000)
        await following.in_step(server)
        offset = server.offset
        await eventually(lambda: server.info("replication")["slave0"]["offset"] >= offset - MARGIN)
        for _ in range(20):
            info = server.info("replication")
            assert info["slave0"]["port"] == 0
            assert info["slave0"]["offset"] <= info["master_repl_offset"] - MARGIN
            await asyncio.sleep(0.1)


async def test_failover_does_not_choose_it(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        server.control.set("k", 1)
        await following.in_step(server)
        server.control.execute_command("FAILOVER", "TIMEOUT", 3000)
        seen = set()
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            info = server.info("replication")
            seen.add((info["role"], info["master_failover_state"]))
            if info["master_failover_state"] == "no-failover":
                break
            await asyncio.sleep(0.05)
        assert seen == {("master", "waiting-for-sync"), ("master", "no-failover")}
        server.control.set("k", 2)
        await following.in_step(server)


async def test_failover_chooses_the_real_replica_and_the_canal_follows(
    redis_server: StartServer, server_version: str
) -> None:
    master, real = redis_server(server_version), redis_server(server_version)
    async with follow(master) as following:
        await following.in_step(master)
        real.control.replicaof("127.0.0.1", master.port)
        await eventually(lambda: real.info("replication")["master_link_status"] == "up")
        master.control.set("k", 1)
        master.control.execute_command("FAILOVER")
        await eventually(lambda: real.info("replication")["role"] == "master")
        real.control.set("k", 2)
        await following.in_step(real)  # through the old master, which is its replica now
        assert len(following.sink.named("full")) == 1
        assert following.commands() == [[b"SET", b"k", b"1"], [b"SET", b"k", b"2"]]


async def test_what_remains_it_counts_for_min_replicas(redis_server: StartServer) -> None:
    server = redis_server(min_replicas_to_write="1")
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        await eventually(lambda: server.info("replication")["min_slaves_good_slaves"] == 1)


async def test_a_shutdown_waits_little_more_than_a_second(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version, save="3600 1000", repl_ping_replica_period="1")
    if not server.at_least((7, 0)):
        pytest.skip("waits for its replicas from 7.0 on")
    server.control.config_set("shutdown-timeout", 200)  # far from a second, however slow the machine
    async with follow(server) as following:
        await following.in_step(server)
        server.control.set("k", 1)
        began = time.monotonic()
        await asyncio.to_thread(server.stop, 100)
        assert 0.9 < time.monotonic() - began < 60.0


async def test_at_offset_zero_nothing_is_behind(redis_server: StartServer) -> None:
    """The one moment at which a bare FAILOVER can choose a canal: nothing was ever written, not even a PING."""
    server = redis_server()
    async with follow(server) as following:
        await eventually(lambda: following.sink.complete)
        assert server.offset == 0 and server.info("replication")["slave0"]["offset"] == 0


async def test_sentinel_finds_nothing_it_could_promote(redis_server: StartServer) -> None:
    server = redis_server()
    port = ReservedPort()
    config = server.directory / "sentinel.conf"
    config.write_text(
        f"port {port.number}\nbind 127.0.0.1\ndir {server.directory}\n"
        f"sentinel monitor m 127.0.0.1 {server.port} 1\nsentinel down-after-milliseconds m 500\n"
    )
    sentinel = redis.Redis(port=port.number, decode_responses=True, protocol=2)

    def listed() -> list[str]:
        entries = sentinel.execute_command("SENTINEL", "REPLICAS", "m")
        found = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in entries]
        return [f"{entry['ip']}:{entry['port']} {entry['flags']}" for entry in found]

    async with follow(server) as following:
        await following.in_step(server)  # before Sentinel looks: it does so every ten seconds only
        process = spawn([server.binary, config, "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            await eventually(lambda: answers(sentinel))
            await eventually(lambda: listed() == ["127.0.0.1:0 s_down,slave,disconnected"])
        finally:
            sentinel.close()
            end(process)
            port.release()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
