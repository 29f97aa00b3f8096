"""The fixtures themselves: servers that start, survive, end; and ZooKeeper."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kazoo.client import KazooClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import StartServer
from tests.support.certificates import Certificates
from tests.support.process import ROOT, wait_until
from tests.support.servers import ServerMissing, locate, parse_version
from tests.support.zookeeper import Ensemble, ZooKeeper

pytestmark = pytest.mark.servers


def test_every_main_version_is_the_one_it_says(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    info = server.info("server")
    said = info.get("valkey_version") or info["redis_version"]
    assert said.startswith(".".join(map(str, server.number)) + ".")
    assert ("valkey_version" in info) == (server.flavor == "valkey")
    assert server.client(3).set(b"k", b"v") and server.client(3).get(b"k") == b"v"
    assert redis.Redis(port=server.port).ping()


def test_settings_reach_the_server_with_spaces_and_empty(redis_server: StartServer) -> None:
    limit = "replica 1048576 0 0"
    server = redis_server(client_output_buffer_limit=limit, maxmemory="50mb", requirepass="with space", save="900 1")
    client = server.client()
    assert limit.replace("replica", "slave") in client.config_get("client-output-buffer-limit").popitem()[1]
    assert client.config_get("maxmemory") == {"maxmemory": str(50 << 20)}
    assert client.config_get("save") == {"save": "900 1"}
    assert server.password == "with space"


def test_restart_keeps_port_and_data_and_takes_settings(redis_server: StartServer) -> None:
    server = redis_server(appendonly="yes", appendfsync="always")
    client, port = server.client(), server.port
    client.set("k", "v")
    server.kill()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    server.restart(maxmemory="30mb")
    assert server.port == port and client.get("k") == b"v"
    assert client.config_get("maxmemory") == {"maxmemory": str(30 << 20)}


def test_pause_holds_answers_until_resume(redis_server: StartServer) -> None:
    server = redis_server()
    client = server.client(socket_timeout=0.2)
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    assert server.client().ping()


def test_a_bad_setting_is_an_error_with_the_log(redis_server: StartServer) -> None:
    with pytest.raises(RuntimeError, match="no-such-setting"):
        redis_server(no_such_setting="1")


def test_the_port_is_refused_while_the_server_is_down_and_given_to_nobody(redis_server: StartServer) -> None:
    server = redis_server()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address)
    others = [socket.socket() for _ in range(200)]
    try:
        for other in others:
            other.bind(("127.0.0.1", 0))
        assert server.port not in {other.getsockname()[1] for other in others}
    finally:
        for other in others:
            other.close()


def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Also when that one is killed with -9, and was started from a thread that has ended."""
    script = """
import sys, threading, time
from pathlib import Path
from tests.support.servers import Server
def start():
    print(Server.start(directory=Path(sys.argv[1])).pid, flush=True)
thread = threading.Thread(target=start); thread.start(); thread.join()
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        os.kill(pid, 0)  # the thread that asked for it has ended, the server has not
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not _alive(pid), what="the server is gone")


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return False


def test_tls_is_verified(redis_server: StartServer, certificates: Certificates) -> None:
    server = redis_server("7.0", tls=certificates)

    def ping(ca: Path) -> bool:
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(port=server.tls_port, ssl=True, ssl_ca_certs=str(ca), retry=retry) as client:
            return bool(client.ping())

    assert ping(certificates.ca)
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        ping(certificates.other_ca)


def test_counters_of_replication(redis_server: StartServer) -> None:
    source, replica = redis_server(), redis_server()
    before = source.sync_full, source.offset
    replica.control.replicaof(*source.address)
    source.client().set("k", "v")
    wait_until(lambda: replica.client().get("k") == b"v", what="the replica follows")
    assert source.sync_full == before[0] + 1 and source.offset > before[1]
    assert replica.replid == source.replid


def test_names_of_versions() -> None:
    assert parse_version("7.0") == ("redis", (7, 0)) and parse_version("valkey-9.1") == ("valkey", (9, 1))
    with pytest.raises(ValueError, match="not 'seven'"):
        parse_version("seven")
    with pytest.raises(ServerMissing, match=r"scripts/servers redis-1\.0"):
        locate("1.0")


def test_at_least_knows_the_flavors(redis_server: StartServer) -> None:
    server, valkey = redis_server("7.0"), redis_server("valkey-9.1")
    assert server.at_least((7, 0)) and not server.at_least((7, 4), (9, 0))
    assert valkey.at_least((8, 6)) and valkey.at_least((7, 4), (9, 0)) and not valkey.at_least((7, 4), (9, 2))


async def test_async_client(redis_server: StartServer) -> None:
    server = redis_server()
    async with server.async_client(2) as client:
        await client.set("k", "v")
    assert server.client(2).get("k") == b"v"


@pytest.mark.zookeeper
def test_zookeeper_serves_and_comes_back(zookeeper: Callable[[], ZooKeeper]) -> None:
    one = zookeeper()
    client = KazooClient(hosts=one.hosts, timeout=2)
    client.start(20)
    try:
        client.create("/kept", b"1")
        one.kill()
        one.restart()
        client.retry(client.get, "/kept")
    finally:
        client.stop()
        client.close()


@pytest.mark.zookeeper
@pytest.mark.slow
def test_an_ensemble_survives_its_leader(zookeeper_ensemble: Callable[[], Ensemble]) -> None:
    three = zookeeper_ensemble()
    leader = three.leader
    leader.kill()
    others = [server for server in three.servers if server is not leader]
    wait_until(lambda: any(server.mode() == "leader" for server in others), 30, "another leader")
