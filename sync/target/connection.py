"""One connection to a target: awaited calls for set-up and fencing, raw pipelining for batches.

Not redis-py: its client repeats a command whose connection broke (an INCR arrived eleven times), and here every byte
sent has to be accounted for. Replies of calls are parsed by hiredis.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis

from canal.endpoint import Endpoint, lost_unheard, open_connection
from canal.errors import CanalError, Unreachable
from canal.located import located
from canal.resp import encode
from sync.target.errors import classify

MAX_REPLY = 1 << 30
"""Bytes of replies that may wait to be understood; a target that sends more is cut off."""


@dataclass(slots=True)
class _Bulk:
    """Many replies that are awaited together."""

    future: asyncio.Future[Any]
    count: int
    replies: list[Any] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """Made by `connect`. ``call`` and ``calls`` until ``stream`` hands the replies to a writer."""

    several = False  # the nodes of a cluster stand behind it

    def __init__(self, endpoint: Endpoint, who: str = "target") -> None:
        self.endpoint = endpoint
        self.who = who  # for messages
        self.transport: asyncio.Transport | None = None
        self.closed: CanalError | None = None
        self._reader = hiredis.Reader()
        self._heard = False
        self._waiting: deque[asyncio.Future[Any] | _Bulk] = deque()
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[CanalError], None] | None = None
        self._on_writable: Callable[[], None] | None = None
        self.paused = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        if self._on_data is not None:
            self._on_data(data)
            return
        if not self._waiting:
            label = self.endpoint.label
            self.close(Unreachable(f"{self.who} {label} sent {len(data)} bytes that nothing had asked for"))
            return
        self._heard = True
        try:
            self._reader.feed(data)
            while self._waiting and (reply := self._reader.gets()) is not False:
                self._answered(reply)
        except hiredis.ProtocolError as error:
            self.close(Unreachable(f"{self.who} {self.endpoint.label} sent what is no reply: {error}"))

    def _answered(self, reply: Any) -> None:
        waiting = self._waiting[0]
        if isinstance(waiting, _Bulk):
            waiting.replies.append(reply)
            if len(waiting.replies) < waiting.count:
                return
            reply, future = waiting.replies, waiting.future
        else:
            future = waiting
        self._waiting.popleft()
        if not future.done():
            future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        text = f"connection to {self.who} {self.endpoint.label} lost" + (f": {exc}" if exc else "")
        self._end(Unreachable(text) if self._heard else lost_unheard(self.endpoint, exc, text))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._on_writable is not None:
            self._on_writable()

    def _end(self, error: CanalError) -> None:
        if self.closed is not None:
            return
        self.closed = error
        for waiting in self._waiting:
            future = waiting.future if isinstance(waiting, _Bulk) else waiting
            if not future.done():
                future.set_exception(error)
                future.exception()  # looked at: whoever awaited it may have been cancelled meanwhile
        self._waiting.clear()
        if self._on_lost is not None:
            self._on_lost(error)

    # ours

    def close(self, error: CanalError | None = None) -> None:
        """Drop the connection at once; what was sent may or may not have arrived."""
        self._end(error or Unreachable(f"connection to {self.who} {self.endpoint.label} closed"))
        if self.transport is not None:
            self.transport.abort()

    @property
    def broken(self) -> CanalError | None:
        """What ended it, if it has ended."""
        return self.closed

    @property
    def awaits_replies(self) -> bool:
        """Something was asked that is not answered yet."""
        return bool(self._waiting)

    @property
    def streaming(self) -> bool:
        """A writer has the connection: no more calls."""
        return self._on_data is not None

    @property
    def unsent(self) -> int:
        """Bytes written that the other end's kernel has not taken yet, as far as ours tells."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return 0
        waiting = transport.get_write_buffer_size()
        connection = transport.get_extra_info("socket")
        if connection is None:
            return waiting
        queued = bytearray(4)
        try:
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, queued)
        except OSError:
            return waiting
        return waiting + int.from_bytes(queued, sys.byteorder)

    def write(self, data: bytes) -> None:
        """Send bytes; never blocks. ``paused`` tells when the transport holds enough already."""
        assert self.transport is not None
        self.transport.write(data)

    async def calls(self, commands: list[list[bytes]], timeout: float = 30.0) -> list[Any]:
        """Send commands in one go and await their replies; error replies are `hiredis.ReplyError` values in the list.

        Raises `Unreachable` when the connection breaks or nothing comes for ``timeout`` seconds.
        """
        if self.closed is not None:
            raise self.closed
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        self._waiting.extend(futures)
        self.write(b"".join(encode(argv) for argv in commands))
        try:
            async with asyncio.timeout(timeout):
                return [await future for future in futures]
        except TimeoutError:
            error = Unreachable(f"{self.who} {self.endpoint.label} did not answer for {timeout:g} s")
            self.close(error)
            raise error from None
        finally:
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()  # seen: the first one was raised already

    async def bulk(self, raw: bytes, count: int, timeout: float = 30.0) -> list[Any]:
        """Send ``count`` commands that are encoded already; like `calls`, without an object for each of them."""
        if self.closed is not None:
            raise self.closed
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Bulk(future, count))
        self.write(raw)
        try:
            async with asyncio.timeout(timeout):
                replies: list[Any] = await future
                return replies
        except TimeoutError:
            error = Unreachable(f"{self.who} {self.endpoint.label} did not answer for {timeout:g} s")
            self.close(error)
            raise error from None

    async def call(self, *argv: bytes, timeout: float = 30.0) -> Any:
        """Send one command; raises what `classify` makes of an error reply."""
        reply = (await self.calls([list(argv)], timeout))[0]
        if isinstance(reply, hiredis.ReplyError):
            shown = " ".join(word.decode("utf-8", "replace") for word in argv[: 1 if argv[0] == b"AUTH" else 2])
            raise classify(str(reply), shown, self.who)
        return reply

    def stream(
        self, on_data: Callable[[bytes], None], on_lost: Callable[[CanalError], None], on_writable: Callable[[], None]
    ) -> None:
        """From here on replies go to ``on_data`` as raw bytes; no more calls."""
        self._on_data, self._on_lost, self._on_writable = on_data, on_lost, on_writable
        if self.closed is not None:
            on_lost(self.closed)


async def connect(endpoint: Endpoint, timeout: float = 10.0, who: str = "target") -> Connection:
    """Connect and authenticate; where several servers stand behind the endpoint, to the one that is meant now.

    Of a cluster it is a `ClusterConnection`. Raises `Unreachable`, `AuthError` and the like, each one clear line.
    """
    if endpoint.group is not None and endpoint.group.kind == "cluster":
        from sync.target.cluster.connection import open_cluster  # which is made of connections

        return await open_cluster(endpoint, who)
    endpoint = await located(endpoint)
    transport, protocol = await open_connection(endpoint, lambda: Connection(endpoint, who), timeout)
    assert isinstance(protocol, Connection)
    try:
        if endpoint.password is not None:
            user = [endpoint.username.encode()] if endpoint.username else []
            await protocol.call(b"AUTH", *user, endpoint.password.encode(), timeout=timeout)
        await protocol.call(b"PING", timeout=timeout)
    except BaseException:  # cancelled, too
        transport.abort()
        raise
    return protocol
