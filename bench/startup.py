"""How long the command line and a worker take to start: wall and CPU time, medians over many starts.

A worker's start is that of `redis-canal run` until /status answers (imports, loop, state directory, HTTP), and until it
streams from an empty source into an empty target (handshake, snapshot, sweep).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any

from bench import _common as common

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
        workers = [worker(shop, source, target) for _ in range(starts)]
        for name in workers[0]:
            result[f"worker {name}"] = {"wall_s": common.spread([one[name] for one in workers])}
    lines = [line(name, figures) for name, figures in result.items() if name != "environment"]
    common.finish("startup", result, lines, given.json)


def cli(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=common.ROOT, env=os.environ)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def worker(shop: common.Workshop, source: common.Server, target: common.Server) -> dict[str, float]:
    """Seconds from the start of the process until it answers, and until it streams."""
    began = time.monotonic()
    daemon = shop.daemon(source, target)
    common.wait_for(lambda: bool(daemon.status()), "the daemon answers", 60)
    answers = time.monotonic() - began
    daemon.wait_streaming()
    figures = {"answers": answers, "streams": time.monotonic() - began}
    daemon.stop()
    return figures


def line(name: str, figures: dict[str, Any]) -> str:
    """For people."""
    wall, cpu = figures["wall_s"], figures.get("cpu_s")
    text = f"{name:<24} {1000 * wall['median']:5.0f} ms ({1000 * wall['min']:.0f} to {1000 * wall['max']:.0f})"
    return text + (f", {1000 * cpu['median']:.0f} ms of CPU" if cpu else "")


if __name__ == "__main__":
    main()
