"""The processes of the demonstration that are ours: a node for each datacenter, and the console over both."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import console
from canal.errors import CanalError
from console.demo import children
from console.demo.coordination import LEASE_S, Places
from console.demo.servers import Server

START_S: Final = 60.0
STOP_S: Final = 20.0  # a node gives its links ten seconds to end in
_ASK_S: Final = 5.0
_MAX_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Side:
    """One datacenter."""

    name: str
    server: Server


class Service:
    """A process of ours that answers over HTTP on 127.0.0.1."""

    def __init__(self, what: str, child: children.Child, port: int) -> None:
        self.what, self.child, self.port = what, child, port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def require_running(self) -> None:
        """Raises CanalError with the end of its output when it has ended."""
        if not self.child.running:
            raise CanalError(f"{self.what} ended with code {self.child.process.returncode}: {self.child.tail()}")

    async def ask(self, path: str) -> Any:
        """The JSON or text at ``path``; None when it does not answer with 200 now. Raises CanalError when it ended."""
        self.require_running()
        try:
            return await fetch(self.port, path)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return None

    async def wait_answer(self, path: str) -> None:
        """Until it answers at ``path`` with 200. Raises CanalError when it ends or takes too long."""
        deadline = asyncio.get_running_loop().time() + START_S
        while await self.ask(path) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise CanalError(f"{self.what} does not answer after {START_S:g} s: {self.child.tail()}")
            await asyncio.sleep(0.05)


async def start_node(side: Side, port: int, places: Places, directory: Path) -> Service:
    """Start the node of a datacenter; it is there before it is ready."""
    config = {
        "node": f"{side.name}-1",
        "datacenter": side.name,
        "coordination": places.section(side.name),
        "state_dir": str(directory / f"state-{side.name}"),
        "http": {"listen": f"127.0.0.1:{port}"},
        "lease_timeout_seconds": LEASE_S,
        "publish_seconds": 1,
    }
    file = _write(directory / f"node-{side.name}.yaml", config)
    child = await _start(f"node-{side.name}", ["node", "start", "-c", str(file)], directory)
    return Service(f"node {config['node']}", child, port)


async def start_console(sides: list[Side], port: int, places: Places, directory: Path) -> Service:
    """Start the console over all datacenters, for this machine only and without a login."""
    config = {
        "listen": f"127.0.0.1:{port}",
        "datacenters": {side.name: {"coordination": places.section(side.name)} for side in sides},
    }
    file = _write(directory / "console.yaml", config)
    child = await _start("console", ["console", "-c", str(file)], directory)
    return Service("the console", child, port)


def _write(file: Path, config: dict[str, Any]) -> Path:
    file.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return file


async def _start(name: str, arguments: list[str], directory: Path) -> children.Child:
    environment = {
        "PYTHONPATH": str(Path(console.__file__).resolve().parents[1]),  # works from a bare source tree too
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_STATE_HOME": str(directory / "state"),
    }
    return await children.start(name, [sys.executable, "-m", "console.cli.main", *arguments], directory, environment)


async def fetch(port: int, path: str) -> Any:
    """What 127.0.0.1:port answers at ``path``: JSON read, else text. Raises OSError, TimeoutError, IncompleteReadError,
    or ValueError when the answer is not a 200.
    """
    async with asyncio.timeout(_ASK_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MAX_ANSWER)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"{path} answered {head[:40]!r}")
    return json.loads(body) if b"json" in head.lower() else body.decode()
