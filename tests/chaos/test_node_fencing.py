"""A node that was stopped and wakes up writes nothing: SIGSTOP, lease lost, takeover, SIGCONT, many times.

MONITOR at the target shows every command with the connection that sent it, and the epoch after which each connection
named itself. From the new owner's first write on, no connection of another epoch may send one.

REDIS_CANAL_FENCING_ROUNDS=100 for the long run; each round takes about four seconds.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.nodes import NodeProcess, Site
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.workload import COUNTING, Workload
from tests.support.zookeeper import ZooKeeper

ROUNDS = int(os.environ.get("REDIS_CANAL_FENCING_ROUNDS", "5"))
pytestmark = [
    pytest.mark.servers,
    pytest.mark.zookeeper,
    pytest.mark.slow,
    pytest.mark.timeout(120 + 20 * ROUNDS),
]
LINE = re.compile(rb'\+[\d.]+ \[\d+ ([^\]]+)\] "([^"]*)"')
NAMED = re.compile(rb'\+[\d.]+ \[\d+ ([^\]]+)\] "CLIENT" "SETNAME" "redis-canal:sh-bj/0:(\d+):', re.IGNORECASE)
ASKED = re.compile(rb'\+[\d.]+ \[\d+ ([^\]]+)\] "HGET" "redis-canal:checkpoint:sh-bj/0" "epoch"')
WRITES = {b"EVALSHA", b"EVAL", b"HSET", b"INCR", b"APPEND", b"LPUSH", b"XADD"}


class Monitor:
    """Follows MONITOR: which connections sent writes, and under which epoch each has named itself."""

    def __init__(self, server: Server) -> None:
        self.writes: list[bytes] = []
        self.epochs: dict[bytes, int] = {}
        self.asked: set[bytes] = set()  # who looked at the epoch, as every connection does before it writes
        self._socket = socket.create_connection(server.address)
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        rest = b""
        while data := self._read():
            *lines, rest = (rest + data).split(b"\r\n")
            for line in lines:
                if named := NAMED.match(line):
                    self.epochs[named[1]] = int(named[2])
                if asked := ASKED.match(line):
                    self.asked.add(asked[1])
                match = LINE.match(line)
                if match and match[1] != b"lua" and match[2].upper() in WRITES:
                    self.writes.append(match[1])

    def _read(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def owners(self, epoch: int) -> set[bytes]:
        """The connections that named themselves after ``epoch`` since monitoring began."""
        return {address for address, named in list(self.epochs.items()) if named == epoch}

    def writes_of(self, epoch: int) -> list[bytes]:
        """The writes that these have sent, by address."""
        owners = self.owners(epoch)
        return [address for address in list(self.writes) if address in owners]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def site(tmp_path: Path, zookeeper: Callable[[], ZooKeeper]) -> Iterator[Site]:
    made = Site(tmp_path, f'zookeeper: {{hosts: "{zookeeper().hosts}"}}')
    yield made
    made.close()


def epoch_at(target: Server) -> int:
    return int(target.control.hget("redis-canal:checkpoint:sh-bj/0", "epoch") or 0)


def test_a_node_that_wakes_up_after_its_lease_was_taken_writes_nothing(site: Site, redis_server: StartServer) -> None:
    source, target = redis_server(), redis_server()
    nodes = [site.node("a"), site.node("b")]
    for node in nodes:
        node.configure(lease_timeout_seconds="1", publish_seconds="0.5")
        node.start()
    site.create("sh-bj", source, target)
    with Workload(source, writers=2, rate=2000, pipeline=4, commands=COUNTING):
        tried = sum(_round(number, nodes, target) for number in range(ROUNDS))
    wait_equal(source, target, 60)
    assert source.sync_full == 1, "no takeover may cost a full resync"
    assert epoch_at(target) == ROUNDS + 1
    print(
        f"{ROUNDS} rounds, {tried} of them with an old owner that tried to come back: not one write of a fenced owner"
    )


def _round(number: int, nodes: list[NodeProcess], target: Server) -> bool:
    """One takeover; true when the old owner was seen to connect again after it woke up."""
    old = wait_until(
        lambda: next((node for node in nodes if node.shards() == ["sh-bj"]), None), 30, "one owns the shard"
    )
    new = nodes[1 - nodes.index(old)]
    epoch = epoch_at(target)
    monitor = Monitor(target)
    try:
        old.signal(signal.SIGSTOP, everyone=True)
        try:
            wait_until(lambda: monitor.owners(epoch + 1), 30, f"round {number}: the other takes over")
            wait_until(lambda: len(monitor.writes_of(epoch + 1)) > 5, 30, f"round {number}: the new owner applies")
        finally:
            old.signal(signal.SIGCONT, everyone=True)
        before = len(monitor.writes_of(epoch + 1))
        wait_until(lambda: old.shards() == [] and old.get("/readiness") == "ready\n", 30, "the old owner has given up")
        wait_until(lambda: len(monitor.writes_of(epoch + 1)) > before + 5, 30, f"round {number}: the new owner goes on")
    finally:
        monitor.close()
    assert new.shards() == ["sh-bj"]
    assert epoch_at(target) == epoch + 1
    after = monitor.writes[monitor.writes.index(monitor.writes_of(epoch + 1)[0]) :]
    strangers = {address: monitor.epochs.get(address) for address in set(after) - monitor.owners(epoch + 1)}
    assert not strangers, f"round {number}: writes by {strangers}, the owner has epoch {epoch + 1}"
    return bool(monitor.asked - monitor.owners(epoch + 1))
