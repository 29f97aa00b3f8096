"""A node that was stopped and wakes up writes nothing: SIGSTOP, lease lost, takeover, SIGCONT, many times.

MONITOR at the target shows every command with the connection that sent it. From the moment at which the new owner's
first transaction is seen, no other connection may send one.

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
WRITES = {b"EXEC", b"EVALSHA", b"EVAL", b"HSET", b"INCR", b"APPEND", b"LPUSH", b"XADD"}


class Monitor:
    """Follows MONITOR: which connections sent writes, and under which epoch each has named itself."""

    def __init__(self, server: Server) -> None:
        self.writes: list[bytes] = []
        self.epochs: dict[bytes, int] = {}
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
                match = LINE.match(line)
                if match and match[1] != b"lua" and match[2].upper() in WRITES:
                    self.writes.append(match[1])

    def _read(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def site(tmp_path: Path, zookeeper: Callable[[], ZooKeeper]) -> Iterator[Site]:
    made = Site(tmp_path, f'zookeeper: {{hosts: "{zookeeper().hosts}"}}')
    yield made
    made.close()


def owner_of(target: Server) -> set[bytes]:
    """Addresses of the connections that carry the shard's name."""
    clients = target.control.client_list()
    return {str(one["addr"]).encode() for one in clients if "sh-bj" in str(one["name"])}


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
    old.signal(signal.SIGSTOP, everyone=True)
    try:
        wait_until(lambda: epoch_at(target) > epoch, 30, f"round {number}: the other takes over")
        owners = wait_until(lambda: owner_of(target), 10, "its connections")
        monitor = Monitor(target)
        wait_until(lambda: len(monitor.writes) > 5, 10, f"round {number}: the new owner applies")
    finally:
        old.signal(signal.SIGCONT, everyone=True)
    before = len(monitor.writes)
    wait_until(lambda: old.shards() == [] and old.get("/readiness") == "ready\n", 30, "the old owner has given up")
    wait_until(lambda: len(monitor.writes) > before + 5, 10, f"round {number}: the new owner goes on")
    monitor.close()
    assert new.shards() == ["sh-bj"]
    assert epoch_at(target) == epoch + 1
    # the old owner's last try to fence may cut the new owner's connection, which then comes back under its epoch
    owners |= {address for address, named in monitor.epochs.items() if named == epoch + 1}
    strangers = set(monitor.writes) - owners
    assert not strangers, f"round {number}: writes by {strangers}, the owner is {owners}"
    return epoch in monitor.epochs.values()
