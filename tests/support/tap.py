"""What a server puts into its replication stream, by a blocking replica that shares no code with the product.

with Tap(server) as tap:
    ...write...
    commands = tap.commands()      # [(db, argv, received_ms)], everything since the last call
"""

from __future__ import annotations

import socket
import time
from typing import Any, NamedTuple, Self

import hiredis

from tests.support.servers import Server

_END = b"redis-canal:tap-end"


class Taken(NamedTuple):
    """One command of the stream; ``db`` is the database selected there, ``received_ms`` unix milliseconds."""

    db: int
    argv: list[bytes]
    received_ms: int


class Tap:
    """A replica by PSYNC ? -1 that throws the snapshot away. Announces nothing, so the snapshot has a length."""

    def __init__(self, server: Server) -> None:
        self._client = server.client()
        self._socket = socket.create_connection(server.address, 60)
        self._reader = hiredis.Reader()
        self._db = 0
        self._marks = 0
        self._socket.sendall(b"PSYNC ? -1\r\n")
        rest = self._skip_snapshot(b"")
        self._reader.feed(rest)

    def _skip_snapshot(self, data: bytes) -> bytes:
        header, data = self._line(data)
        assert header.startswith(b"+FULLRESYNC"), header
        size, data = self._line(data)
        assert size.startswith(b"$") and not size.startswith(b"$EOF"), size
        left = int(size[1:])
        while len(data) < left:
            data += self._receive()
        return data[left:]

    def _line(self, data: bytes) -> tuple[bytes, bytes]:
        while True:
            line, end, rest = data.partition(b"\n")
            if end and line.strip():
                return line.strip(), rest
            data = rest if end else data + self._receive()

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed the replication connection")
        return data

    def commands(self) -> list[Taken]:
        """All that was propagated since the last call. PING, REPLCONF and SELECT are left out."""
        self._marks += 1
        mark = b"%d" % self._marks
        self._client.set(_END, mark)
        taken: list[Taken] = []
        while True:
            argv: Any = self._reader.gets()
            if argv is False:
                self._reader.feed(self._receive())
                continue
            name = argv[0].upper()
            if name == b"SELECT":
                self._db = int(argv[1])
            elif argv[1:3] == [_END, mark]:
                return taken
            elif name not in (b"PING", b"REPLCONF"):
                taken.append(Taken(self._db, argv, time.time_ns() // 1_000_000))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
