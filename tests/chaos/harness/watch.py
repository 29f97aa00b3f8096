"""What an operator and a service manager do while faults happen, and what is watched all the time.

- A node that ended because it could not reach ZooKeeper at its start is started again, as systemd would.
- A task that stopped for a person because its source had lost data is confirmed; any other failed task ends the run.
- The peak memory of every process of the nodes is noted before it can be gone.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path

from tests.chaos.harness.world import Direction, World

UNREACHABLE = 4  # exit code
_CONFIRMED = re.compile(r"the resync would (remove|empty)|holds no keys|is empty")


class Broken(AssertionError):
    """The product did what it must not do."""


class Watch:
    """See the top of this file; a context. ``down``: names of nodes that a fault holds down just now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down: set[str] = set()
        self.peak_kb = 0
        self.restarted = 0
        self.confirmed = 0
        self.broken: Broken | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(300)

    def check(self) -> None:
        """Raise what was found broken."""
        if self.broken is not None:
            raise self.broken

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            try:
                self._look()
            except Broken as broken:
                self.broken = broken
                return
            except Exception as error:
                self.broken = Broken(f"the watch itself failed: {error!r}")
                return

    def _look(self) -> None:
        for node in self.world.nodes:
            if node.name in self.down or node.process is None:
                continue
            code = node.process.poll()
            if code is not None and node.name not in self.down:
                if code != UNREACHABLE:
                    raise Broken(f"node {node.name} ended by itself with {code}:\n{node.log()[-3000:]}")
                self.restarted += 1
                node.start(wait=False)
                continue
            self._note_memory(node.family())
        failed = {shard["task"]: str(shard["error"]) for shard in self.world.shards() if shard["state"] == "failed"}
        for task, error in failed.items():
            self._confirm(next(one for one in self.world.directions if one.task == task), error)

    def _note_memory(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                if found is not None:
                    self.peak_kb = max(self.peak_kb, int(found[1]))

    def _confirm(self, direction: Direction, error: str) -> None:
        if not (direction.source.lossy and _CONFIRMED.search(error)):
            raise Broken(f"task {direction.task} failed: {error}")
        site = self.world.sites[direction.source.name]
        done = site.cli("task", "resync", direction.task, "--confirm", "--yes", check=False, timeout=120)
        if done.returncode == 0:
            self.confirmed += 1
            time.sleep(2)
