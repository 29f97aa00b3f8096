"""The small HTTP server: its routes, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.errors import ConfigError
from node import http as module
from node.http import HttpServer, Response, Route, document, encode, link_routes, standard_routes, text
from sync.status import LinkStatus
from tests.support.effort import examples
from tests.support.process import eventually

Start = Callable[[dict[str, Route]], Awaitable[HttpServer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers on free ports and closes them in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(routes: dict[str, Route]) -> HttpServer:
            server = HttpServer("127.0.0.1", 0, routes)
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield make


@pytest.fixture
def status() -> LinkStatus:
    return LinkStatus("sh-bj", "0", "sh", "bj")


async def get(server: HttpServer, path: str, method: str = "GET") -> httpx.Response:
    host, port = server.address
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.request(method, f"http://{host}:{port}{path}")


async def exchange(server: HttpServer, data: bytes, eof: bool = False) -> bytes:
    """Everything that the server answers to these bytes until it closes."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(data)
    if eof:
        writer.write_eof()
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_status_is_the_link_as_json(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    answer = await get(server, "/status")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    wanted = {
        "state", "source_offset", "applied_offset", "replid", "journaled_offset", "lag_bytes", "lag_seconds",
        "commands_applied", "loops_dropped", "full_resyncs", "partial_resyncs", "errors", "last_error",
    }  # fmt: skip
    assert wanted <= set(body)
    assert (body["state"], body["lag_seconds"], body["last_error"]) == ("connecting", None, None)


async def test_the_documents_are_live(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    status.state, status.commands_applied = "streaming", 17
    assert (await get(server, "/status")).json()["commands_applied"] == 17
    metrics = await get(server, "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'rediscanal_commands_applied_total{shard="0"' in metrics.text
    assert metrics.text.endswith("\n")


@pytest.mark.parametrize(
    ("state", "code"), [("connecting", 503), ("snapshot", 200), ("streaming", 200), ("failed", 503), ("stopped", 503)]
)
async def test_readiness_follows_the_state(start: Start, status: LinkStatus, state: str, code: int) -> None:
    server = await start(link_routes(status))
    status.state = state  # type: ignore[assignment]
    status.last_error = "the reason"
    answer = await get(server, "/readiness")
    assert answer.status_code == code
    assert code == 200 or answer.text == f"not ready: sh-bj/0 is {state}: the reason\n"
    assert (await get(server, "/liveness")).status_code == 200


async def test_head_has_the_length_and_no_body(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    raw = await exchange(server, b"HEAD /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"Content-Length: 6" in head
    assert body == b""


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/status", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/status/", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/%73tatus", 404),
        ("POST", "/nowhere", 404),
        ("GET", "/liveness?verbose=1&x=/../..", 200),
    ],
)
async def test_methods_and_paths(start: Start, status: LinkStatus, method: str, path: str, code: int) -> None:
    server = await start(link_routes(status))
    raw = await exchange(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert raw.split(b" ", 2)[1] == str(code).encode()
    if code == 405:
        assert b"\r\nAllow: GET, HEAD\r\n" in raw


@pytest.mark.parametrize(
    "line",
    [
        b"GET /status", b"GET  /status HTTP/1.1", b"get /status HTTP/1.1", b"GET http://x/status HTTP/1.1",
        b"GET /status HTTP/2.0", b"GET /sta\x00tus HTTP/1.1", b"GET /st\xe4tus HTTP/1.1", b"PING", b"*1\r\n$4\r\nPING",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)  # fmt: skip
async def test_what_is_no_request_is_400(start: Start, status: LinkStatus, line: bytes) -> None:
    server = await start(link_routes(status))
    raw = await exchange(server, line + b"\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (await get(server, "/liveness")).status_code == 200


async def test_a_head_that_is_too_long_is_431(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    raw = await exchange(server, b"GET /status HTTP/1.1\r\nX: " + b"a" * (module.MAX_HEAD * 2))
    assert raw.startswith(b"HTTP/1.1 431 ")


async def test_a_body_is_never_read(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    raw = await exchange(server, b"POST /status HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"b" * 1000, eof=True)
    assert raw.startswith(b"HTTP/1.1 405 ")


async def test_a_slow_head_is_408(start: Start, status: LinkStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.05)
    server = await start(link_routes(status))
    raw = await exchange(server, b"GET /status HTTP/1.1\r\n")
    assert raw.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_hangs_up_early_leaves_nothing(start: Start, status: LinkStatus) -> None:
    server = await start(link_routes(status))
    assert await exchange(server, b"GET /sta", eof=True) == b""
    assert await exchange(server, b"", eof=True) == b""
    assert (await get(server, "/liveness")).status_code == 200


async def test_too_many_connections_are_turned_away(
    start: Start, status: LinkStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    server = await start(link_routes(status))
    silent = [await asyncio.open_connection(*server.address) for _ in range(3)]
    assert (await exchange(server, b"GET /liveness HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
    for reader, writer in silent:
        writer.write(b"GET /liveness HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert (await get(server, "/liveness")).status_code == 200


async def test_a_client_that_does_not_read_is_dropped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.1)
    server = await start({"/big": lambda: Response(200, b"x" * 50_000_000)})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, server.address)
        await loop.sock_sendall(client, b"GET /big HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                await asyncio.sleep(0.3)  # longer than the server waits
                while await loop.sock_recv(client, 1 << 20):
                    pass
    assert (await get(server, "/nowhere")).status_code == 404


async def test_a_route_that_fails_is_500_and_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = await start({"/boom": lambda: document(float("nan"))})
    answer = await get(server, "/boom")
    assert (answer.status_code, answer.text) == (500, "internal error\n")
    assert "making an HTTP answer failed" in caplog.text


async def test_routes_may_be_coroutines(start: Start) -> None:
    async def later() -> Response:
        await asyncio.sleep(0)
        return document({"node": "sh-1", "shards": []})

    server = await start({"/status": later})
    assert (await get(server, "/status")).json() == {"node": "sh-1", "shards": []}


async def test_a_node_serves_many_links(start: Start, status: LinkStatus) -> None:
    links = [status, LinkStatus("bj-sh", "0", "bj", "sh")]
    server = await start(
        standard_routes(lambda: links, lambda: {"shards": [link.as_dict() for link in links]}, lambda: None)
    )
    assert len((await get(server, "/status")).json()["shards"]) == 2
    assert (await get(server, "/readiness")).text == "ready\n"
    assert 'task="bj-sh"' in (await get(server, "/metrics")).text


async def test_an_address_in_use_is_one_clear_line(start: Start) -> None:
    first = await start({})
    host, port = first.address
    with pytest.raises(ConfigError, match=rf"^cannot listen on {host}:{port}: .*in use; choose another address$"):
        await HttpServer(host, port, {}).start()
    with pytest.raises(ConfigError, match=r"cannot listen on 256\.1\.1\.1:1"):
        await HttpServer("256.1.1.1", 1, {}).start()


async def test_close_ends_open_connections(start: Start, status: LinkStatus, caplog: pytest.LogCaptureFixture) -> None:
    server = await start(link_routes(status))
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"GET /li")
    await writer.drain()
    await eventually(lambda: server._open, 20, "the server reads")
    async with asyncio.timeout(60):
        await server.close()
        with contextlib.suppress(ConnectionResetError):  # what the server had not read yet makes it a reset
            assert await reader.read() == b""
    writer.close()
    assert not caplog.records, "found by chaos: asyncio logs a cancelled connection as a fault"


def test_encode_is_exact() -> None:
    assert encode(text("hé", 404), True) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\nh\xc3\xa9\n"
    )


def test_document_writes_what_json_does_not_know_as_text() -> None:
    assert json.loads(document({"path": __import__("pathlib").PurePath("/x")}).body) == {"path": "/x"}


@examples(200)
@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_nothing(data: bytes) -> None:
    async def once() -> bytes:
        server = HttpServer("127.0.0.1", 0, {"/liveness": lambda: text("alive")})
        await server.start()
        try:
            return await exchange(server, data + b"\r\n\r\n", eof=True)
        finally:
            await server.close()

    assert asyncio.run(once()).startswith(b"HTTP/1.1 ")
