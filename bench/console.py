"""The web console with 100 tasks of 4 shards: what following them costs, and how soon a page shows them.

Four nodes are played by one HTTP server that answers /status as real nodes do, with figures that change at every
question; tasks, leases and positions stand in a SQLite file, positions written anew every five seconds. The console is
a process of its own with one page (event stream) watching; its CPU time is read from /proc over the given time.
The first paint is taken by headless Chromium where that is installed: of its own clock, and of the first rows.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench import _common as common
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.coordination.leases import Progress
from node.coordination.plan import ShardId
from node.coordination.records import NodeRecord
from node.coordination.state import Known, moved
from sync.status import LinkStatus

NODES, SHARDS = 4, 4


class Fleet:
    """Nodes that are none: their registrations, leases, recorded positions and HTTP."""

    def __init__(self, file: Path, tasks: int) -> None:
        self.coordinator = Coordinator(EmbeddedStore(file))
        self.coordinator.store.start()
        self.links: dict[str, list[LinkStatus]] = {f"sh-{n}": [] for n in range(NODES)}
        self.known: dict[ShardId, Known] = {}
        self._serve()
        for number in range(tasks):
            self._task(f"task-{number:03d}")

    def _serve(self) -> None:
        fleet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # the console has ended, or does not wait any longer
                    self.answer(fleet.status(self.path.split("/")[1]))

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in self.links:
            address = f"http://127.0.0.1:{server.server_port}/{name}"
            self.coordinator.nodes.register(NodeRecord(name, "sh", "here", os.getpid(), http=address, max_shards=500))

    def _task(self, task: str) -> None:
        spec = {
            "task": task,
            "source": {"datacenter": "sh", "url": "redis://10.0.0.1:6379"},
            "target": {"datacenter": "bj", "url": "redis://10.1.0.1:6379"},
        }
        names = tuple(str(n) for n in range(SHARDS))
        self.coordinator.tasks.create(task, spec, desired="running", shards=names)
        for number, name in enumerate(names):
            node, shard = f"sh-{number % NODES}", ShardId(task, name)
            lease = self.coordinator.leases.acquire(shard, node)
            assert lease is not None
            known = self.coordinator.leases.begin_run(lease)
            self.known[shard] = self.coordinator.leases.write_state(
                shard, known, moved(known.state, "streaming", now=time.time())
            )
            self.links[node].append(LinkStatus(task, name, "sh", "bj", "streaming", source_connected=True))

    def status(self, node: str) -> bytes:
        """A node's /status; everything has moved since the last one."""
        for link in self.links[node]:
            link.source_offset += 4000
            link.applied_offset = link.journaled_offset = link.source_offset
            link.commands_applied += 40
            link.bytes_applied += 4000
            link.last_applied = link.last_heard = time.time()
        shards = [{**link.as_dict(), "link_state": link.state, "phase": "", "error": ""} for link in self.links[node]]
        usage = {"cpu_seconds": time.process_time(), "memory_bytes": 1 << 28}
        return json.dumps({"node": node, "datacenter": "sh", "trouble": "", "usage": usage, "shards": shards}).encode()

    def publish(self) -> None:
        """Write all positions, as nodes do every five seconds."""
        updates = []
        for shard, known in self.known.items():
            state = known.state
            new = moved(state, "streaming", now=time.time())
            updates.append(Progress(shard, known, new))
        for shard, result in self.coordinator.leases.write_states(updates).items():
            assert isinstance(result, Known), result
            self.known[shard] = result


class Watcher(threading.Thread):
    """One page: reads the event stream, and counts what comes."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.size, self.events = url, 0, 0

    def run(self) -> None:
        with urllib.request.urlopen(f"{self.url}/api/v1/events") as stream:
            for line in stream:
                self.size += len(line)
                self.events += line.startswith(b"event:")


_MARK_ROW = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("table.tasks tbody tr")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.row = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""


def paints_ms(url: str, rounds: int) -> dict[str, list[float]] | None:
    """By the browser's clock from the start of the navigation, in a fresh context each time: its first contentful
    paint, and the frame with the first rows. None without a browser.
    """
    chromium = os.environ.get("REDIS_CANAL_CHROMIUM") or shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        return None
    found: dict[str, list[float]] = {"first_paint": [], "rows": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(rounds):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(_MARK_ROW)
            page.goto(url, wait_until="commit")
            marked = page.wait_for_selector("html[data-row]", state="attached")
            found["rows"].append(float(marked.get_attribute("data-row") or "nan") if marked else math.nan)
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found["first_paint"].append(page.evaluate(paint))
            context.close()
        browser.close()
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long CPU time is counted (default: 30)")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--paints", type=int, default=5, help="pages opened in a browser (default: 5)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        file = directory / "coordination.db"
        fleet = Fleet(file, given.tasks)
        (port,) = common.free_ports(1)
        config = directory / "console.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\ndatacenters:\n  sh: {{coordination: {{embedded: {{path: {file}}}}}}}\n"
        )
        argv = [sys.executable, "-m", "console.cli.main", "console", "-c", str(config)]
        process = common.spawn(argv, directory / "console.log")
        url = f"http://127.0.0.1:{port}"
        try:
            result = measure(fleet, process, url, given.seconds, given.paints)
        finally:
            process.terminate()
            process.wait()
            fleet.coordinator.store.close()
    result = {"load_before": os.getloadavg()[0], "tasks": given.tasks, "shards": given.tasks * SHARDS, **result}
    paints = result["paints_ms"] or {}
    lines = [
        f"updates    {result['cpu_cores']:.1%} of a core, {result['events_per_second']:.1f} events/s,"
        f" {result['event_bytes_per_second'] / 1024:.0f} KiB/s to one page",
        *(f"{name:<11}{', '.join(f'{one:.0f}' for one in times)} ms" for name, times in paints.items()),
        f"memory     {result['memory_bytes'] / 2**20:.0f} MiB",
    ]
    common.finish("console", result, lines, given.json)


def measure(fleet: Fleet, process: subprocess.Popen[bytes], url: str, seconds: float, paints: int) -> dict[str, Any]:
    """Wait until the console shows everything; then count."""
    wanted = len(fleet.known) // SHARDS
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/api/v1/tasks", timeout=10) as answer:
                if sum(task["live"] for task in json.load(answer)["tasks"]) == wanted:
                    break
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the console does not show the tasks")
        time.sleep(0.2)
    watcher = Watcher(url)
    watcher.start()
    time.sleep(3)
    before, began = common.cpu_seconds(process), time.monotonic()
    size, events = watcher.size, watcher.events
    published = 0.0
    while (now := time.monotonic() - began) < seconds:
        if now - published >= 5:
            published = now
            fleet.publish()
        time.sleep(0.2)
    spent = time.monotonic() - began
    return {
        "cpu_cores": (common.cpu_seconds(process) - before) / spent,
        "events_per_second": (watcher.events - events) / spent,
        "event_bytes_per_second": (watcher.size - size) / spent,
        "memory_bytes": common.memory_bytes(process)["now"],
        "paints_ms": paints_ms(url, paints) if paints else None,
    }


if __name__ == "__main__":
    main()
