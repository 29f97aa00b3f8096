"""redis-py clients for control commands. What needs speed or a stream has connections of its own (`canal.endpoint`)."""

from __future__ import annotations

import inspect
import ssl
from typing import Any

from redis import exceptions as theirs
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from canal.endpoint import OTHER_NAME, Endpoint, certificate_names, connection_error, tls_context
from canal.errors import AuthError, NotRedis, PeerError, Unreachable, Unready

# redis-py names itself to the server (CLIENT SETINFO) unless told not to; the option was renamed in redis-py 7.
_PARAMETERS = inspect.signature(AbstractConnection.__init__).parameters
_NO_LIB_NAME: dict[str, Any] = (
    {"driver_info": None} if "driver_info" in _PARAMETERS else {"lib_name": None, "lib_version": None}
)


class _TlsConnection(Connection):
    """redis-py's TCP connection with a context and server names of ours: it has no option for the latter."""

    def __init__(self, *, endpoint: Endpoint, context: ssl.SSLContext | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._endpoint, self._context = endpoint, context
        self._member, self._name = endpoint, ""

    async def _connect(self) -> None:
        tls = self._member.tls
        if tls is None:
            await super()._connect()  # type: ignore[no-untyped-call]
            return
        *first, last = certificate_names(tls, self._member.host)
        for self._name in first:
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
                return
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in OTHER_NAME:
                    raise
        self._name = last
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {**super()._connection_arguments()}
        if self._context is not None:
            arguments |= {"ssl": self._context, "server_hostname": self._name}
        return arguments


class _LocatedConnection(_TlsConnection):
    """The same, perhaps without TLS, to whichever server of a group is meant when it connects."""

    async def _connect(self) -> None:
        from canal.located import located  # which asks servers, over the clients made here

        self._member = await located(self._endpoint)
        self.host, self.port = self._member.host, self._member.port
        await super()._connect()


def control(endpoint: Endpoint, *, timeout_s: float = 10.0, client_name: str | None = None) -> Redis:
    """A redis-py client for control commands only (INFO, SCAN, CLIENT …), replies as bytes.

    Retries are off: redis-py's default would deliver a command whose connection broke up to eleven times. Close it
    with ``aclose()``. Its errors are redis-py's own; ``control_error`` says what they mean.
    """
    kwargs: dict[str, Any] = {
        "username": endpoint.username,
        "password": endpoint.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        **_NO_LIB_NAME,
        "client_name": client_name,
        "protocol": 2,
    }
    if endpoint.path is not None:
        kwargs.update(connection_class=UnixDomainSocketConnection, path=endpoint.path)
    elif endpoint.group is not None or endpoint.tls is not None:
        context = None if endpoint.tls is None else tls_context(endpoint.tls)
        kind = _TlsConnection if endpoint.group is None else _LocatedConnection
        kwargs.update(host=endpoint.host, port=endpoint.port, connection_class=kind, endpoint=endpoint, context=context)
    else:
        kwargs.update(host=endpoint.host, port=endpoint.port, connection_class=Connection)
    return Redis.from_pool(ConnectionPool(**kwargs))


_NOT_NOW = (
    theirs.BusyLoadingError,
    theirs.MasterDownError,
    theirs.ClusterDownError,
    theirs.TryAgainError,
    theirs.ReadOnlyError,
)
_NOT_NOW_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "OOM", "UNKILLABLE")


def control_error(endpoint: Endpoint, error: theirs.RedisError | OSError, timeout_s: float = 10.0) -> PeerError:
    """What an error of a ``control`` client means, in our tree; PeerError itself when the command was refused."""
    label = endpoint.label
    if isinstance(error, OSError):
        return connection_error(endpoint, error, timeout_s)
    if isinstance(error, theirs.NoPermissionError):
        return AuthError(f"{label}: the user lacks a permission: {error}")
    if isinstance(error, theirs.AuthenticationError | theirs.AuthenticationWrongNumberOfArgsError):
        return AuthError(f"{label}: {error}")
    if isinstance(error, _NOT_NOW) or str(error).startswith(_NOT_NOW_CODES):
        return Unready(f"{label}: not now: {error}")
    if isinstance(error, theirs.InvalidResponse):
        return NotRedis(f"{label}: no Redis answers there: {error}")
    if str(error).startswith("DENIED"):
        return AuthError(f"{label}: the server's protected mode lets only local clients in")
    if isinstance(error, theirs.ConnectionError | theirs.TimeoutError):
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionResetError):
            return connection_error(endpoint, cause, timeout_s)
        return Unreachable(f"{label}: {error}")
    return PeerError(f"{label}: {error}")
