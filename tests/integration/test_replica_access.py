"""Ways in: TCP, Unix socket, TLS, passwords, ACL users; and every way of being kept out, in one line each."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import uvloop

from canal.control import control, control_error
from canal.endpoint import Endpoint, TlsOptions, open_connection, parse_url
from canal.errors import AuthError, CanalError, NotRedis, PeerError, TlsError, Unreachable, Unready
from canal.replica import Replica, Timing
from tests.conftest import StartServer
from tests.support.certificates import Certificates
from tests.support.following import Following, follow
from tests.support.process import ReservedPort, end, eventually, spawn, wait_until
from tests.support.proxy import Proxy
from tests.support.recording import RecordingSink
from tests.support.servers import Server

pytestmark = pytest.mark.servers

RULES = ["+psync", "+replconf", "+ping"]


async def refused(endpoint: Endpoint) -> CanalError:
    """How a first contact there ends."""
    replica = Replica(endpoint, RecordingSink(), fail_fast=True, timing=Timing(connect_s=2.0))
    with pytest.raises(CanalError) as found:
        await asyncio.wait_for(replica.run(), 60)
    assert "\n" not in str(found.value) and str(found.value).startswith(endpoint.label)
    return found.value


async def in_step(endpoint: Endpoint, server: Server) -> None:
    following = Following(endpoint, fail_fast=True)
    await eventually(lambda: following.sink.complete or following.running.done())
    server.control.set("k", 1)
    await following.in_step(server)
    following.replica.stop()
    await following.running


async def test_unix_socket(redis_server: StartServer) -> None:
    server = redis_server()
    await in_step(parse_url(server.unix_url), server)


async def test_password(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version, requirepass="s3cret:/@%")
    await in_step(parse_url(server.url, password="s3cret:/@%"), server)
    await in_step(parse_url(server.unix_url, username="default", password="s3cret:/@%"), server)
    wrong = await refused(parse_url(server.url, password="no"))
    assert isinstance(wrong, AuthError) and "wrong user or password" in str(wrong)
    missing = await refused(parse_url(server.url))
    assert isinstance(missing, AuthError) and "wants a password and none was given" in str(missing)


async def test_a_password_that_nobody_asked_for(redis_server: StartServer, server_version: str) -> None:
    error = await refused(parse_url(redis_server(server_version).url, password="x"))
    assert isinstance(error, AuthError) and "has none set; leave it out" in str(error)


async def test_before_users(redis_server: StartServer) -> None:
    server = redis_server("5.0", requirepass="pw")
    await in_step(parse_url(server.url, password="pw"), server)
    wrong = await refused(parse_url(server.url, password="no"))
    assert isinstance(wrong, AuthError) and "wrong user or password" in str(wrong)
    named = await refused(parse_url(server.url, username="u", password="pw"))
    assert isinstance(named, AuthError) and "give the password alone" in str(named)
    server.control.config_set("requirepass", "")
    unasked = await refused(parse_url(server.url, password="pw"))
    assert isinstance(unasked, AuthError) and "leave it out" in str(unasked)


async def test_a_user_with_just_the_rules(redis_server: StartServer, server_version: str) -> None:
    server = redis_server(server_version)
    server.control.execute_command("ACL", "SETUSER", "canal", "on", ">pw", "resetkeys", "-@all", *RULES)
    server.control.execute_command("ACL", "SETUSER", "default", "resetpass", "-@all", "+info", "+set", "nopass")
    await in_step(parse_url(server.url, username="canal", password="pw"), server)


@pytest.mark.parametrize("lacking", ["+psync", "+replconf"])
async def test_a_user_that_lacks_a_rule(redis_server: StartServer, lacking: str) -> None:
    server = redis_server()
    rules = [rule for rule in RULES if rule != lacking]
    server.control.execute_command("ACL", "SETUSER", "canal", "on", ">pw", "-@all", *rules)
    error = await refused(parse_url(server.url, username="canal", password="pw"))
    assert isinstance(error, AuthError) and "+psync +replconf +ping" in str(error)


async def test_a_password_that_is_changed_later_is_an_outage(redis_server: StartServer) -> None:
    server = redis_server(requirepass="old")
    url = f"redis://:old@127.0.0.1:{server.port}"
    async with follow(url, fail_fast=True) as following:
        await eventually(lambda: following.sink.complete)
        server.control.config_set("requirepass", "new")
        server.client(password="new").execute_command("CLIENT", "KILL", "TYPE", "replica")
        await eventually(lambda: [e for e in following.sink.errors if isinstance(e, AuthError)])
        server.client(password="new").config_set("requirepass", "old")
        await eventually(lambda: following.sink.named("continue"))


async def test_no_free_connection(redis_server: StartServer) -> None:
    server = redis_server()
    client = server.client()
    client.ping()
    client.config_set("maxclients", 1)
    async with follow(server, fail_fast=True) as following:
        await eventually(lambda: following.sink.errors)
        assert isinstance(following.sink.errors[0], Unready) and "no free connection" in str(following.sink.errors[0])
        client.config_set("maxclients", 100)
        await eventually(lambda: following.sink.complete)


async def test_a_sentinel_is_no_source(tmp_path: Path, redis_server: StartServer) -> None:
    server, port = redis_server(), ReservedPort()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port.number}\nbind 127.0.0.1\ndir {tmp_path}\n")
    process = spawn([server.binary, config, "--sentinel"], stdout=subprocess.DEVNULL)
    endpoint = Endpoint("redis", "127.0.0.1", port.number)
    try:
        await asyncio.to_thread(wait_until, lambda: listens(port.number))
        error = await refused(endpoint)
    finally:
        end(process)
        port.release()
    assert isinstance(error, NotRedis) and "Sentinel, a proxy or a managed service" in str(error)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_http(unused_tcp_port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", unused_tcp_port):
        error = await refused(Endpoint("redis", "127.0.0.1", unused_tcp_port))
    assert isinstance(error, NotRedis) and "HTTP/1.1 400 Bad Request" in str(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://no-such-host.invalid", "host name 'no-such-host.invalid' cannot be resolved"),
        ("unix:///no/such.sock", "no socket at this path"),
    ],
)
async def test_nothing_there(url: str, words: str) -> None:
    error = await refused(parse_url(url))
    assert isinstance(error, Unreachable) and words in str(error)


# --- TLS ---


def tls_of(certificates: Certificates, **other: object) -> TlsOptions:
    options = TlsOptions(ca=str(certificates.ca), cert=str(certificates.client_cert), key=str(certificates.client_key))
    return replace(options, **other)  # type: ignore[arg-type]


async def test_tls(redis_server: StartServer, certificates: Certificates) -> None:
    server = redis_server("7.0", tls=certificates, tls_auth_clients="yes")
    await in_step(parse_url(server.tls_url, tls=tls_of(certificates)), server)
    await in_step(parse_url(server.tls_url, tls=tls_of(certificates, ca=None, verify=False)), server)


async def test_tls_with_much_data_and_uvloop(redis_server: StartServer, certificates: Certificates) -> None:
    server = redis_server("7.0", tls=certificates, tls_auth_clients="yes")
    for number in range(20):
        server.control.set(f"big:{number}", bytes([number]) * 1_000_000)
    await asyncio.to_thread(run_with_uvloop, server, parse_url(server.tls_url, tls=tls_of(certificates)))
    await asyncio.to_thread(run_with_uvloop, server, parse_url(server.url))
    await asyncio.to_thread(run_with_uvloop, server, parse_url(server.unix_url))


def run_with_uvloop(server: Server, endpoint: Endpoint) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_step(endpoint, server))


@pytest.mark.parametrize("auth_clients", ["yes", "no"])
async def test_tls_refusals(redis_server: StartServer, certificates: Certificates, auth_clients: str) -> None:
    server = redis_server("7.0", tls=certificates, tls_auth_clients=auth_clients)
    for url, tls, words in [
        (server.tls_url, TlsOptions(), "certificate was not accepted: self-signed certificate in certificate chain"),
        (server.tls_url, tls_of(certificates, ca=str(certificates.other_ca)), "certificate was not accepted"),
        (server.tls_url, tls_of(certificates, server_name="other.example"), "not valid for 'other.example'"),
        (server.url.replace("redis:", "rediss:"), tls_of(certificates), "TLS"),
    ]:
        error = await refused(parse_url(url, tls=tls))
        assert isinstance(error, TlsError) and words in str(error), str(error)
    if auth_clients == "yes":
        error = await refused(parse_url(server.tls_url, tls=TlsOptions(ca=str(certificates.ca))))
        assert isinstance(error, TlsError) and "client certificate" in str(error), str(error)


async def test_plain_on_a_tls_port(redis_server: StartServer, certificates: Certificates) -> None:
    server = redis_server("7.0", tls=certificates)
    error = await refused(Endpoint("redis", "127.0.0.1", server.tls_port))
    assert isinstance(error, Unreachable | NotRedis) and "TLS (rediss://)" in str(error), str(error)


# --- control clients ---


async def test_control_clients_reach_the_server_every_way(
    redis_server: StartServer, certificates: Certificates
) -> None:
    server = redis_server("7.0", tls=certificates, tls_auth_clients="yes", requirepass="pw")
    for url, tls in [(server.url, None), (server.unix_url, None), (server.tls_url, tls_of(certificates))]:
        client = control(parse_url(url, password="pw", tls=tls), client_name="canal-test")
        assert await client.get("nothing") is None
        assert await client.execute_command("CLIENT GETNAME") in (b"canal-test", "canal-test")
        await client.aclose()
    stats = server.control.info("commandstats")
    assert "cmdstat_client|setinfo" not in stats and "cmdstat_hello" not in stats


async def test_control_does_not_retry(redis_server: StartServer, proxy: Callable[[Server], Proxy]) -> None:
    server = redis_server()
    link = proxy(server)
    client = control(parse_url(link.url))
    await client.set("n", 0)
    link.on_data = lambda connection, direction, data: connection.cut("rst", "client") if b"INCR" in data else None
    with pytest.raises(redis.exceptions.ConnectionError) as found:
        await client.incr("n")
    assert isinstance(control_error(parse_url(link.url), found.value), Unreachable)
    await client.aclose()
    await eventually(lambda: int(server.control.get("n") or 0) <= 1)
    assert link.accepted == 1


@pytest.mark.parametrize(
    ("url", "setting", "error"),
    [
        ("redis://127.0.0.1:{port}", {"requirepass": "pw"}, AuthError),
        ("redis://:bad@127.0.0.1:{port}", {"requirepass": "pw"}, AuthError),
        ("redis://:bad@127.0.0.1:{port}", {}, AuthError),
        ("redis://127.0.0.1:1", {}, Unreachable),
        ("unix:///no/such.sock", {}, Unreachable),
        ("rediss://127.0.0.1:{port}", {}, PeerError),
    ],
)
async def test_what_errors_of_control_clients_mean(
    redis_server: StartServer, url: str, setting: dict[str, str], error: type[PeerError]
) -> None:
    server = redis_server(**setting)
    endpoint = parse_url(url.format(port=server.port))
    client = control(endpoint, timeout_s=1.0)
    with pytest.raises(redis.exceptions.RedisError) as found:
        await client.config_get("port")
    await client.aclose()
    explained = control_error(endpoint, found.value)
    assert isinstance(explained, error) and str(explained).startswith(endpoint.label)


async def test_connections_have_keepalive(redis_server: StartServer) -> None:
    transport, _ = await open_connection(parse_url(redis_server().url), asyncio.Protocol, 5)
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    transport.abort()
    await asyncio.sleep(0)
