"""Writers that go on until they are told to stop, through restarts, refusals and cuts of the server they write to.

    with Workload(source, writers=4, rate=2000) as load:
        ...
        load.wait(10_000)              # until so many more commands were acknowledged
    print(load.acknowledged)           # stopped here; every writer has ended

The commands are such that one applied twice or not at all shows in the data for good: INCR, APPEND, LPUSH, XADD,
ZINCRBY, HINCRBY, INCRBYFLOAT, transactions, scripts; and between them what changes deadlines, pops and deletes. Each
writer has keys of its own and shares some with the others, in all of `databases`.

A command whose reply was lost may or may not have been applied, so counts here say little: compare the two servers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import hiredis

from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Command, Wire

Make = Callable[[random.Random, str], Sequence[Command]]

COUNTING: tuple[Make, ...] = (
    lambda r, k: [("INCR", f"{k}:counter:{r.randrange(20)}")],
    lambda r, k: [("APPEND", f"{k}:text:{r.randrange(20)}", f"{r.randrange(100)},")],
    lambda r, k: [("LPUSH", f"{k}:list:{r.randrange(5)}", r.randrange(1000), "b\r\n")],
    lambda r, k: [("XADD", f"{k}:stream:{r.randrange(3)}", "*", "n", r.randrange(1000))],
)

MIXED: tuple[Make, ...] = (
    *COUNTING,
    lambda r, k: [("HINCRBY", f"{k}:hash:{r.randrange(5)}", f"f{r.randrange(50)}", r.randrange(-9, 10))],
    lambda r, k: [("ZINCRBY", f"{k}:zset:{r.randrange(5)}", "0.1", f"m{r.randrange(50)}")],
    lambda r, k: [("INCRBYFLOAT", f"{k}:float", "0.5")],
    lambda r, k: [("SET", f"{k}:value:{r.randrange(100)}", "v" * r.randrange(300))],
    lambda r, k: [("SET", f"{k}:session:{r.randrange(100)}", r.random(), "EX", r.randrange(3600, 7200))],
    lambda r, k: [("PEXPIRE", f"{k}:list:{r.randrange(5)}", r.randrange(3_600_000, 7_200_000))],
    lambda r, k: [("SADD", f"{k}:set", *(r.randrange(10_000) for _ in range(5)))],
    lambda r, k: [("SPOP", f"{k}:set", 2)],
    lambda r, k: [("RPOP", f"{k}:list:{r.randrange(5)}")],
    lambda r, k: [("RPOPLPUSH", f"{k}:list:0", f"{k}:list:1")],
    lambda r, k: [("DEL", f"{k}:value:{r.randrange(100)}")],
    lambda r, k: [("XADD", f"{k}:capped", "MAXLEN", "~", 100, "*", "n", r.randrange(1000))],
    lambda r, k: [
        ("MULTI",),
        ("INCR", f"{k}:tx"),
        ("RPUSH", f"{k}:tx:list", r.randrange(1000)),
        ("EXPIRE", f"{k}:tx:list", 5000),
        ("EXEC",),
    ],
    lambda r, k: [
        ("EVAL", "redis.call('INCR', KEYS[1]) return redis.call('APPEND', KEYS[2], 'x')", 2, f"{k}:a", f"{k}:b")
    ],
)

# Replies that mean "not now": the server is loading, a replica, busy, full, or without its replicas.
_NOT_NOW = ("LOADING", "READONLY", "BUSY", "OOM", "NOREPLICAS", "MISCONF", "MASTERDOWN", "EXECABORT", "CLUSTERDOWN")


class Workload:
    """See the top of this file.

    `rate` is commands a second over all writers (None: as fast as they can); `pipeline` of them are sent at once.
    `prefix` keeps the keys of two workloads apart. A reply that no restart explains stops the writer and is raised by
    `stop`.
    """

    def __init__(
        self,
        server: Server,
        *,
        writers: int = 2,
        rate: float | None = 1000,
        pipeline: int = 10,
        databases: Sequence[int] = (0, 1, 5, 15),
        commands: Sequence[Make] = MIXED,
        prefix: str = "w",
        seed: int = 1,
    ) -> None:
        self.server = server
        self.acknowledged = 0
        self._rate = rate / writers if rate else None
        self._pipeline = pipeline
        self._databases = databases
        self._commands = commands
        self._prefix = prefix
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._count = threading.Lock()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._write, args=(number, random.Random(f"{seed}/{number}")), daemon=True)
            for number in range(writers)
        ]

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> int:
        """Ends every writer; returns how many commands were acknowledged. Raises what made a writer give up."""
        self._stopping.set()
        self._running.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)
        if self._failures:
            raise self._failures[0]
        return self.acknowledged

    def pause(self) -> None:
        """No new commands until `resume`; those under way may still be."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def wait(self, commands: int, timeout: float = 60.0) -> None:
        """Until so many more commands were acknowledged."""
        goal = self.acknowledged + commands
        wait_until(lambda: self.acknowledged >= goal or self._failures, timeout, f"{commands} more commands written")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except Exception:
            if error is None:  # the test's own failure says more
                raise

    # -- in a writer's thread

    def _write(self, number: int, chance: random.Random) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    with Wire(self.server, timeout=60) as wire:
                        self._write_over(wire, number, chance)
                except OSError:
                    time.sleep(0.05)  # it is down, or we were cut off: connect again
        except BaseException as error:
            self._failures.append(error)

    def _write_over(self, wire: Wire, number: int, chance: random.Random) -> None:
        started, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            self._running.wait()
            batch = self._batch(number, chance)
            replies = wire.call(batch)
            refused = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
            self._judge(refused)
            if refused:
                time.sleep(0.02)
            with self._count:
                self.acknowledged += len(replies) - len(refused)
            sent += len(batch)
            if self._rate:
                time.sleep(max(0.0, started + sent / self._rate - time.monotonic()))

    def _batch(self, number: int, chance: random.Random) -> list[Command]:
        own = f"{self._prefix}:{number if chance.random() < 0.8 else 'shared'}"
        batch: list[Command] = [("SELECT", chance.choice(self._databases))]
        while len(batch) <= self._pipeline:
            batch += chance.choice(self._commands)(chance, own)
        return batch

    @staticmethod
    def _judge(refused: list[hiredis.ReplyError]) -> None:
        for reply in refused:
            if not str(reply).startswith(_NOT_NOW):
                raise AssertionError(f"the workload met {reply}")
