"""How long the command line, a link and a worker take to start: wall and CPU time, medians over many starts.

A link's start is that of `redis-canal run` until /status answers (imports, loop, state directory, HTTP), and until it
streams from an empty source into an empty target (handshake, snapshot, sweep). A worker's is that of the process that
a node has for a shard, from the moment the node asks for it until its first figures come, and until it streams.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import _common as common
from canal.url import parse_url
from node import frames
from node.forkserver import ForkServer
from node.worker import start_message
from sync.config import LinkConfig

SCRIPT = common.ROOT / ".venv" / "bin" / "redis-canal"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--starts", type=int, default=15, help="starts of each (default: 15)")
    parser.add_argument("--quick", action="store_true", help="3 starts")
    given = parser.parse_args()
    starts = 3 if given.quick else given.starts
    with common.workshop(given.server) as shop:
        result: dict[str, Any] = {"environment": common.environment(shop.binary)}
        bare = [sys.executable, "-c", "pass"]
        command = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "console.cli.main"]
        for name, argv in (
            ("python -c pass", bare),
            ("redis-canal --version", [*command, "--version"]),
            ("redis-canal --help", [*command, "--help"]),
        ):
            runs = [cli(argv) for _ in range(starts)]
            result[name] = {"wall_s": common.spread([w for w, _ in runs]), "cpu_s": common.spread([c for _, c in runs])}
        source, target = shop.server("source"), shop.server("target")
        links = [link(shop, source, target) for _ in range(starts)]
        workers = asyncio.run(of_a_node(shop.directory, source, target, starts))
        for kind, runs_of in (("run", links), ("worker", workers)):
            for name in runs_of[0]:
                result[f"{kind} {name}"] = {"wall_s": common.spread([one[name] for one in runs_of])}
    lines = [line(name, figures) for name, figures in result.items() if name != "environment"]
    common.finish("startup", result, lines, given.json)


def cli(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=common.ROOT, env=os.environ)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def link(shop: common.Workshop, source: common.Server, target: common.Server) -> dict[str, float]:
    """Seconds from the start of the process until it answers, and until it streams."""
    began = time.monotonic()
    daemon = shop.daemon(source, target)
    common.wait_for(lambda: bool(daemon.status()), "the daemon answers", 60)
    answers = time.monotonic() - began
    daemon.wait_streaming()
    figures = {"answers": answers, "streams": time.monotonic() - began}
    daemon.stop()
    return figures


async def of_a_node(
    directory: Path, source: common.Server, target: common.Server, starts: int
) -> list[dict[str, float]]:
    """The same of a worker as nodes start it."""
    forks = ForkServer()
    await forks.start()
    try:
        return [await worker(forks, directory / f"worker{n}", source, target) for n in range(starts)]
    finally:
        await forks.close()


async def worker(forks: ForkServer, state: Path, source: common.Server, target: common.Server) -> dict[str, float]:
    """Seconds until a worker's first figures, and until it streams."""
    config = LinkConfig("startup", parse_url(source.url), parse_url(target.url), state)
    target.client.flushall()  # the links before it were of another task
    began, figures = time.monotonic(), dict[str, float]()
    child = await forks.spawn()
    child.writer.write(frames.encode(start_message(config, paused=False, log_level=logging.WARNING)))
    while "streams" not in figures:
        message = await frames.read(child.reader)
        if message is None or "end" in message:
            raise RuntimeError(f"the worker ended: {message or await child.ended}")
        if "status" in message:
            figures.setdefault("answers", time.monotonic() - began)
            if message["status"]["state"] == "streaming":
                figures["streams"] = time.monotonic() - began
    child.writer.close()
    await child.ended
    return figures


def line(name: str, figures: dict[str, Any]) -> str:
    """For people."""
    wall, cpu = figures["wall_s"], figures.get("cpu_s")
    text = f"{name:<24} {1000 * wall['median']:5.0f} ms ({1000 * wall['min']:.0f} to {1000 * wall['max']:.0f})"
    return text + (f", {1000 * cpu['median']:.0f} ms of CPU" if cpu else "")


if __name__ == "__main__":
    main()
