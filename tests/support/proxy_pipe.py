"""One direction of a connection through the proxy: how it behaves just now, and what carries its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.support.proxy_connection import Connection, Held

Direction = Literal["to_server", "to_client", "both"]
Side = Literal["client", "server", "both"]
How = Literal["rst", "fin"]

_READ = 256 * 1024
_QUEUE_BYTES = 32 * 1024 * 1024  # what may be under way in one direction; beyond it the sender is held up, as by TCP


class Conduct:
    """How one direction of one connection behaves just now."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.rate: float | None = None  # bytes a second
        self.chunk: int | None = None  # bytes a send
        self.gap_s = 0.0  # between two sends
        self.stalled = False

    def copy(self) -> Conduct:
        other = Conduct()
        other.__dict__.update(self.__dict__)
        return other


class Pipe:
    """One direction of one connection: a reader that queues, a writer that sends. All in the proxy's loop."""

    def __init__(self, connection: Connection, direction: Direction, conduct: Conduct) -> None:
        self.connection = connection
        self.direction = direction
        self.conduct = conduct
        self.passed = 0  # bytes sent on
        self.cut_after: tuple[int, How] | None = None  # bytes still allowed
        self.held: Held | None = None
        self.discard = False
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._ended = False
        self._news = asyncio.Event()
        self._tail = b""

    def changed(self) -> None:
        self._news.set()

    async def _wait(self, timeout: float | None = None) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # wait_for of 3.11 may forget that it was cancelled
                await self._news.wait()

    async def read(self, source: socket.socket) -> None:
        """Queue what comes until the source ends."""
        loop = asyncio.get_running_loop()
        while True:
            while self._queued > _QUEUE_BYTES and not self.discard:
                await self._wait()
            try:
                data = await loop.sock_recv(source, _READ)
            except OSError:
                data = b""
            if not data:
                self._ended = True
                self.changed()
                return
            self.connection.observe(self.direction, data)
            if not self.discard:
                self.take(data)

    def take(self, data: bytes) -> None:
        if self.direction == "to_server" and self.held is None:
            data = self._look_for_hold(data)
        elif self.held is not None:
            self.held.add(data)
            return
        self.queue(data)

    def _look_for_hold(self, data: bytes) -> bytes:
        """What may pass of data: all, or the part before the pattern that the proxy is waiting for."""
        waiting = self.connection.proxy.waiting
        if waiting is None:
            self._tail = b""
            return data
        window = self._tail + data
        at = waiting.find(window)
        if at < 0:
            self._tail = window[-(len(waiting.pattern) - 1) :] if len(waiting.pattern) > 1 else b""
            return data
        keep = max(0, at - len(self._tail))
        self._tail = b""
        self.held = waiting
        self.connection.proxy.waiting = None
        waiting.begin(self.connection, data[keep:])
        return data[:keep]

    def queue(self, data: bytes) -> None:
        if data:
            due = asyncio.get_running_loop().time() + self.conduct.delay_s
            self._queue.append((due, data))
            self._queued += len(data)
            self.changed()

    async def write(self, destination: socket.socket) -> None:
        """Send what is queued, with all that `conduct` asks for, then pass the end on."""
        while True:
            while not self._queue:
                if self._ended:
                    with contextlib.suppress(OSError):
                        destination.shutdown(socket.SHUT_WR)
                    return
                await self._wait()
            due, data = self._queue[0]
            await self._until(due)
            await self._send(destination, data)
            self._queue.popleft()
            self._queued -= len(data)
            self.changed()

    async def _until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        while self.conduct.stalled or (self.conduct.delay_s and loop.time() < due):
            await self._wait(None if self.conduct.stalled else due - loop.time())

    async def _send(self, destination: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and not self.discard:
            size = min(len(view), self.conduct.chunk or len(view))
            if self.conduct.rate:
                size = max(1, min(size, int(self.conduct.rate / 100)))
            if self.cut_after is not None:
                size = min(size, self.cut_after[0])
            try:
                await loop.sock_sendall(destination, view[:size])
            except OSError:
                self.discard = True  # the receiver is gone: the sender gets what it would get without a proxy
                self.connection.cut_soon("rst")
                return
            view = view[size:]
            self.passed += size
            if self.cut_after is not None:
                left, how = self.cut_after[0] - size, self.cut_after[1]
                self.cut_after = (left, how)
                if left <= 0:
                    self.discard = True
                    self.connection.cut_soon(how)
                    return
            if self.conduct.rate:
                await asyncio.sleep(size / self.conduct.rate)
            elif self.conduct.chunk and view:
                await asyncio.sleep(self.conduct.gap_s)
            while self.conduct.stalled:
                await self._wait()
