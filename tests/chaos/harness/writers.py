"""The clients of one datacenter: a modelled writer per thread, and beside it commands of all kinds without a model.

They write to whichever server is the datacenter's master now, go on through restarts, refusals and failovers, and never
send a command twice. Every reply that no fault explains ends the run.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis

from tests.chaos.harness.model import Cell, Outcome, SumCell, cells
from tests.support.servers import Server
from tests.support.wire import Command, Wire
from tests.support.workload import MIXED

DATABASES = (0, 1, 5)
NOT_NOW = (
    *("LOADING", "READONLY", "BUSY", "OOM", "NOREPLICAS", "MISCONF", "MASTERDOWN", "EXECABORT", "CLUSTERDOWN"),
    "ERR EXEC without MULTI",  # MULTI was refused by one of the above
)
PATIENCE_S = 15.0  # for replies: longer than any fault holds a server


class Clients(Protocol):
    """The clients of one datacenter, as the rest of the harness knows them."""

    @property
    def acknowledged(self) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def rebased(self) -> None: ...

    def wrong(self, server: Server, lossy: bool) -> list[str]: ...


class Writers:
    """See the top of this file. ``shared``: prefix of keys that other datacenters write too, empty for none."""

    def __init__(
        self,
        name: str,
        master: Callable[[], Server],
        seed: str,
        rate: float,
        shared: str = "",
        *,
        databases: Sequence[int] = DATABASES,
    ) -> None:
        self.name = name
        self.acknowledged = 0
        self.failures: list[BaseException] = []
        self._master = master
        self._rate = rate
        self._shared = shared
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._idle = threading.Semaphore(0)
        self._running.set()
        self.written: list[tuple[int, list[Cell]]] = []
        self._threads = []
        for number, db in enumerate(databases):
            these = cells(f"{name}:{number}")
            self.written.append((db, these))
            chance = random.Random(f"writer/{seed}/{name}/{number}")
            self._threads.append(threading.Thread(target=self._write, args=(db, these, chance), daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Returns when nothing is on its way any more."""
        self._running.clear()
        for thread in self._threads:
            if thread.is_alive():
                self._idle.acquire(timeout=4 * PATIENCE_S)

    def resume(self) -> None:
        self._running.set()

    def stop(self) -> None:
        self._stopping.set()
        self._running.set()
        for thread in self._threads:
            thread.join(4 * PATIENCE_S)
            assert not thread.is_alive(), f"a writer of {self.name} hangs"
        if self.failures:
            raise self.failures[0]

    def rebased(self) -> None:
        """A full resync set this datacenter back for a moment, beside its clients: see `SumCell.rebased`."""
        for _, these in self.written:
            for cell in these:
                if isinstance(cell, SumCell):
                    cell.rebased = True

    def wrong(self, server: Server, lossy: bool) -> list[str]:
        """What this server's content contradicts."""
        found = []
        with Wire(server) as wire:
            for db, these in self.written:
                wire.ask("SELECT", db)
                found += [f"db {db} {cell.key}: {what}" for cell in these if (what := cell.wrong(wire, lossy))]
        return found

    # --- in a writer's thread

    def _write(self, db: int, these: list[Cell], chance: random.Random) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    with Wire(self._master(), timeout=PATIENCE_S) as wire:
                        wire.ask("SELECT", db)
                        self._write_over(wire, these, chance)
                except (OSError, hiredis.ReplyError):
                    time.sleep(0.05)
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._idle.release()

    def _write_over(self, wire: Wire, these: list[Cell], chance: random.Random) -> None:
        while not self._stopping.is_set():
            if not self._running.is_set():
                self._idle.release()
                self._running.wait()
            began = time.monotonic()
            sent = self._some(wire, these, chance)
            time.sleep(max(0.0, sent * len(self._threads) / self._rate - (time.monotonic() - began)))

    def _some(self, wire: Wire, these: list[Cell], chance: random.Random) -> int:
        """A pipeline of a few writes; what became of each is told to its cell."""
        written: list[tuple[Cell, int, list[Command]]] = []
        for _ in range(chance.randrange(1, 8)):
            cell = chance.choice(these)
            number = cell.next()
            written.append((cell, number, cell.commands(number, chance)))
        loose = self._loose(chance)
        try:
            for of in [one for one in written if one[2][0] == ("MULTI",)]:
                self._transaction(wire, *of)
                written.remove(of)
            replies = wire.call([*(command for _, _, commands in written for command in commands), *loose])
        except OSError:
            for cell, number, _ in written:
                cell.settle(number, "unknown")
            raise
        at = 0
        for cell, number, commands in written:
            cell.settle(number, judge(commands, replies[at : at + len(commands)]))
            at += len(commands)
        for reply, command in zip(replies[at:], loose, strict=True):
            _judge_one(reply, command)
        if any(isinstance(reply, hiredis.ReplyError) for reply in replies):
            time.sleep(0.02)
        self.acknowledged += len(replies)
        return len(replies)

    @staticmethod
    def _transaction(wire: Wire, cell: Cell, number: int, commands: list[Command]) -> None:
        """MULTI by itself first: were it refused while what follows is taken, that would stand outside of it."""
        [begun] = wire.call(commands[:1])
        if judge(commands[:1], [begun]) == "done":
            cell.settle(number, judge(commands[1:], wire.call(commands[1:])))

    def _loose(self, chance: random.Random) -> Sequence[Command]:
        """Commands without a model: only that both sides end equal can be said of them."""
        prefix = self._shared if self._shared and chance.random() < 0.5 else f"{self.name}:mixed"
        return chance.choice(MIXED)(chance, prefix)


def judge(commands: Sequence[Command], replies: Sequence[Any]) -> Outcome:
    """Done, refused, or unknown where only a part was refused. AssertionError for a reply that no fault explains."""
    for reply, command in zip(replies, commands, strict=True):
        _judge_one(reply, command)
    last = replies[-1]
    refused = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
    if not refused and not (isinstance(last, list) and any(isinstance(one, hiredis.ReplyError) for one in last)):
        return "done"
    return "refused" if isinstance(last, hiredis.ReplyError) and len(refused) in (1, len(replies)) else "unknown"


def _judge_one(reply: Any, command: Command) -> None:
    for one in reply if isinstance(reply, list) else [reply]:
        if isinstance(one, hiredis.ReplyError) and not str(one).startswith(NOT_NOW):
            raise AssertionError(f"a writer met {one} for {str(command)[:200]}")
