"""A blocking connection for sending many commands at once and taking their replies raw.

Several times as fast as a redis-py pipeline, and it converts nothing: replies are bytes, int, None, lists of these, and
hiredis.ReplyError objects (returned, not raised).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import hiredis

from tests.support.servers import Server

Argument = bytes | str | int | float
Command = Sequence[Argument]
Target = Server | str  # a URL redis://[user:password@]host:port or unix://path


class Wire:
    """`send` any number of commands, then `receive` as many replies; or `call` and `ask` for both."""

    def __init__(self, target: Target, timeout: float = 120.0) -> None:
        self._reader = hiredis.Reader()
        if isinstance(target, Server):
            self._socket = _connect_unix(str(target.unix_socket), timeout)
            credentials: Command | None = ("AUTH", target.password) if target.password else None
        else:
            url = urlsplit(target)
            if url.scheme == "unix":
                self._socket = _connect_unix(url.path, timeout)
            else:
                self._socket = socket.create_connection((url.hostname or "127.0.0.1", url.port or 6379), timeout)
            user = [unquote(url.username)] if url.username else []
            credentials = ("AUTH", *user, unquote(url.password)) if url.password else None
        if credentials is not None:
            try:
                self.ask(*credentials)
            except BaseException:
                self.close()
                raise

    def send(self, commands: Iterable[Command]) -> int:
        """Returns how many replies to ask `receive` for. Redis buffers them, so this does not wait for a reader."""
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        self._socket.sendall(b"".join(packed))
        return len(packed)

    def receive(self, count: int) -> list[Any]:
        replies: list[Any] = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is False:
                data = self._socket.recv(1 << 20)
                if not data:
                    raise ConnectionError(f"the server closed the connection after {len(replies)} of {count} replies")
                self._reader.feed(data)
            else:
                replies.append(reply)
        return replies

    def call(self, commands: Iterable[Command]) -> list[Any]:
        return self.receive(self.send(commands))

    def ask(self, *command: Argument) -> Any:
        """One command; an error reply is raised."""
        reply = self.call([command])[0]
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect_unix(path: str, timeout: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
