"""How a server is reached: TLS, and connections for our own protocols."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from canal.errors import ConfigError, PeerError, TlsError, Unreachable
from canal.url import Endpoint, TlsOptions, parse_url

__all__ = [
    "Endpoint",
    "TlsOptions",
    "connection_error",
    "open_connection",
    "parse_url",
    "tls_context",
]

P = TypeVar("P", bound=asyncio.BaseProtocol)


def serving_context(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """A server's context: TLS 1.2 on; with ``client_ca`` only clients with a certificate of that authority get in.

    Raises ConfigError that names the file that is missing or cannot be used.
    """
    for what, name in (("certificate", cert), ("key", key), ("client CA", client_ca)):
        if name is not None and not Path(name).exists():
            raise ConfigError(f"TLS {what} file {name!r} does not exist")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"TLS certificate {cert!r} with key {key or cert!r} cannot be used: {_reason(error)}; expected PEM, the "
            "key without passphrase and belonging to the certificate"
        ) from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"TLS client CA file {client_ca!r} cannot be used: {_reason(error)}; expected PEM"
            ) from None
    return context


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """A client context for these options; ConfigError names the file that is missing or cannot be used."""
    for what, name in (("CA", options.ca), ("certificate", options.cert), ("key", options.key)):
        if name is not None and not Path(name).exists():
            raise ConfigError(f"TLS {what} file {name!r} does not exist")
    if options.key is not None and options.cert is None:
        raise ConfigError("a TLS key was given without its certificate; give both")
    is_dir = options.ca is not None and Path(options.ca).is_dir()
    try:
        context = ssl.create_default_context(
            cafile=None if is_dir else options.ca, capath=options.ca if is_dir else None
        )
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"TLS CA file {options.ca!r} cannot be used: {_reason(error)}; expected PEM") from None
    if options.cert is not None:
        try:  # the empty passphrase keeps OpenSSL from asking for one on the terminal
            context.load_cert_chain(options.cert, options.key, password=lambda: b"")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"TLS certificate {options.cert!r} with key {options.key or options.cert!r} cannot be used: "
                f"{_reason(error)}; expected PEM, the key without passphrase and belonging to the certificate"
            ) from None
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "reason", None) or error).lower().replace("_", " ")
    return error.strerror or str(error)


async def open_connection(
    endpoint: Endpoint, protocol_factory: Callable[[], P], timeout_s: float
) -> tuple[asyncio.Transport, P]:
    """Connect (TLS included) within ``timeout_s`` and return transport and protocol.

    Raises Unreachable (refused, no such host, timeout …; may be retried), TlsError (certificate or handshake) or
    ConfigError (a TLS file). Keepalive probes are on: a peer that vanished is noticed within about a minute.
    """
    try:
        return await _connect(endpoint, protocol_factory, timeout_s)
    except (OSError, TimeoutError) as error:
        raise connection_error(endpoint, error, timeout_s) from None


OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def certificate_names(tls: TlsOptions, host: str) -> tuple[str, ...]:
    """For which names a certificate is accepted, in the order in which they are tried, a handshake each."""
    if tls.server_name is not None:
        return (tls.server_name,)
    return (host,) if tls.announced is None else (host, tls.announced)


async def _connect(
    endpoint: Endpoint, protocol_factory: Callable[[], P], timeout_s: float
) -> tuple[asyncio.Transport, P]:
    loop = asyncio.get_running_loop()
    if endpoint.path is not None:
        async with asyncio.timeout(timeout_s):
            return await loop.create_unix_connection(protocol_factory, endpoint.path)
    secure: dict[str, Any] = {}
    names: tuple[str | None, ...] = (None,)
    if endpoint.tls is not None:
        secure = {"ssl": tls_context(endpoint.tls), "ssl_handshake_timeout": timeout_s}
        names = certificate_names(endpoint.tls, endpoint.host)
    async with asyncio.timeout(timeout_s * 2 if secure else timeout_s):
        for name in names:
            try:
                transport, protocol = await loop.create_connection(
                    protocol_factory, endpoint.host, endpoint.port, server_hostname=name, **secure
                )
                break
            except ssl.SSLCertVerificationError as error:
                if name == names[-1] or error.verify_code not in OTHER_NAME:
                    raise
    sock = transport.get_extra_info("socket")
    if sock is None:  # of a transport that is closed already
        transport.abort()
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return transport, protocol


def connection_error(endpoint: Endpoint, error: BaseException, timeout_s: float) -> PeerError:
    """What a failed connection attempt means to an operator."""
    label = endpoint.label
    if isinstance(error, ssl.SSLCertVerificationError):
        tls = endpoint.tls
        both = tls is not None and tls.announced is not None and tls.server_name is None
        nor = f", nor for {endpoint.host!r}" if both and error.verify_code in OTHER_NAME else ""
        return TlsError(
            f"{label}: the server's certificate was not accepted: {error.verify_message.rstrip('.')}{nor}; "
            f"give the CA file that signed it, or the name it was made for, or switch verification off"
        )
    if isinstance(error, ssl.SSLError):
        return _tls_error(endpoint, error)
    if isinstance(error, ConnectionAbortedError) and endpoint.tls is not None:
        return TlsError(f"{label}: no TLS handshake within {timeout_s:g} s; is it a TLS port? redis:// is without")
    if isinstance(error, TimeoutError) and error.errno is None:
        return Unreachable(f"{label}: no connection within {timeout_s:g} s; check host, port and firewall")
    if isinstance(error, socket.gaierror):
        return Unreachable(f"{label}: host name {endpoint.host!r} cannot be resolved: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(f"{label}: connection refused; is the server running there?")
    if isinstance(error, FileNotFoundError):
        return Unreachable(f"{label}: no socket at this path; is the server running, with unixsocket set?")
    if isinstance(error, PermissionError) and endpoint.path is not None:
        return Unreachable(f"{label}: no permission to use this socket; see the server's unixsocketperm")
    return Unreachable(f"{label}: {_describe(error)}")


def lost_unheard(endpoint: Endpoint, error: BaseException | None, text: str) -> PeerError:
    """What it means that a connection ended before its first byte came; ``text``: that it did.

    Of TLS 1.3 the server judges the client's certificate after the handshake. What it says of it may be lost: it hangs
    up with our first command unread, and then the system throws away what had arrived.
    """
    if isinstance(error, ssl.SSLError):
        return connection_error(endpoint, error, 0.0)
    if endpoint.tls is None:
        return Unreachable(text)
    wants, refuses = "the server may want a client certificate", "the server may not accept the client certificate"
    return Unreachable(f"{text} right after the TLS handshake; {wants if endpoint.tls.cert is None else refuses}")


def _tls_error(endpoint: Endpoint, error: ssl.SSLError) -> PeerError:
    reason = getattr(error, "reason", None) or ""  # only what OpenSSL itself raised has one
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return TlsError(f"{endpoint.label}: the server answered without TLS; use redis:// or the server's TLS port")
    if "CERTIFICATE_REQUIRED" in reason or reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
        return TlsError(f"{endpoint.label}: the server wants a client certificate; give certificate and key files")
    if "ALERT" in reason and any(word in reason for word in ("_CA", "CERTIFICATE")):
        said = reason.partition("ALERT_")[2].lower().replace("_", " ")
        return TlsError(f"{endpoint.label}: the server does not accept the client certificate: {said}")
    return TlsError(f"{endpoint.label}: TLS failed: {_reason(error)}")


def _describe(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)
