"""The links of the demonstration: ``redis-canal run`` as child processes, watched over their HTTP."""

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
from console.demo.servers import Server

START_S: Final = 30.0
STOP_S: Final = 10.0
_ASK_S: Final = 5.0
_MAX_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Side:
    """One datacenter."""

    name: str
    server: Server


class RunningLink:
    """One direction. ``status`` is its newest ``/status``; empty until it has answered."""

    def __init__(self, source: Side, target: Side, child: children.Child, http_port: int) -> None:
        self.source, self.target, self.child = source, target, child
        self.http_port = http_port
        self.status: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return f"{self.source.name} → {self.target.name}"

    @property
    def state(self) -> str:
        return str(self.status.get("state", "starting")) if self.child.running else "ended"

    async def refresh(self) -> None:
        """Ask for the status. Raises CanalError when the process has ended; a missed answer changes nothing."""
        if not self.child.running:
            code = self.child.process.returncode
            raise CanalError(f"link {self.name} ended with code {code}: {self.child.tail()}")
        try:
            self.status = await fetch_status(self.http_port)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return


async def start_link(source: Side, target: Side, http_port: int, directory: Path, two_way: bool = True) -> RunningLink:
    """Start ``redis-canal run`` for one direction; it keeps its state below ``directory``."""
    argv = [sys.executable, "-m", "console.cli.main", "run"]
    argv += ["--source", source.server.url, "--target", target.server.url]
    argv += ["--source-dc", source.name, "--target-dc", target.name, *(["--two-way"] if two_way else [])]
    argv += ["--state-dir", str(directory / "state"), "--http", f"127.0.0.1:{http_port}"]
    environment = {
        "PYTHONPATH": str(Path(console.__file__).resolve().parents[1]),  # works from a bare source tree too
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_STATE_HOME": str(directory / "state"),
    }
    child = await children.start(f"link-{source.name}-{target.name}", argv, directory, environment)
    return RunningLink(source, target, child, http_port)


async def wait_streaming(links: list[RunningLink]) -> None:
    """Until every link follows its source. Raises CanalError when one ends or it takes too long."""
    deadline = asyncio.get_running_loop().time() + START_S
    while True:
        for link in links:
            await link.refresh()
        if all(link.state == "streaming" for link in links):
            return
        if asyncio.get_running_loop().time() > deadline:
            states = ", ".join(f"{link.name} is {link.state}: {link.child.tail()}" for link in links)
            raise CanalError(f"the links do not stream after {START_S:g} s: {states}")
        await asyncio.sleep(0.1)


async def fetch_status(port: int) -> dict[str, Any]:
    """The JSON of a link's ``/status``. Raises OSError, TimeoutError, IncompleteReadError or ValueError."""
    async with asyncio.timeout(_ASK_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MAX_ANSWER)
        try:
            writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"/status answered {head[:40]!r}")
    found: dict[str, Any] = json.loads(body)
    return found
