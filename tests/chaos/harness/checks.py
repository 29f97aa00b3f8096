"""What must hold when the faults are over and the writers have stopped."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from tests.chaos.harness.datacenter import Datacenter
from tests.chaos.harness.watch import Broken, Watch
from tests.chaos.harness.world import World
from tests.support.cluster import MOVED_MS
from tests.support.compare import differences
from tests.support.process import PATIENCE_S, wait_until

SETTLE_S = max(150.0, PATIENCE_S)
LAG_BYTES = 10_000
PEAK_MB = 120  # of a worker, a daemon or the parent of the workers (design, section 11)
MORE_FILES = 12  # that a process may hold open more than at the start: journal segments come and go
CLOCK_TOLERANCE_MS = 1_300_000  # the clock itself jumped by up to ten minutes either way
OLD_TOLERANCE_MS = 60_000  # before 7.0 deadlines travel as what is left, and the line may stand still meanwhile


def settled(world: World, watch: Watch) -> None:
    """All nodes are ready, every task streams, and all datacenters hold the same. Broken otherwise."""
    for datacenter in world.datacenters.values():
        datacenter.settle()
        if not world.two_way and datacenter is not world.datacenters["a"]:
            datacenter.forget_scripts()  # a script that blocked a target wrote something there
    _wait(watch, lambda: not _unready(world), lambda: f"not ready: {_unready(world)}")
    _wait(watch, lambda: world.states_are("streaming"), lambda: f"not all tasks stream: {_told(world)}")
    tolerance = 1
    if any(datacenter.jumped for datacenter in world.datacenters.values()):
        tolerance = CLOCK_TOLERANCE_MS
    elif world.version in ("6.2", "6.0", "5.0"):
        tolerance = OLD_TOLERANCE_MS
    elif world.topology == "to-cluster":
        tolerance = MOVED_MS
    for one, other in combinations(world.datacenters.values(), 2):

        def unlike(limit: int, one: Datacenter = one, other: Datacenter = other) -> list[str]:
            with one.content() as a, other.content() as b:
                return differences(a, b, ttl_tolerance_ms=tolerance, limit=limit)

        def said(a: str = one.name, b: str = other.name) -> str:
            return f"{a} and {b} differ:\n" + "\n".join(unlike(20)) + f"\n{_told(world)}"

        _wait(watch, lambda: not unlike(1), said, lambda: world.lag_bytes)


def model_holds(world: World) -> None:
    """Each datacenter holds what each writer wrote."""
    if world.two_way and world.resynced():
        for datacenter in world.datacenters.values():
            if datacenter.writers is not None:
                datacenter.writers.rebased()
    found = []
    for keeper in world.datacenters.values():
        with keeper.content() as content:
            found += [
                f"{keeper.name}: {what}"
                for writer in world.datacenters.values()
                if writer.writers is not None and writer.writers.acknowledged
                for what in writer.writers.wrong(content, writer.lossy)
            ]
    if found:
        raise Broken("the content contradicts what was written:\n" + "\n".join(found[:20]))


class Census:
    """Connections of the servers and open files of the nodes, to be compared with later."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.at = time.monotonic()
        self._connections = {name: len(dc.links_connected()) for name, dc in world.datacenters.items()}
        self._files = max((_open_files(pid) for node in world.nodes for pid in node.family()), default=0)

    def check(self, watch: Watch) -> None:
        """No server has more connections, no process markedly more open files than at the start."""
        world = self._world

        def more() -> list[str]:
            # Where nodes are several, the shard may be held by another one now; the sum is the same.
            found = [
                f"{name} has {len(now)} connections of links and replicas, {self._connections[name]} at the start:\n"
                + "\n".join(_connection(one) for one in now)
                for name, dc in world.datacenters.items()
                if len(now := dc.links_connected()) > self._connections[name] + 1
            ]
            for node in world.nodes:
                found += [
                    f"process {pid} of {node.name} has {files} files open, at most {self._files} at the start"
                    for pid in node.family()
                    if (files := _open_files(pid)) > self._files + MORE_FILES
                ]
            return found

        _wait(watch, lambda: not more(), lambda: "something was not closed:\n" + "\n".join(more()))


def memory_bounded(watch: Watch) -> None:
    if watch.peak_kb > PEAK_MB * 1024:
        raise Broken(f"a process of a node took {watch.peak_kb / 1024:.0f} MiB, at most {PEAK_MB} are promised")


def nothing_left(world: World) -> None:
    """After SIGTERM each node ends with 0, and nothing that it started is left."""
    for node in world.nodes:
        if node.process is not None and node.process.poll() is None:
            node.process.send_signal(signal.SIGTERM)
    for node in world.nodes:
        code = node.process.wait(120) if node.process is not None else 0
        if code != 0:
            raise Broken(f"node {node.name} ended with {code} after SIGTERM:\n{node.log()[-2000:]}")
    wait_until(lambda: not world.family(), 30, "every process of the nodes has ended")


def logs_are_clean(world: World) -> None:
    """No traceback, nothing that the program itself calls its fault."""
    for node in world.nodes:
        for word in ("Traceback", "a fault of this program", "internal error"):
            if word in node.log():
                at = node.log().index(word)
                raise Broken(f"node {node.name} logged a fault:\n{node.log()[max(0, at - 500) : at + 3000]}")


def _connection(client: dict[str, str]) -> str:
    return "  " + " ".join(f"{key}={client.get(key, '')}" for key in ("addr", "name", "cmd", "age", "idle", "flags"))


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def _unready(world: World) -> list[str]:
    return [node.name for node in world.nodes if node.get("/readiness") != "ready\n"]


def _told(world: World) -> str:
    figures = (
        "full_resync_reasons",
        "state",
        "link_state",
        "phase",
        "error",
        "detail",
        "lag_bytes",
        "source_connected",
        "target_connected",
    )
    return "\n".join(
        f"  {shard['task']}: " + ", ".join(f"{name}={shard.get(name)!r}" for name in figures)
        for shard in world.shards()
    ) + "".join(
        f"\n  {node.name}: {line}"
        for node in world.nodes
        for line in node.log().splitlines()
        if re.search(r"resync|snapshot|fork|parts from|ERROR|FULLRESYNC", line)
    )


def _wait(
    watch: Watch, condition: Callable[[], bool], what: Callable[[], str], left: Callable[[], int] = lambda: 0
) -> None:
    """``left``: how much is still to be done; while that falls, the time to settle begins anew."""
    deadline, least = time.monotonic() + SETTLE_S, left()
    while True:
        watch.check()
        try:
            if condition():
                return
        except OSError:
            pass
        if (now := left()) < least - LAG_BYTES:
            deadline, least = time.monotonic() + SETTLE_S, now
        if time.monotonic() > deadline:
            raise Broken(f"not within {SETTLE_S:.0f} s: {what()}")
        time.sleep(0.2)
