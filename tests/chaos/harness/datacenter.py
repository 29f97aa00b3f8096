"""A datacenter's servers: a master, perhaps a replica to fail over to, and whoever writes there.

Everything that reaches it from outside comes over TCP, by the doors (proxies) that the world puts in front; writers and
checks use the Unix socket. So the TCP connections of a server are those of the links alone, and its replica's.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.chaos.harness.writers import Clients
from tests.support.dataset import fill
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Wire

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
FAKETIME_VERSIONS = ("6.2", "valkey-9.1")  # Debian's own redis-server hangs under it

SETTINGS: dict[str, object] = {
    "appendonly": "yes",
    "appendfsync": "no",  # what is acknowledged is with the kernel: kill -9 loses none of it
    "repl_timeout": "10",
}


def script_of(name: str, rounds: int) -> tuple[str | int, ...]:
    """A command that keeps a server busy, with a few writes in it."""
    script = (
        "redis.call('INCR', KEYS[1]) local x = 0 for i = 1, tonumber(ARGV[1]) do x = x + i % 7 end "
        "for i = 1, 2000 do redis.call('RPUSH', KEYS[2], i) end redis.call('LTRIM', KEYS[2], 0, 99)"
    )
    return "EVAL", script, 2, f"{{{name}:script}}:n", f"{{{name}:script}}:list", rounds


class Datacenter:
    """See the top of this file. ``on_moved`` is called after a failover, to point the doors at the new master."""

    shards = 1  # of a task whose source this is

    def __init__(self, name: str, directory: Path, version: str, *, replica: bool, backlog: str = "1mb") -> None:
        self.name = name
        self.directory = directory
        self.backlog = backlog
        self.version = version
        self.lossy = False  # has lost acknowledged writes
        self.wiped = False  # started empty, and not filled again yet
        self.jumped = False
        self.writers: Clients | None = None
        self.on_moved: Callable[[Datacenter], None] = lambda _: None
        self.clock = directory / "clock"
        directory.mkdir(parents=True, exist_ok=True)
        self.set_clock(0)
        self.master: Server
        self.replica: Server | None = None
        self._begin(replica)

    def _begin(self, replica: bool) -> None:
        self.master = self._start("s0")
        if replica:
            self.replica = self._start("s1", replicaof=f"127.0.0.1 {self.master.port}")
            self.wait_replica()

    def _start(self, name: str, **settings: object) -> Server:
        given: dict[str, Any] = {**SETTINGS, "repl_backlog_size": self.backlog, **settings}
        return Server.start(
            self.version,
            directory=self.directory / name,
            environ=self._environ(),
            **given,
        )

    # --- the clock

    @property
    def clock_can_jump(self) -> bool:
        return self.version in FAKETIME_VERSIONS and FAKETIME.exists()

    def _environ(self) -> dict[str, str]:
        if not self.clock_can_jump:
            return {}
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set_clock(self, ahead_s: int) -> None:
        """The servers' wall clock goes so many seconds ahead (or behind), within about a second."""
        self.jumped = self.jumped or bool(ahead_s)
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.replace(self.clock)

    # --- what can happen to it

    def wait_replica(self) -> None:
        assert self.replica is not None
        replica = self.replica
        wait_until(
            lambda: replica.running and replica.info("replication").get("master_link_status") == "up",
            60,
            f"{self.name}'s replica follows",
        )

    def aim(self) -> bool:
        """Can a fault happen to ``master`` now?"""
        return self.master.running

    def can_fail_over(self) -> bool:
        return self.replica is not None and self.replica.running

    def followed(self, links: int) -> bool:
        """Would so many links go on with the replica, were it the master now?

        It knows the replication id before its own alone, and its backlog begins where it began to follow.
        """
        assert self.replica is not None
        first = self.replica.info("replication")["repl_backlog_first_byte_offset"]
        told = self.master.info("replication")
        replicas = [told[f"slave{number}"] for number in range(told["connected_slaves"])]
        return len(replicas) > links and all(one["state"] == "online" and one["offset"] >= first for one in replicas)

    def fail_over(self, *, planned: bool) -> None:
        """The replica becomes the master; planned: after it has all, with the writers held meanwhile."""
        assert self.replica is not None
        old, new = self.master, self.replica
        if planned and self.writers is not None:
            self.writers.pause()
            wait_until(lambda: new.offset >= old.offset, 30, "the replica has all")
        old.kill()
        if not planned:
            self.lossy = True
        new.control.slaveof()
        new.config.pop("replicaof", None)
        self.master, self.replica = new, old
        self.on_moved(self)
        if planned and self.writers is not None:
            self.writers.resume()

    def follow_again(self) -> None:
        """The old master comes back as the new one's replica."""
        assert self.replica is not None
        self.replica.config["replicaof"] = f"127.0.0.1 {self.master.port}"
        self.replica.run()
        self.wait_replica()

    def wipe(self) -> None:
        """The master dies with all its data; `come_back` starts it empty."""
        self.lossy = self.wiped = True
        self.master.kill()
        shutil.rmtree(self.master.directory / "appendonlydir", ignore_errors=True)
        for name in ("appendonly.aof", "dump.rdb"):
            (self.master.directory / name).unlink(missing_ok=True)

    def come_back(self) -> None:
        self.master.run()

    def prefill(self, databases: tuple[int, ...]) -> None:
        """Keys of every type and encoding, from before there were any links."""
        fill(self.master, prefix=f"{self.name}:filled:".encode(), databases=databases)

    def fill(self, number: int, size: int, count: int) -> None:
        """Write so many values of so many bytes, over the same few keys."""
        value = random.Random(number).randbytes(size)
        try:
            with Wire(self.master, timeout=15) as wire:
                for start in range(0, count, 20):
                    wire.call([("SET", f"{self.name}:filler:{n % 20}", value) for n in range(start, start + 20)])
        except (OSError, redis.RedisError):
            pass  # something else happens to it at the same time

    def block(self, rounds: int) -> threading.Thread:
        """A script that keeps the server busy, with one write in it."""

        def run() -> None:
            try:
                with Wire(self.master, timeout=60) as wire:
                    wire.call([script_of(self.name, rounds)])
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def forget_scripts(self) -> None:
        """Remove what `block` wrote."""
        self.master.control.delete(f"{{{self.name}:script}}:n", f"{{{self.name}:script}}:list")

    def links_connected(self) -> list[dict[str, str]]:
        """The TCP connections to the master, as CLIENT LIST tells them; a replica of our own is among them."""
        clients: list[dict[str, str]] = self.master.control.client_list()
        return [one for one in clients if not one["addr"].startswith(str(self.master.unix_socket))]

    def settle(self) -> None:
        """Wait for what goes on by itself after the last fault."""

    @contextlib.contextmanager
    def content(self) -> Iterator[Server]:
        """A server that holds what this datacenter holds."""
        yield self.master

    def servers(self) -> list[Server]:
        return [server for server in (self.master, self.replica) if server is not None]

    def close(self) -> None:
        for server in self.servers():
            server.close()
