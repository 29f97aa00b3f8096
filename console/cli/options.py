"""Parameter types and option groups that several subcommands share: sizes, addresses, one side of a link."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from canal.errors import ConfigError

if TYPE_CHECKING:
    from canal.endpoint import Endpoint, TlsOptions

F = TypeVar("F", bound=Callable[..., Any])

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,18})\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_SECRET_MAX = 64 * 1024  # bytes of a password file; more is surely the wrong file


if TYPE_CHECKING:
    _Bytes = click.ParamType[int]
else:
    _Bytes = click.ParamType  # generic only from click 8.5 on


class Size(_Bytes):
    """Bytes with an optional suffix: ``65536``, ``64k``, ``512MiB``, ``2g``; powers of 1024."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.match(value.strip())
        if match is None:
            self.fail(f"expected a size such as 512m or 2g, got {value!r}", param, ctx)
        return int(match[1]) * _UNITS[match[2].lower()]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. ``port`` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


if TYPE_CHECKING:
    _Address = click.ParamType[Address]
else:
    _Address = click.ParamType


class HostPort(_Address):
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT`` (loopback)."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        host, colon, port = value.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if (
            not colon
            or not port.isascii()
            or not port.isdigit()
            or int(port) > 65535
            or (":" in host and not bracketed)
        ):
            self.fail(f"expected HOST:PORT, for example 127.0.0.1:9477 or [::1]:9477, got {value!r}", param, ctx)
        return Address(host.strip("[]") or "127.0.0.1", int(port))


def read_secret(path: str, what: str) -> str:
    """The first line of a file, without its line end. Raises ConfigError that names the file, never its content."""
    try:
        raw = Path(path).read_bytes()[:_SECRET_MAX]
        return raw.decode().split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text") from None


def side_options(side: str) -> Callable[[F], F]:
    """The options that say how to log in to one side (``source`` or ``target``): credentials and TLS."""
    upper = side.upper()
    options = (
        click.option(
            f"--{side}-username",
            metavar="USER",
            envvar=f"REDIS_CANAL_{upper}_USERNAME",
            help=f"ACL user at the {side}.",
        ),
        click.option(
            f"--{side}-password-file",
            metavar="FILE",
            help=f"File whose first line is the {side}'s password; else REDIS_CANAL_{upper}_PASSWORD.",
        ),
        click.option(
            f"--{side}-ca", metavar="FILE", help=f"CA file or directory for TLS with the {side} (default: system)."
        ),
        click.option(f"--{side}-cert", metavar="FILE", help=f"Client certificate for the {side}."),
        click.option(f"--{side}-key", metavar="FILE", help="Its private key."),
        click.option(
            f"--{side}-server-name", metavar="NAME", help="Name that the certificate must carry (default: host)."
        ),
        click.option(f"--{side}-insecure", is_flag=True, help=f"Do not verify the {side}'s certificate."),
        click.option(
            f"--{side}-sentinel-username",
            metavar="USER",
            envvar=f"REDIS_CANAL_{upper}_SENTINEL_USERNAME",
            help=f"ACL user at the {side}'s Sentinels.",
        ),
        click.option(
            f"--{side}-sentinel-password-file",
            metavar="FILE",
            help=f"Their password, first line; else REDIS_CANAL_{upper}_SENTINEL_PASSWORD.",
        ),
        click.option(
            f"--{side}-address-map",
            metavar="ANNOUNCED=REACHED",
            multiple=True,
            help="Where an address that Sentinels or cluster nodes announce is reached from here.",
        ),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def endpoint(side: str, url: str, given: dict[str, Any]) -> Endpoint:
    """The endpoint of one side from its URL and the values of ``side_options``. Raises ConfigError."""
    from canal.endpoint import parse_url

    password_file = given[f"{side}_password_file"]
    if password_file is not None:
        password: str | None = read_secret(password_file, f"--{side}-password-file")
    else:
        password = os.environ.get(f"REDIS_CANAL_{side.upper()}_PASSWORD") or None
    try:
        made = parse_url(url, username=given[f"{side}_username"] or None, password=password, tls=_tls(side, given))
        return _with_group(side, made, given)
    except ConfigError as error:
        raise ConfigError(f"--{side}: {error}") from None


def _with_group(side: str, made: Endpoint, given: dict[str, Any]) -> Endpoint:
    """The same with how the Sentinels are logged in to, and where announced addresses are reached."""
    user, file, pairs = (
        given[f"{side}_{name}"] for name in ("sentinel_username", "sentinel_password_file", "address_map")
    )
    if made.group is None:
        if user or file or pairs:
            raise ConfigError("options for Sentinels or an address map were given with the URL of one server")
        return made
    from canal.url import parse_address_map

    if file is not None:
        password: str | None = read_secret(file, f"--{side}-sentinel-password-file")
    else:
        password = os.environ.get(f"REDIS_CANAL_{side.upper()}_SENTINEL_PASSWORD") or None
    if user and password is None:
        raise ConfigError(f"--{side}-sentinel-username without a password; give --{side}-sentinel-password-file")
    if any("=" not in pair for pair in pairs):
        raise ConfigError(f"--{side}-address-map: expected ANNOUNCED=REACHED, for example 10.0.0.1:6379=gate:7001")
    mapped = parse_address_map(dict(pair.split("=", 1) for pair in pairs))
    return replace(made, group=replace(made.group, username=user or None, password=password, address_map=mapped))


def _tls(side: str, given: dict[str, Any]) -> TlsOptions | None:
    from canal.endpoint import TlsOptions

    ca, cert, key, server_name = (given[f"{side}_{name}"] for name in ("ca", "cert", "key", "server_name"))
    insecure = given[f"{side}_insecure"]
    if not (ca or cert or key or insecure or server_name):
        return None
    return TlsOptions(ca=ca, cert=cert, key=key, verify=not insecure, server_name=server_name)


def state_home() -> Path:
    """``$XDG_STATE_HOME/redis-canal``, by default ``~/.local/state/redis-canal``. Raises ConfigError without a home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "redis-canal"
    try:
        return Path.home() / ".local" / "state" / "redis-canal"
    except RuntimeError:
        raise ConfigError("no home directory is known for the state; give --state-dir DIR") from None
