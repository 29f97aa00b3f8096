"""Where a server is: endpoints and the URLs that name them.

Forms understood::

    redis://[user:password@]host[:port]        plain TCP, port 6379 when none is given
    rediss://[user:password@]host[:port]       TLS, certificate and host name verified unless TlsOptions says otherwise
    unix://[user:password@]/path/to.sock       Unix domain socket
    redis+sentinel://[user:password@]host[:port],…/master     the master that these Sentinels name, port 26379
    redis+cluster://[user:password@]host[:port],…             a Redis Cluster that these nodes belong to

and ``rediss+sentinel``, ``rediss+cluster`` for TLS with every server. User and password are those of the data servers;
Sentinels' own come separately (``Group``).

An endpoint is a whole server, so a database in the URL is refused. No text made here ever shows a password: messages
quote the redacted ``label``, or nothing of the URL's user part when it cannot be told apart from the rest.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote

from canal.errors import ConfigError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
_FORMS = "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
_GROUPS = "redis+sentinel://HOST:PORT,…/MASTER or redis+cluster://HOST:PORT,…"
_UNIX_PATH_MAX = 107  # sun_path of Linux is 108 bytes with its NUL
_HOST = re.compile(r"[^\s,:@/?#\[\]%\\]+\Z")
_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How TLS is done. ``ca``: a PEM file or a directory of hashed certificates, None for the system's store.

    ``cert`` may hold the key too; ``server_name`` replaces the host name in SNI and verification. ``verify=False``
    accepts any certificate: the link is then encrypted, but whoever stands between can read and change it.
    ``announced``: the host that a server behind an address map announces; its certificate may be for that one instead.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None
    announced: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The servers behind a URL of several: Sentinels that know a master by ``name``, or nodes of a Redis Cluster.

    ``shard``: of a cluster the one shard called ``name``, known by the node ids of its ``members``.
    ``username``, ``password`` and ``tls`` are for the Sentinels. ``address_map``: pairs of an announced address and
    the one under which it is reached from here (NAT), each ``host:port``, or hosts alone where the ports are the same.
    """

    kind: Literal["sentinel", "cluster", "shard"]
    seeds: tuple[tuple[str, int], ...]
    name: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    address_map: tuple[tuple[str, str], ...] = ()
    members: tuple[str, ...] = ()

    def reached(self, host: str, port: int) -> tuple[str, int]:
        """Where an announced address is reached from here."""
        known = dict(self.address_map)
        place = known.get(f"{_bracketed(host)}:{port}")
        if place is not None:
            return _host_port("redis", place)
        return known.get(host, host), port

    def announced(self, host: str, port: int) -> str:
        """The host that whoever is reached there announces, as far as the address map tells."""
        places = {reached: announced for announced, reached in self.address_map}
        found = places.get(f"{_bracketed(host)}:{port}")
        return places.get(host, host) if found is None else _host_port("redis", found)[0]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, or with ``group`` the one of several that is to be found at each connection (`canal.located`).

    Without a group either ``host`` and ``port`` or ``path`` (Unix socket) is set; ``tls`` only with ``rediss``.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    group: Group | None = None

    @property
    def label(self) -> str:
        """The URL for people and logs: the user may stand in it, the password never."""
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        if self.path is not None:
            return f"unix://{user}{self.path}"
        return f"{self.scheme}://{user}{self._place(sort=False)}"

    @property
    def clustered(self) -> bool:
        """A whole Redis Cluster, or one of its shards."""
        return self.group is not None and self.group.kind != "sentinel"

    @property
    def whole(self) -> Endpoint:
        """Of a cluster's shard the whole cluster; else the endpoint itself."""
        if self.group is None or self.group.kind != "shard":
            return self
        return replace(self, group=replace(self.group, kind="cluster", name="", members=()))

    @property
    def address(self) -> str:
        """``host:port``, the socket's path, or seeds and name: what identifies the server without scheme and user."""
        return self.path if self.path is not None else self._place(sort=True)

    def _place(self, *, sort: bool) -> str:
        if self.group is None:
            return f"{_bracketed(self.host)}:{self.port}"
        seeds = sorted(self.group.seeds) if sort else self.group.seeds
        text = ",".join(f"{_bracketed(host)}:{port}" for host, port in seeds)
        return f"{text}/{quote(self.group.name, safe='')}" if self.group.name else text

    def member(self, host: str, port: int) -> Endpoint:
        """One server of the group, by the address that it announces."""
        assert self.group is not None
        return self._server(*self.group.reached(host, port), host)

    def seed(self, host: str, port: int) -> Endpoint:
        """One of the servers that the URL names, reached as it stands there: the map is for what is announced."""
        assert self.group is not None
        return self._server(host, port, self.group.announced(host, port))

    def _server(self, host: str, port: int, announced: str) -> Endpoint:
        tls = self.tls
        if tls is not None and announced != host:
            tls = replace(tls, announced=announced)
        return replace(self, scheme=self.scheme.partition("+")[0], host=host, port=port, tls=tls, group=None)


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
    secure = scheme.startswith("rediss")
    if tls is not None and not secure:
        wanted = scheme.replace("redis", "rediss") if "+" in scheme else "rediss"
        raise ConfigError(f"TLS options were given with a {scheme}:// URL; write {wanted}:// to use TLS")
    if scheme == "unix":
        return Endpoint(scheme, path=_socket_path(place), username=user, password=secret)
    options = (tls or TlsOptions()) if secure else None
    if "+" in scheme:
        return Endpoint(scheme, username=user, password=secret, tls=options, group=_group(scheme, place, options))
    host, port = _host_port(scheme, _without_database(scheme, place))
    return Endpoint(scheme, host, port, username=user, password=secret, tls=options)


def _check_scheme(scheme: str) -> None:
    if scheme in ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "rediss+sentinel", "rediss+cluster"):
        return
    raise ConfigError(f"unknown URL scheme {_shown(scheme)}; expected {_FORMS}, {_GROUPS}")


def _group(scheme: str, place: str, tls: TlsOptions | None) -> Group:
    if scheme.endswith("+cluster"):
        return Group("cluster", _seeds(scheme, _without_database(scheme, place), DEFAULT_PORT))
    for mark in "#?":
        if mark in place:
            raise ConfigError(f"{scheme} URL: nothing is expected after {mark}; remove it, or write %XX escapes")
    authority, _, path = place.partition("/")
    name = _unescape(scheme, path)
    if not name or "/" in path:
        raise ConfigError(f"{scheme} URL: expected {scheme}://HOST:PORT,…/MASTER, the master's name at the Sentinels")
    return Group("sentinel", _seeds(scheme, authority, SENTINEL_PORT), name, tls=tls)


def _seeds(scheme: str, authority: str, port: int) -> tuple[tuple[str, int], ...]:
    found = tuple(_host_port(scheme, one, port) for one in authority.split(","))
    if len(set(found)) != len(found):
        raise ConfigError(f"{scheme} URL: the same server is given twice; give each once")
    return found


def parse_address_map(pairs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Check ``announced: reached`` pairs: both ``host:port``, or both a host. Raises ConfigError."""
    for announced, reached in pairs.items():
        ported = []
        for text in (announced, reached):
            try:
                ipaddress.IPv6Address(text)
                ported.append(False)
            except ValueError:
                _host_port("redis", text)
                ported.append(":" in text)
        if ported[0] != ported[1]:
            raise ConfigError(
                f"address map: {announced!r} becomes {reached!r}; give both with a port, or both without (ports kept)"
            )
    return tuple(pairs.items())


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


def _host_port(scheme: str, authority: str, default: int = DEFAULT_PORT) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigError(f"{scheme} URL: expected [IPv6]:PORT, got {_shown(authority)}")
        host = _unescape(scheme, host)
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigError(f"{scheme} URL: {_shown(host)} is not an IPv6 address") from None
        return host, _port(scheme, port[1:]) if port else default
    if authority.count(":") > 1:
        raise ConfigError(f"{scheme} URL: expected HOST:PORT, got {_shown(authority)}; IPv6 addresses stand in [ ]")
    if "," in authority:
        raise ConfigError(f"{scheme} URL: expected one HOST:PORT, got a list")
    host, colon, port = authority.partition(":")
    if not host:
        raise ConfigError(f"{scheme} URL: the host is missing; expected {scheme}://HOST:PORT")
    if not _HOST.match(host):
        raise ConfigError(f"{scheme} URL: {_shown(host)} is not a host name")
    return host, _port(scheme, port) if colon else default


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
