"""Writers and data for clusters: commands go where MOVED and ASK point, through failovers and moved slots.

seed(cluster)                                  # every type, on the nodes that its keys belong to
with ClusterLoad(cluster, rate=1000) as load:
    load.wait(5000)
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

from canal.cluster import slot_of
from tests.support.cluster import Cluster
from tests.support.dataset import fill
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Command, Wire

Make = Callable[[random.Random, str], Command]

EXACT: tuple[Make, ...] = (
    lambda r, k: ("INCR", f"{k}:counter:{r.randrange(400)}"),
    lambda r, k: ("LPUSH", f"{k}:list:{r.randrange(100)}", r.randrange(1000)),
    lambda r, k: ("APPEND", f"{k}:text:{r.randrange(200)}", "x"),
    lambda r, k: ("XADD", f"{k}:stream:{r.randrange(50)}", "*", "n", r.randrange(1000)),
)
MIXED: tuple[Make, ...] = (
    *EXACT,
    lambda r, k: ("HINCRBY", f"{k}:hash:{r.randrange(100)}", f"f{r.randrange(20)}", r.randrange(-9, 10)),
    lambda r, k: ("ZINCRBY", f"{k}:zset:{r.randrange(100)}", "0.1", f"m{r.randrange(20)}"),
    lambda r, k: ("SADD", f"{k}:set:{r.randrange(50)}", r.randrange(100)),
    lambda r, k: ("SPOP", f"{k}:set:{r.randrange(50)}"),
    lambda r, k: ("SET", f"{k}:value:{r.randrange(500)}", "v" * r.randrange(100), "EX", r.randrange(3600, 7200)),
    lambda r, k: ("DEL", f"{k}:value:{r.randrange(500)}"),
    lambda r, k: ("RPOP", f"{k}:list:{r.randrange(100)}"),
)

_NOT_NOW = ("CLUSTERDOWN", "TRYAGAIN", "BUSY ", "LOADING", "MASTERDOWN", "READONLY", "ERR BUSYKEY")


def seed(cluster: Cluster) -> None:
    """Every type and encoding, with deadlines."""
    with Server.start(cluster.version) as model:
        fill(model, databases=(0,))
        owners = {slot: node for node in cluster.masters for slot in node.serves()}
        with Wire(model) as source:
            for key in source.ask("KEYS", "*"):
                dump, end = source.call([("DUMP", key), ("PTTL", key)])
                with Wire(owners[slot_of(key)]) as wire:
                    wire.ask("RESTORE", key, max(0, end), dump, "REPLACE")


class ClusterLoad:
    """See the top of this file. `rate`: commands a second over all writers."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        writers: int = 2,
        rate: float = 1000,
        commands: Sequence[Make] = MIXED,
        prefix: str = "w",
    ) -> None:
        self.acknowledged = 0
        self._cluster = cluster
        self._gap_s = writers / rate
        self._commands = commands
        self._prefix = prefix
        self._stopping = threading.Event()
        self._count = threading.Lock()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(writers)]

    def wait(self, commands: int, timeout: float = 60.0) -> None:
        """Until so many more commands were acknowledged."""
        goal = self.acknowledged + commands
        wait_until(lambda: self.acknowledged >= goal or self._failures, timeout, f"{commands} more commands written")

    def stop(self) -> None:
        """End every writer; raises what made one give up."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except Exception:
            if error is None:
                raise

    # -- in a writer's thread

    def _write(self, number: int) -> None:
        chance = random.Random(f"{self._prefix}{number}")
        wires: dict[int, Wire] = {}
        slots: dict[int, int] = {}  # slot -> port
        try:
            next_at = time.monotonic()
            while not self._stopping.is_set():
                self._one(chance.choice(self._commands)(chance, f"{self._prefix}{number}"), wires, slots)
                next_at = max(next_at + self._gap_s, time.monotonic() - 0.1)
                time.sleep(max(0.0, next_at - time.monotonic()))
        except BaseException as error:
            self._failures.append(error)
        finally:
            for wire in wires.values():
                wire.close()

    def _one(self, command: Command, wires: dict[int, Wire], slots: dict[int, int]) -> None:
        """Until it is acknowledged. One whose answer is lost is sent again: the source decides what it holds."""
        slot = slot_of(str(command[1]).encode())
        asking = False
        port = slots.get(slot) or self._anybody()
        while not self._stopping.is_set():
            try:
                wire = wires.get(port) or wires.setdefault(port, Wire(f"redis://127.0.0.1:{port}", timeout=5))
                replies: list[Any] = wire.call([("ASKING",), command] if asking else [command])
            except OSError:
                if (gone := wires.pop(port, None)) is not None:
                    gone.close()
                time.sleep(0.02)
                asking, port = False, self._anybody()
                continue
            reply = replies[-1]
            if not isinstance(reply, hiredis.ReplyError):
                slots[slot] = port if not asking else slots.get(slot, port)
                with self._count:
                    self.acknowledged += 1
                return
            word, *rest = str(reply).split(" ")
            if word in ("MOVED", "ASK"):
                port, asking = int(rest[1].rpartition(":")[2]), word == "ASK"
            elif str(reply).startswith(_NOT_NOW):
                time.sleep(0.02)
                asking, port = False, self._anybody()
            else:
                raise AssertionError(f"the workload met {reply} for {command!r}")

    def _anybody(self) -> int:
        running = [node.port for node in self._cluster.nodes if node.running]
        return random.choice(running)
