"""``redis-canal console``: the web console and its JSON API."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canal.errors import ConfigError

if TYPE_CHECKING:
    from node.config.models import ConsoleConfig, ServeTls

SHUTDOWN_S = 2


@click.group(name="console", invoke_without_command=True, short_help="Serve the web console and its API.")
@click.option("-c", "--config", "config_file", metavar="FILE", help="console.yaml (also REDIS_CANAL_CONFIG).")
@click.option("--listen", metavar="HOST:PORT", help="Replaces listen of console.yaml.")
@click.option("-v", "--verbose", count=True, help="Debug messages; twice for those of libraries too.")
@click.option("--json-logs", is_flag=True, help="One JSON object per log line.")
@click.pass_context
def command(ctx: click.Context, config_file: str | None, listen: str | None, verbose: int, json_logs: bool) -> int:
    """Serve the web console and its JSON API until SIGTERM.

    console.yaml names the datacenters and who may log in. Off loopback at least one token is needed.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    from console.cli import logs
    from console.cli.config import report
    from node.config import ConfigProblems

    file = config_file or (ctx.obj or {}).get("config")
    if not file:
        raise ConfigError("which datacenters? Give -c FILE (console.yaml) or set REDIS_CANAL_CONFIG")
    try:
        config = _load(Path(file), listen)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    logs.setup(verbose, json_logs)
    serve(config)
    return 0


@command.command(short_help="Make a new token.")
def token() -> int:
    """Make a new token: printed once, with the digest that console.yaml keeps."""
    made = secrets.token_urlsafe(24)
    click.echo("the token, for whoever logs in; it is kept nowhere:", err=True)
    click.echo(made)
    click.echo("for console.yaml, under tokens:", err=True)
    click.echo(f'  - {{name: NAME, role: admin, sha256: "{hashlib.sha256(made.encode()).hexdigest()}"}}', err=True)
    return 0


def _load(file: Path, listen: str | None) -> ConsoleConfig:
    from node.config import load_console

    environ = dict(os.environ)
    if listen:
        environ["REDIS_CANAL__LISTEN"] = f'"{listen}"'
    return load_console(file, environ)


def serve(config: ConsoleConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError when the address cannot be had."""
    import uvicorn

    from console.cli.about import package_version
    from console.web.app import make_app
    from node.config.secrets import serving

    tls = serving(config.tls)
    app = make_app(config, version=package_version())
    with _bound(config.listen) as listening:
        host, port = listening.getsockname()[:2]
        click.echo(f"console: http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}/", err=True)
        uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                limit_concurrency=512,
                **_secured(config.tls),
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        ).run(sockets=[listening])


def _secured(tls: ServeTls | None) -> dict[str, Any]:
    """What uvicorn wants to know of the files that `serving` has tried."""
    if tls is None:
        return {}
    from node.config.secrets import placed

    cert, key, client_ca = (
        None if path is None else placed(path, os.environ) for path in (tls.cert, tls.key, tls.client_ca)
    )
    given: dict[str, Any] = {"ssl_certfile": cert, "ssl_keyfile": key}
    if client_ca is not None:
        given |= {"ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return given


def _bound(listen: str) -> socket.socket:
    """A listening socket; bound here so that a taken port is one clear line."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen}: {error.strerror or error}; choose another address") from None
    return made
