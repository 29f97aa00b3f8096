"""A TCP proxy that misbehaves on purpose, between a client under test and a real server.

    with Proxy(server.address) as proxy:
        link = connect(proxy.url)
        proxy.cut("rst")                      # every connection, both sides
        proxy.refuse(); proxy.accept()        # no new ones for a while
        proxy.delay(0.025)                    # each way: 50 ms of round trip
        proxy.limit(10_000_000)               # bytes a second, each way
        proxy.dribble(1)                      # one byte at a time
        proxy.stall("to_client")              # bytes wait, connections stay open
        proxy.flow()                          # all of the four above end

The proxy runs its event loop in a thread of its own, so it serves blocking and asyncio tests alike, and goes on when
either is busy. All methods may be called from any thread and have taken effect when they return.

Directions are "to_server" (client → server), "to_client", or "both".

Holding bytes back, to have a dead connection's bytes arrive late:

    held = proxy.hold(b"EXEC")                # on the first connection that sends this: it and all after it
    held.wait()                               # until it was seen; held.data is what is held by now
    held.cut_client()                         # the client sees a reset; the server sees nothing
    ...                                       # the client reconnects, through the same proxy, and goes on
    held.deliver()                            # now the server gets the bytes

`deliver` raises ConnectionError when the server has closed the connection meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from tests.support.process import ReservedPort

Direction = Literal["to_server", "to_client", "both"]
Side = Literal["client", "server", "both"]
How = Literal["rst", "fin"]
T = TypeVar("T")

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
            await asyncio.wait_for(self._news.wait(), timeout)

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
            (_reset_on_close if how == "rst" else _finish)(end)
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

    def wait(self, timeout: float = 10.0) -> None:
        if not self._seen.wait(timeout):
            raise AssertionError(f"not within {timeout:g} s: a connection sends {self.pattern!r}")

    async def wait_async(self, timeout: float = 10.0) -> None:
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


class Proxy:
    """See the top of this file. `target` may be changed at any time; it counts for connections made from then on.

    `on_connect(connection)` and `on_data(connection, direction, data)` are called in the proxy's thread, the second
    before the bytes are passed on; both may use every method of the connection but must not block.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        on_connect: Callable[[Connection], None] | None = None,
        on_data: Callable[[Connection, Direction, bytes], None] | None = None,
    ) -> None:
        self.target = target
        self.on_connect = on_connect
        self.on_data = on_data
        self.accepted = 0  # connections taken so far, the failed ones too
        self.live: list[Connection] = []
        self.conduct = {"to_server": Conduct(), "to_client": Conduct()}  # of new connections
        self.waiting: Held | None = None
        self._reserved = ReservedPort()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._reserved.number

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> list[Connection]:
        """The live ones, oldest first: neither side has ended."""
        return [connection for connection in list(self.live) if connection.open]

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- faults

    def cut(self, how: How = "rst", side: Side = "both") -> int:
        """End all live connections: "rst" at once, "fin" in order. Returns how many there were."""
        cut = self.connections
        for connection in cut:
            connection.cut(how, side)
        return len(cut)

    def refuse(self) -> None:
        """New connections are refused, live ones go on."""
        self.call(self._stop_listening)

    def accept(self) -> None:
        self.call(self._listen)

    def stall(self, direction: Direction = "both") -> None:
        """Nothing passes, nothing is lost, nobody is told."""
        self._adjust(direction, stalled=True)

    def flow(self) -> None:
        """Stall, delay, limit and dribble end."""
        self._adjust("both", stalled=False, delay_s=0.0, rate=None, chunk=None)

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Each byte arrives this much later; throughput stays, up to 32 MiB under way."""
        self._adjust(direction, delay_s=seconds)

    def limit(self, bytes_per_second: float | None, direction: Direction = "both") -> None:
        self._adjust(direction, rate=bytes_per_second)

    def dribble(self, size: int | None = 1, direction: Direction = "both", *, gap_s: float = 0.0) -> None:
        """Pass on at most `size` bytes at a time. Without a gap between them the receiver may read several at once."""
        self._adjust(direction, chunk=size, gap_s=gap_s)

    def hold(self, pattern: bytes, *, skip: int = 0) -> Held:
        """Keep back what a client sends from `pattern` on, on the first connection that sends it (after `skip` times).

        Other connections are not touched. Where the pattern arrives in two reads, the first part has passed already.
        """
        held = Held(self, pattern, skip)

        async def set_it() -> None:
            self.waiting = held

        self.call(set_it)
        return held

    # -- inside

    def _adjust(self, direction: Direction, **values: Any) -> None:
        async def set_them() -> None:
            for name, conduct in self.conduct.items():
                if direction in (name, "both"):
                    conduct.__dict__.update(values)

        self.call(set_them)
        for connection in list(self.live):
            connection.adjust(direction, **values)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Run work() in the proxy's loop; wait for it, unless we are in that loop (in a callback) already."""
        if threading.current_thread() is self._thread:
            task = self._loop.create_task(_no_result(work))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        else:
            asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind(("127.0.0.1", self.port))
            self._listener.listen(128)
            self._accepting = self._loop.create_task(self._accept_all(self._listener))

    async def _stop_listening(self) -> None:
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._listener.close()
            self._listener = self._accepting = None

    async def _accept_all(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self.accepted += 1
            task = self._loop.create_task(self._connect(client, self.accepted))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _connect(self, client: socket.socket, number: int) -> None:
        server = socket.socket()
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, self.target)
        except OSError:
            server.close()
            _reset_on_close(client)
            client.close()
            return
        connection = Connection(self, number, client, server)
        self.live.append(connection)
        try:
            if self.on_connect is not None:
                self.on_connect(connection)
            await connection.serve()
        finally:
            self.live.remove(connection)

    def close(self) -> None:
        async def close_all() -> None:
            await self._stop_listening()
            for connection in list(self.live):
                await connection.close()
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

        self.call(close_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.release()


async def _no_result(work: Callable[[], Coroutine[Any, Any, T]]) -> None:
    await work()


def _reset_on_close(connection: socket.socket) -> None:
    """RST instead of FIN: l_onoff 1, l_linger 0."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _finish(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
