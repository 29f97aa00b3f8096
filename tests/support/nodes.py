"""Nodes and the command line for tests: real daemons as processes of their own.

site = Site(tmp_path, "zookeeper: {hosts: …}")      # or without the second: the embedded coordinator, one node
node = site.node("a").start()
site.create("t1", source, target)                    # writes task.yaml, runs `task create --start`
site.wait_streaming("t1")
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.process import ROOT, ReservedPort, end, spawn, wait_until
from tests.support.servers import Server

LEASE_S = 3.0


class NodeProcess:
    """One daemon: `redis-canal node start`."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.port = ReservedPort()
        self.directory = site.directory / name
        self.directory.mkdir(exist_ok=True)
        self.config = site.directory / f"{name}.yaml"
        self.log_file = site.directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environ: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.configure()

    def configure(self, **settings: str) -> None:
        """Write node.yaml, with these lines replaced or added."""
        self.settings.update(settings)
        lines = {
            "node": self.name,
            "datacenter": "sh",
            "coordination": f"{{{self.site.coordination}}}",
            "state_dir": str(self.directory),
            "http": f'{{listen: "127.0.0.1:{self.port.number}"}}',
            "lease_timeout_seconds": str(LEASE_S),
            "publish_seconds": "1",
            **self.settings,
        }
        self.config.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))

    def start(self, *, wait: bool = True) -> Self:
        command = [sys.executable, "-m", "console.cli.main", "node", "start", "-c", str(self.config)]
        with self.log_file.open("ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, cwd=ROOT, env=self.environ)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 20.0) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"node {self.name} ended:\n{self.log()}"
            return self.get("/readiness") == "ready\n"

        wait_until(ready, timeout, f"node {self.name} is ready")

    def get(self, path: str) -> str:
        """A page of the node's HTTP, '' when it does not answer with 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port.number}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (OSError, http.client.HTTPException):
            return ""

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status") or "{}")
        return found

    def shards(self) -> list[str]:
        """Names of the tasks that run here."""
        return sorted(shard["task"] for shard in self.status().get("shards", []))

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def family(self) -> list[int]:
        """The daemon's process, the parent of its workers, and the workers."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):  # it may end while it is looked at
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def workers(self) -> list[int]:
        return self.family()[2:]

    def signal(self, number: signal.Signals, *, everyone: bool = False) -> None:
        for pid in self.family() if everyone else self.family()[:1]:
            os.kill(pid, number)

    def stop(self, timeout: float = 120.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9 of the daemon alone: what it started has to go with it."""
        if self.process is not None:
            end(self.process)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in reversed(self.family()):
                os.kill(pid, signal.SIGKILL)
        self.kill()
        self.port.release()


class Site:
    """One datacenter: a coordinator, its nodes, and the command line."""

    def __init__(self, directory: Path, coordination: str = "") -> None:
        self.directory = directory
        self.coordination = coordination or f"embedded: {{path: {directory / 'coordination.db'}}}"
        self.nodes: list[NodeProcess] = []
        self.environ: dict[str, str] = {}  # of the command line

    def node(self, name: str) -> NodeProcess:
        node = NodeProcess(self, name)
        self.nodes.append(node)
        return node

    def cli(self, *arguments: str, check: bool = True, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a command with the first node's configuration."""
        environ = {**os.environ, "REDIS_CANAL_CONFIG": str(self.nodes[0].config), **self.environ}
        command = [sys.executable, "-m", "console.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=timeout)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def write_task(self, task: str, source: Server, target: Server, extra: str = "") -> Path:
        file = self.directory / f"{task}.task.yaml"
        file.write_text(
            f"task: {task}\nsource: {{datacenter: sh, url: '{source.url}'}}\n"
            f"target: {{datacenter: bj, url: '{target.url}'}}\n{extra}"
        )
        return file

    def create(self, task: str, source: Server, target: Server, extra: str = "", *, wait: bool = True) -> None:
        file = self.write_task(task, source, target, extra)
        self.cli("task", "create", "-f", str(file), "--start", *(["--wait", "--timeout", "60"] if wait else []))

    def describe(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("task", "describe", task, "-o", "json").stdout)
        return found

    def shard(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = self.describe(task)["shards"][0]
        return found

    def wait_state(self, task: str, state: str, timeout: float = 30.0) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            shard = self.shard(task)
            return shard if shard["state"] == state else None

        return wait_until(there, timeout, f"{task} is {state}", every=0.1)

    def spread(self) -> list[int]:
        """How many shards each living node runs, by its own account."""
        return [len(node.shards()) for node in self.nodes if node.process is not None and node.process.poll() is None]

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        for node in self.nodes:
            if re.search(
                r"Traceback|a fault of this program|internal error", node.log() if node.log_file.exists() else ""
            ):
                raise AssertionError(f"node {node.name} logged a fault:\n{node.log()}")
