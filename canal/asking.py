"""A short-lived connection for a few questions: nothing of it is left behind when whoever asks is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hiredis

from canal.endpoint import lost_unheard, open_connection
from canal.errors import AuthError, NotRedis, PeerError, Unreachable, Unready
from canal.resp import encode
from canal.url import Endpoint

_ENDED = object()
_ROLE_S = 6.0
_AUTH = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR invalid password", "ERR Client sent AUTH", "ERR AUTH", "DENIED")
_NOT_NOW = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ", "MISCONF", "READONLY")


class Asker(asyncio.Protocol):
    """Made by `asking`. Replies come in order; what nobody asked for (pub/sub) stands among them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._label = endpoint, endpoint.label
        self._heard = False
        self._lost: Exception | None = None
        self._reader = hiredis.Reader()
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self.transport: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.put_nowait(reply)
        except hiredis.ProtocolError as error:
            self._replies.put_nowait(NotRedis(f"{self._label}: no Redis answers there: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc
        self._replies.put_nowait(_ENDED)

    async def next(self, timeout_s: float) -> Any:
        """The next reply; an error reply is returned.

        Raises Unreachable when the connection ends, TlsError when it does so before the first byte because the server
        does not take us (TLS 1.3 says so only after the handshake), TimeoutError.
        """
        async with asyncio.timeout(timeout_s):
            reply = await self._replies.get()
        if reply is _ENDED:
            self._replies.put_nowait(_ENDED)
            text = f"{self._label}: the connection was closed"
            raise Unreachable(text) if self._heard else lost_unheard(self._endpoint, self._lost, text)
        if isinstance(reply, NotRedis):
            raise reply
        return reply

    def send(self, *words: bytes) -> None:
        """Send a command; its reply comes by `next`."""
        assert self.transport is not None
        self.transport.write(encode(list(words)))

    async def ask(self, *words: bytes, timeout_s: float) -> Any:
        """One command and its reply. Raises AuthError, Unready or PeerError for an error reply, Unreachable when none
        comes.
        """
        self.send(*words)
        try:
            reply = await self.next(timeout_s)
        except TimeoutError:
            raise Unreachable(f"{self._label}: no answer within {timeout_s:g} s") from None
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(_NOT_NOW):
                raise Unready(f"{self._label}: not now: {reply}")
            kind = AuthError if str(reply).startswith(_AUTH) else PeerError
            raise kind(f"{self._label}: {reply}")
        return reply


@asynccontextmanager
async def asking(endpoint: Endpoint, timeout_s: float) -> AsyncIterator[Asker]:
    """Connect and authenticate. Raises what `open_connection` raises, and AuthError."""
    transport, asker = await open_connection(endpoint, lambda: Asker(endpoint), timeout_s)
    asker.transport = transport
    try:
        if endpoint.password is not None:
            user = [endpoint.username.encode()] if endpoint.username else []
            await asker.ask(b"AUTH", *user, endpoint.password.encode(), timeout_s=timeout_s)
        yield asker
    finally:
        transport.abort()


async def must_be_master(server: Endpoint, named: str) -> None:
    """Raise Unready when the server is a replica, and what its connection raises. ``named``: who calls it a master."""
    async with asking(server, _ROLE_S) as asker:
        try:
            role = await asker.ask(b"ROLE", timeout_s=_ROLE_S)
        except AuthError as error:
            if "NOPERM" in str(error):
                return  # a user that may only replicate: what follows will show
            raise
    if role[0] != b"master":
        raise Unready(f"{named}, a {role[0].decode()} by now: a failover is under way")
