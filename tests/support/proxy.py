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
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.process import ReservedPort
from tests.support.proxy_connection import Connection, Held, reset_on_close
from tests.support.proxy_pipe import Conduct, Direction, How, Side

__all__ = ["Connection", "Direction", "Held", "Proxy"]

T = TypeVar("T")


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
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        """Not by `sock_accept`, whose result is lost where its task is cancelled at that moment."""
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has gone already
        self.accepted += 1
        task = self._loop.create_task(self._connect(client, self.accepted))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: client.close())  # where it never began

    async def _connect(self, client: socket.socket, number: int) -> None:
        server = socket.socket()
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, self.target)
        except OSError:
            server.close()
            reset_on_close(client)
            client.close()
            return
        except asyncio.CancelledError:
            server.close()
            raise
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
