"""One client's connection through the proxy, and bytes of it that are held back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.support.proxy_pipe import Direction, How, Pipe, Side

if TYPE_CHECKING:
    from tests.support.proxy import Proxy


class Connection:
    """One client's connection through the proxy. Its methods do to it alone what the proxy's do to all."""

    def __init__(self, proxy: Proxy, number: int, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.number = number  # the first that the proxy accepted is 1
        self.to_server = Pipe(self, "to_server", proxy.conduct["to_server"].copy())
        self.to_client = Pipe(self, "to_client", proxy.conduct["to_client"].copy())
        self.client_open = True
        self.server_open = True
        self._client = client
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []
        self._soon: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        """False once either side has ended or was cut."""
        return self.client_open and self.server_open

    def cut(self, how: How = "rst", side: Side = "both") -> None:
        self.proxy.call(lambda: self.cut_in_loop(how, side))

    def stall(self, direction: Direction = "both") -> None:
        self.adjust(direction, stalled=True)

    def flow(self) -> None:
        self.adjust("both", stalled=False, delay_s=0.0, rate=None, chunk=None)

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        self.adjust(direction, delay_s=seconds)

    def limit(self, bytes_per_second: float | None, direction: Direction = "both") -> None:
        self.adjust(direction, rate=bytes_per_second)

    def dribble(self, size: int | None = 1, direction: Direction = "both", *, gap_s: float = 0.0) -> None:
        self.adjust(direction, chunk=size, gap_s=gap_s)

    def cut_after(self, count: int, direction: Direction, how: How = "rst") -> None:
        """Pass exactly `count` more bytes in this direction, then cut both sides."""

        async def set_it() -> None:
            for pipe in self._pipes(direction):
                pipe.cut_after = (count, how)
            if count <= 0:
                await self.cut_in_loop(how, "both")

        self.proxy.call(set_it)

    def adjust(self, direction: Direction, **values: Any) -> None:
        async def set_them() -> None:
            for pipe in self._pipes(direction):
                pipe.conduct.__dict__.update(values)
                pipe.changed()

        self.proxy.call(set_them)

    # -- in the loop

    def _pipes(self, direction: Direction) -> list[Pipe]:
        return [pipe for pipe in (self.to_server, self.to_client) if direction in (pipe.direction, "both")]

    def observe(self, direction: Direction, data: bytes) -> None:
        if self.proxy.on_data is not None:
            self.proxy.on_data(self, direction, data)

    async def serve(self) -> None:
        """Until both sides have ended, or `close`."""
        start = asyncio.get_running_loop().create_task
        self._tasks = [
            start(self._read_client()),
            start(self._read_server()),
            start(self.to_server.write(self._server)),
            start(self.to_client.write(self._client)),
        ]
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_sockets()

    async def _read_client(self) -> None:
        await self.to_server.read(self._client)
        self.client_open = False
        if self.to_server.held is not None:
            await self.to_server.held.settled.wait()

    async def _read_server(self) -> None:
        await self.to_client.read(self._server)
        self.server_open = False

    def cut_soon(self, how: How) -> None:
        """`cut` for use from inside one of this connection's own tasks and from callbacks."""
        self._soon = asyncio.get_running_loop().create_task(self.cut_in_loop(how, "both"))

    async def cut_in_loop(self, how: How, side: Side) -> None:
        ends = []
        if side in ("client", "both"):
            self.client_open = False
            self.to_client.discard = True  # goes on reading, so that the server is not held up
            ends.append((self._client, [self._tasks[0], self._tasks[3]]))
        if side in ("server", "both"):
            self.server_open = False
            self.to_server.discard = True
            ends.append((self._server, [self._tasks[1], self._tasks[2]]))
        for end, _ in ends:  # before any task ends: serve() closes the sockets when all have
            (reset_on_close if how == "rst" else _finish)(end)
        if how == "rst":
            for end, tasks in ends:
                await self._stop_tasks(tasks)
                end.close()

    async def deliver(self, data: bytes) -> None:
        if not self.server_open:
            raise ConnectionResetError("the server has closed the connection whose bytes were held back")
        await asyncio.get_running_loop().sock_sendall(self._server, data)
        self.to_server.passed += len(data)

    async def close(self) -> None:
        await self._stop_tasks([*self._tasks, *([self._soon] if self._soon else [])])
        self._close_sockets()

    async def _stop_tasks(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        stopping = [task for task in tasks if task is not asyncio.current_task() and not task.done()]
        for task in stopping:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)

    def _close_sockets(self) -> None:
        self.client_open = self.server_open = False
        self._client.close()
        self._server.close()


class Held:
    """Bytes kept back from the server. See `Proxy.hold`."""

    def __init__(self, proxy: Proxy, pattern: bytes, skip: int) -> None:
        self.pattern = pattern
        self.connection: Connection | None = None  # the one whose bytes are held
        self.settled = asyncio.Event()
        self._proxy = proxy
        self._skip = skip
        self._parts: list[bytes] = []
        self._seen = threading.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)

    def wait(self, timeout: float = 60.0) -> None:
        if not self._seen.wait(timeout):
            raise AssertionError(f"not within {timeout:g} s: a connection sends {self.pattern!r}")

    async def wait_async(self, timeout: float = 60.0) -> None:
        await asyncio.to_thread(self.wait, timeout)

    def cut_client(self, how: How = "rst") -> None:
        self._the_connection().cut(how, "client")

    def deliver(self) -> None:
        """Send everything held to the server; the connection then flows on, if its client is still there."""
        connection = self._the_connection()

        async def send() -> None:
            try:
                await connection.deliver(self.data)
            finally:
                self._settle(connection)

        self._proxy.call(send)

    def drop(self) -> None:
        """Forget the bytes, and let the connection flow on (with a hole in it)."""

        async def forget() -> None:
            self._settle(self._the_connection())

        self._proxy.call(forget)

    # -- in the loop

    def find(self, window: bytes) -> int:
        at = window.find(self.pattern)
        while at >= 0 and self._skip > 0:
            self._skip -= 1
            at = window.find(self.pattern, at + len(self.pattern))
        return at

    def begin(self, connection: Connection, data: bytes) -> None:
        self.connection = connection
        self._parts.append(data)
        self._seen.set()

    def add(self, data: bytes) -> None:
        self._parts.append(data)

    def _settle(self, connection: Connection) -> None:
        self._parts.clear()
        connection.to_server.held = None
        self.settled.set()

    def _the_connection(self) -> Connection:
        assert self.connection is not None, "nothing is held yet: wait() first"
        return self.connection


def reset_on_close(connection: socket.socket) -> None:
    """RST instead of FIN: l_onoff 1, l_linger 0."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _finish(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
