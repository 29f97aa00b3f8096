"""A small HTTP/1.1 server for what a node or ``run`` tells about itself: read-only, on the loop of the data path.

Promises: answers GET and HEAD, one request per connection; a request line and headers of at most ``MAX_HEAD`` bytes
within ``HEAD_TIMEOUT_S``; at most ``MAX_CONNECTIONS`` at a time, the next are turned away with 503; a client that does
not read its answer is dropped after ``SEND_TIMEOUT_S``. A request body is never read. Whatever a client sends, nothing
but an HTTP answer or a closed connection comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from canal.errors import ConfigError
from node.metrics import CONTENT_TYPE, LinkCollector, NodeFigures
from sync.status import LinkStatus

log = logging.getLogger(__name__)

MAX_HEAD: Final = 8192
HEAD_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 64
# method SP target SP version, RFC 9112 section 3; the target in origin form only
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,2048}) HTTP/1\.[01]\Z")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; the body is sent for GET only."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Route = Callable[[], Response | Awaitable[Response]]


def text(message: str, status: int = 200) -> Response:
    """A line of text."""
    return Response(status, f"{message}\n".encode())


def document(value: Any, status: int = 200) -> Response:
    """A JSON document; what JSON does not know is written as its ``str``."""
    return Response(status, json.dumps(value, default=str, allow_nan=False).encode() + b"\n", "application/json")


class HttpServer:
    """Serves ``routes`` (path -> function that makes the answer). Paths are compared whole, without the query."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route], tls: ssl.SSLContext | None = None) -> None:
        self._host, self._port = host, port
        self.scheme = "http" if tls is None else "https"
        self._tls = tls
        self._routes = dict(routes)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ConfigError that names the address and what is wrong with it."""
        try:
            self._server = await asyncio.start_server(
                self._serve,
                self._host,
                self._port,
                limit=MAX_HEAD,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else HEAD_TIMEOUT_S,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"cannot listen on {self._host}:{self._port}: {reason}; choose another address") from None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on (the real port where 0 was asked for); only while started."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop listening and drop open connections."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy = len(self._open) >= MAX_CONNECTIONS
        self._open.add(task)
        try:
            answer, with_body = (text("too many connections", 503), True) if busy else await self._answer(reader)
            writer.write(encode(answer, with_body))
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await _finish(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # cancelled by `close` alone: asyncio would log that as a fault (until 3.12)
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Response, bool]:
        """The answer, and whether its body is to be sent."""
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return text("request too large", 431), True
        except TimeoutError:
            return text("request too slow", 408), True
        match = _REQUEST_LINE.match(head.partition(b"\r\n")[0])
        if match is None:
            return text("bad request", 400), True
        method, target = match[1], match[2].decode("ascii")
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return text("not found", 404), method != b"HEAD"
        if method not in (b"GET", b"HEAD"):
            return Response(405, b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),)), True
        return await _call(route), method == b"GET"


async def _call(route: Route) -> Response:
    try:
        made = route()
        return await made if inspect.isawaitable(made) else made
    except Exception:
        log.exception("making an HTTP answer failed")
        return text("internal error", 500)


async def _finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send, then wait for the client to close: closing first with unread input would reset and lose the answer."""
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    taken = 0
    while taken < MAX_HEAD * 8:
        data = await reader.read(MAX_HEAD)
        if not data:
            return
        taken += len(data)


def encode(answer: Response, with_body: bool) -> bytes:
    """The bytes of an answer. ``Content-Length`` is that of the body even when it is left out (HEAD)."""
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (answer.body if with_body else b"")


def link_ready(status: LinkStatus) -> str | None:
    """Why a link is not ready, or None: ready is while a snapshot is applied or the stream is followed."""
    if status.state in ("snapshot", "streaming"):
        return None
    return f"{status.task}/{status.shard} is {status.state}" + (f": {status.last_error}" if status.last_error else "")


def standard_routes(
    statuses: Callable[[], Iterable[LinkStatus]],
    status_document: Callable[[], Any],
    not_ready: Callable[[], str | None],
    *,
    version: str = "",
    framing: str = "",
    node: Callable[[], NodeFigures] | None = None,
) -> dict[str, Route]:
    """``/metrics``, ``/status``, ``/liveness`` and ``/readiness`` over the given functions, called at each request.

    ``not_ready`` answers why not, or None; liveness says only that the loop turns.
    """
    collector = LinkCollector(statuses, version, framing, node)

    def readiness() -> Response:
        reason = not_ready()
        return text("ready") if reason is None else text(f"not ready: {reason}", 503)

    return {
        "/metrics": lambda: Response(200, collector.render(), CONTENT_TYPE),
        "/status": lambda: document(status_document()),
        "/liveness": lambda: text("alive"),
        "/readiness": readiness,
    }


def link_routes(status: LinkStatus, *, version: str = "", framing: str = "") -> dict[str, Route]:
    """The routes of ``run``: one link, whose status is the document."""
    return standard_routes(
        lambda: (status,), status.as_dict, lambda: link_ready(status), version=version, framing=framing
    )


def cluster_routes(
    whole: LinkStatus, shards: Callable[[], Iterable[LinkStatus]], *, version: str = "", framing: str = ""
) -> dict[str, Route]:
    """The routes of ``run`` from a source cluster: the sum of all shards, and each of them under ``shards``."""

    def found() -> dict[str, Any]:
        return {**whole.as_dict(), "shards": [status.as_dict() for status in shards()]}

    return standard_routes(shards, found, lambda: link_ready(whole), version=version, framing=framing)
