"""A source and a target that lie, at a whole link: it does not end, takes little memory, and counts nothing as applied
that was not.

What is called endless is 4 MiB here, and 16 MiB with REDIS_CANAL_FULL=1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from canal.errors import ProtocolError
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link, LinkProcess
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.workload import COUNTING, Workload

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
ENDLESS = (16 if FULL else 4) << 20
TIMES = 3
MORE_MB = 60 + (TIMES * ENDLESS >> 20 if FULL else 0)  # that a lie may cost, here where it is told, too

Mangle = Callable[[bytes], bytes | None]


class Between:
    """Passes bytes on in both directions; `lie` adds something to what the server answers, or puts it in its place.

    `to_client(data)` sees what the server sends and returns what the client gets; None: the connection is cut.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.to_client: Mangle = lambda data: data
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()

        async def listen() -> int:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            port: int = self._server.sockets[0].getsockname()[1]
            return port

        self.port = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            self._server.close()
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await asyncio.sleep(0)  # transports close in the next turn

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._address)
        except OSError:
            writer.close()
            return
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(self._pipe(reader, back, bytes), self._pipe(there, writer, self._mangled))
        finally:
            for end in (writer, back):
                end.transport.abort()

    def _mangled(self, data: bytes) -> bytes | None:
        return self.to_client(data)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, through: Mangle) -> None:
        while data := await reader.read(1 << 16):
            passed = through(data)
            if passed is None:
                writer.transport.abort()
                return
            writer.write(passed)
            await writer.drain()
        writer.close()


def once(lie: Callable[[bytes], bytes], times: int = TIMES) -> Mangle:
    """Lies so many times, then tells the truth."""
    left = [times]

    def mangle(data: bytes) -> bytes:
        if left[0] > 0 and len(data) > 3:
            left[0] -= 1
            return lie(data)
        return data

    return mangle


TARGET_LIES: dict[str, Callable[[bytes], bytes]] = {
    "more replies than asked for": lambda data: b"+OK\r\n" * 5 + data,
    "a transaction that says it was applied": lambda data: b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n" + data,
    "an empty transaction": lambda data: b"*-1\r\n*0\r\n*-1\r\n" + data,
    "arrays in arrays without end": lambda data: b"*1\r\n" * 200_000,
    "an endless line": lambda data: b"+" + b"x" * ENDLESS,
    "an endless error": lambda data: b"-ERR " + b"x" * ENDLESS,
    "a bulk of 4 GB": lambda data: b"$4294967296\r\n" + b"x" * ENDLESS,
    "a bulk of less than nothing": lambda data: b"$-7\r\n" + data,
    "an array of 2**63": lambda data: b"*9223372036854775807\r\n" + data,
    "no protocol at all": lambda data: b"\x00\xff HTTP/1.1 200 OK\r\n\r\n",
    "half of it": lambda data: data[: len(data) // 2],
    "types of the newer protocol": lambda data: b">2\r\n+invalidate\r\n*1\r\n+k\r\n" + b"%1\r\n+a\r\n:1\r\n" + data,
}


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        (name, writer)
        for name in TARGET_LIES
        for writer in MODES
        if FULL or (name, writer) != ("a bulk of 4 GB", "guarded")  # a minute; test_a_reply_without_end_is_given_up
    ],
)
def test_a_target_that_lies(
    redis_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, name: str
) -> None:
    """The connection is made anew, and the checkpoint read again; an error is believed, but not told at length."""
    monkeypatch.setattr("sync.session.REPLY_TIMEOUT_S", 2.0)
    source, target = redis_server(), redis_server()
    with Between(target.address) as between, Link(source, between, tmp_path, writer=writer) as link:
        link.streaming()
        before, reconnects = memory_mb(), link.status.target_reconnects
        between.to_client = once(TARGET_LIES[name])
        with Workload(source, writers=1, rate=2000, commands=COUNTING):
            if name == "an endless error" and writer == "guarded":
                assert len(str(link.failed(60))) < 3000
                return
            link.until(lambda: link.status.target_reconnects > reconnects, 60, f"{name}: connects anew")
            between.to_client = bytes
        link.in_step(source, 60)
        wait_equal(source, target)
        assert memory_mb() - before < MORE_MB, f"{name}: {memory_mb() - before:.0f} MB"
        assert (link.status.dead_letters, link.status.full_resyncs) == (0, 1)


SOURCE_LIES: dict[str, Callable[[bytes], bytes]] = {
    "a command of a milliard arguments": lambda data: b"*1000000000\r\n$3\r\nSET\r\n" + data,
    "an argument of 4 GB": lambda data: b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4294967296\r\n" + b"x" * ENDLESS,
    "an argument of less than nothing": lambda data: b"*2\r\n$-5\r\n" + data,
    "an endless inline command": lambda data: b"x" * ENDLESS,
    "an endless length": lambda data: b"*" + b"1" * ENDLESS,
    "nulls": lambda data: b"\x00" * 1000,
    "no numbers": lambda data: b"*a\r\n$b\r\n" + data,
    "a length that is too short": lambda data: b"*3\r\n$3\r\nSET\r\n$1\r\nkey\r\n$1\r\nv\r\n",
    "a reply instead of commands": lambda data: b"-ERR go away\r\n" * 100,
}


@pytest.mark.parametrize("name", SOURCE_LIES)
def test_a_source_that_lies_within_the_stream(redis_server: StartServer, tmp_path: Path, name: str) -> None:
    """What cannot be read stops the link, which says where; nothing of it is applied or counted as applied."""
    source, target = redis_server(), redis_server()
    with Between(source.address) as between, Link(between, target, tmp_path) as link:
        link.streaming()
        client = source.client()
        client.incr("count")
        link.in_step(source)
        before, applied = memory_mb(), link.status.applied_offset
        between.to_client = once(SOURCE_LIES[name], 1)
        client.incr("count")
        error = link.failed(60)
        assert isinstance(error, ProtocolError) and error.offset is not None and error.offset >= applied
        assert link.status.applied_offset == applied
        assert memory_mb() - before < MORE_MB, f"{memory_mb() - before:.0f} MB"
    assert target.control.get("count") == b"1" and _keys(target) == {b"count"}


@pytest.fixture
def false_source() -> Iterator[Callable[[bytes, bytes], int]]:
    """Starts sources that greet, answer PSYNC with this and then send that again and again; returns their port."""
    listeners: list[socket.socket] = []

    def start(answer: bytes, then: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=_greet_all, args=(listener, answer, then), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield start
    for listener in listeners:
        listener.close()


def _greet_all(listener: socket.socket, answer: bytes, then: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_greet, args=(connection, answer, then), daemon=True).start()


def _greet(connection: socket.socket, answer: bytes, then: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(4096):
            if b"INFO" in data.upper():
                connection.sendall(b"$45\r\n# Server\r\nredis_version:7.0.15\r\nrun_id:aaaaaa\r\n\r\n")
            elif b"PSYNC" in data.upper():
                connection.sendall(answer)
                until = time.monotonic() + 20
                while time.monotonic() < until:
                    connection.sendall(then)
            else:
                connection.sendall(b"+PONG\r\n" if b"PING" in data.upper() else b"+OK\r\n" * max(1, data.count(b"*")))


FULL = b"+FULLRESYNC " + b"a" * 40 + b" 100\r\n"
FALSE_SNAPSHOTS = {
    "4 GB that are no RDB": (FULL + b"$4294967296\r\n", bytes(1 << 16)),
    "a key of 4 GB": (FULL + b"$8589934592\r\nREDIS0010\xfe\x00\x00\x80\xff\xff\xff\xff", b"k" * (1 << 16)),
    "a mark that never comes": (FULL + b"$EOF:" + b"m" * 40 + b"\r\nGARBAGE", bytes(1 << 16)),
    "no replid": (b"+FULLRESYNC zz 1\r\n", b"x" * 100),
    "an endless answer": (b"+FULLRESYNC " + b"a" * (1 << 20), b"a" * (1 << 16)),
    "a continuation that nobody asked for": (b"+CONTINUE\r\n", b"*1\r\n$4\r\nPING\r\n"),
}


@pytest.mark.parametrize("name", FALSE_SNAPSHOTS)
def test_a_source_that_lies_from_the_start(
    redis_server: StartServer, tmp_path: Path, false_source: Callable[[bytes, bytes], int], name: str
) -> None:
    """`run` refuses it or goes on trying; the target stays as it was, memory and disk stay small."""
    target = redis_server()
    port = false_source(*FALSE_SNAPSHOTS[name])

    class At:
        url = f"redis://127.0.0.1:{port}"

    with LinkProcess(At(), target, tmp_path) as link:
        deadline = time.monotonic() + 6
        peak = 0
        while link.running and time.monotonic() < deadline:
            peak = max(peak, _peak_kb(link.process.pid))
            time.sleep(0.05)
        assert "Traceback" not in link.log and "internal error" not in link.log, link.log
        assert not link.running or link.log.count("\n") < 200
    assert peak < 130_000, f"{name}: {peak} kB\n{link.log[-2000:]}"
    assert _keys(target) == set()
    assert not any(key.endswith(b"phase") for key in target.control.hkeys("redis-canal:checkpoint:test/0"))


def _keys(server: Server) -> set[bytes]:
    return {key for key in server.control.scan_iter() if not key.startswith(b"redis-canal:")}


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return 0


def test_the_man_in_the_middle_is_honest_by_default(redis_server: StartServer) -> None:
    server = redis_server()
    with Between(server.address) as between:
        connection = socket.create_connection(("127.0.0.1", between.port), 20)
        connection.sendall(b"PING\r\n")
        wait_until(lambda: connection.recv(100) == b"+PONG\r\n", 10, "PONG")
        connection.close()
