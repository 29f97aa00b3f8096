"""Where a server is: endpoints and the URLs that name them.

Forms understood::

    redis://[user:password@]host[:port]        plain TCP, port 6379 when none is given
    rediss://[user:password@]host[:port]       TLS, certificate and host name verified unless TlsOptions says otherwise
    unix://[user:password@]/path/to.sock       Unix domain socket

An endpoint is a whole server, so a database in the URL is refused. No text made here ever shows a password: messages
quote the redacted ``label``, or nothing of the URL's user part when it cannot be told apart from the rest.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote

from canal.errors import ConfigError

DEFAULT_PORT = 6379
_FORMS = "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
_UNIX_PATH_MAX = 107  # sun_path of Linux is 108 bytes with its NUL
_HOST = re.compile(r"[^\s,:@/?#\[\]%\\]+\Z")
_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How TLS is done. ``ca``: a PEM file or a directory of hashed certificates, None for the system's store.

    ``cert`` may hold the key too; ``server_name`` replaces the host name in SNI and verification. ``verify=False``
    accepts any certificate: the link is then encrypted, but whoever stands between can read and change it.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. Either ``host`` and ``port`` or ``path`` (Unix socket) is set; ``tls`` only with ``rediss``."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None

    @property
    def label(self) -> str:
        """The URL for people and logs: the user may stand in it, the password never."""
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        if self.path is not None:
            return f"unix://{user}{self.path}"
        return f"{self.scheme}://{user}{_bracketed(self.host)}:{self.port}"

    @property
    def address(self) -> str:
        """``host:port`` or the socket's path: what identifies the server without scheme and user."""
        return self.path if self.path is not None else f"{_bracketed(self.host)}:{self.port}"


def parse_url(
    url: str, *, username: str | None = None, password: str | None = None, tls: TlsOptions | None = None
) -> Endpoint:
    """Read a URL; user, password and TLS options may come separately (flags, files, environment).

    Raises ConfigError, one line that names what is wrong and what was expected, never the password.
    """
    scheme, mark, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not mark:
        raise ConfigError(f"expected a URL such as {_FORMS}, got {_shown(url)}")
    _check_scheme(scheme)
    if any(ord(char) <= 32 or ord(char) == 127 for char in rest):
        raise ConfigError(f"{scheme} URL: holds a space or control character; write it as %XX")
    userinfo, at, place = rest.rpartition("@")
    user, secret = _credentials(scheme, userinfo, username, password) if at else (username, password)
    if user and secret is None:
        raise ConfigError(
            f"{scheme} URL: a user without a password; write {scheme}://USER:PASSWORD@… "
            f"(or {scheme}://:PASSWORD@… for the default user), or give the password separately"
        )
    if tls is not None and scheme != "rediss":
        raise ConfigError(f"TLS options were given with a {scheme}:// URL; write rediss:// to use TLS")
    if scheme == "unix":
        return Endpoint(scheme, path=_socket_path(place), username=user, password=secret)
    host, port = _host_port(scheme, _without_database(scheme, place))
    options = (tls or TlsOptions()) if scheme == "rediss" else None
    return Endpoint(scheme, host, port, username=user, password=secret, tls=options)


def _check_scheme(scheme: str) -> None:
    if scheme in ("redis", "rediss", "unix"):
        return
    if scheme in ("redis+sentinel", "redis+cluster", "rediss+sentinel", "rediss+cluster"):
        raise ConfigError(f"{scheme}:// is not yet supported; give the master itself as {_FORMS}")
    raise ConfigError(f"unknown URL scheme {_shown(scheme)}; expected {_FORMS}")


def _credentials(
    scheme: str, userinfo: str, username: str | None, password: str | None
) -> tuple[str | None, str | None]:
    if any(char in userinfo for char in "/?#"):
        raise ConfigError(f"{scheme} URL: user or password holds one of / ? #; write them as %2F, %3F, %23")
    user_text, colon, secret_text = userinfo.partition(":")
    user = _unescape(scheme, user_text) or None
    secret = _unescape(scheme, secret_text) if colon else None
    if user and username:
        raise ConfigError(f"{scheme} URL: the user is given in the URL and separately; give it once")
    if secret is not None and password is not None:
        raise ConfigError(f"{scheme} URL: the password is given in the URL and separately; give it once")
    return user or username, secret if secret is not None else password


def _unescape(scheme: str, text: str) -> str:
    if _ESCAPE.search(text):
        raise ConfigError(f"{scheme} URL: a % that starts no %XX escape; write a plain % as %25")
    raw = re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{scheme} URL: an escaped part is not UTF-8") from None


def _without_database(scheme: str, place: str) -> str:
    for mark, what in (("#", "a fragment"), ("?", "options")):
        if mark in place:
            raise ConfigError(f"{scheme} URL: {what} after {mark} cannot be used; remove it, or write %XX escapes")
    authority, _, path = place.partition("/")
    if path in ("", "0"):
        return authority
    if path.isdecimal():
        raise ConfigError(f"{scheme} URL: database /{path} was given, but whole servers are replicated; leave it out")
    raise ConfigError(f"{scheme} URL: nothing is expected after host and port, got {_shown('/' + path)}")


def _host_port(scheme: str, authority: str) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigError(f"{scheme} URL: expected [IPv6]:PORT, got {_shown(authority)}")
        host = _unescape(scheme, host)
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigError(f"{scheme} URL: {_shown(host)} is not an IPv6 address") from None
        return host, _port(scheme, port[1:]) if port else DEFAULT_PORT
    if authority.count(":") > 1:
        raise ConfigError(f"{scheme} URL: expected HOST:PORT, got {_shown(authority)}; IPv6 addresses stand in [ ]")
    if "," in authority:
        raise ConfigError(f"{scheme} URL: expected one HOST:PORT, got a list")
    host, colon, port = authority.partition(":")
    if not host:
        raise ConfigError(f"{scheme} URL: the host is missing; expected {scheme}://HOST:PORT")
    if not _HOST.match(host):
        raise ConfigError(f"{scheme} URL: {_shown(host)} is not a host name")
    return host, _port(scheme, port) if colon else DEFAULT_PORT


def _port(scheme: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    shown = repr(text) if text.isdecimal() else "something else"  # user:password without @host lands here too
    raise ConfigError(f"{scheme} URL: expected a port from 1 to 65535 after HOST:, got {shown}")


def _socket_path(place: str) -> str:
    path = _unescape("unix", place)
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"unix URL: expected unix:///absolute/path/to.sock, got {_shown(place)}")
    if len(path.encode()) > _UNIX_PATH_MAX:
        raise ConfigError(f"unix URL: the path is longer than the {_UNIX_PATH_MAX} bytes a socket address may have")
    if "?" in path or "\0" in path:
        raise ConfigError(f"unix URL: expected only a path, got {_shown(place)}")
    return path


def _shown(text: str) -> str:
    """Quote a piece of a URL in a message; what might hold a password is not shown."""
    if "@" in text:
        return "a text with a user part (not shown)"
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
