"""Two ways between clusters, most with `conflicts: off`: every write once on both sides, under kills of both daemons;
silence afterwards; expired copies that delete nothing fresh; and slots that are moved, which stop the link before harm.

REDIS_CANAL_ROUNDS=30 kills each daemon so many times.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.cluster_load import EXACT, ClusterLoad
from tests.support.compare import differences
from tests.support.links import LinkProcess, Reachable, quiet
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = [pytest.mark.servers, pytest.mark.slow]

ROUNDS = int(os.environ.get("REDIS_CANAL_ROUNDS", "2"))
COUNTED = EXACT[:2]  # INCR and LPUSH: one that is doubled or lost shows in the sum
HOMES = ("--home", "prefix:a=a", "--home", "b")


def links(a: Reachable, b: Reachable, directory: Path, conflicts: str = "off") -> tuple[LinkProcess, LinkProcess]:
    """Both directions."""
    how = ("--two-way", "--conflicts", conflicts, *HOMES)
    return (
        LinkProcess(a, b, directory, *how, "--source-dc", "a", "--target-dc", "b", name="a-b"),
        LinkProcess(b, a, directory, *how, "--source-dc", "b", "--target-dc", "a", name="b-a"),
    )


def streaming(target: Cluster, task: str, shards: int = 3) -> bool:
    """All shards of the source have applied their snapshots."""
    found = target.ask("HGETALL", f"redis-canal:slots:{task}")
    names = [name[6:].decode() for name in found[::2] if name.startswith(b"shard:")]
    phases = [target.ask("HGET", f"redis-canal:checkpoint:{task}/{name}", "phase") for name in names]
    return len(names) >= shards and all(phase == b"stream" for phase in phases)


def written(side: Server) -> int:
    """INCRs and LPUSHes that the counters and lists of a server hold."""
    total = 0
    with Wire(side) as wire:
        for key in wire.ask("KEYS", "*:counter:*"):
            total += int(wire.ask("GET", key))
        for key in wire.ask("KEYS", "*:list:*"):
            total += wire.ask("LLEN", key)
    return total


def equal(a: Cluster, b: Cluster) -> bool:
    with a.gathered() as one, b.gathered() as other:
        return not differences(one, other, limit=1, ttl_tolerance_ms=2)


@contextmanager
def standing(*processes: LinkProcess) -> Iterator[None]:
    """Links that neither read nor write for a while."""
    for one in processes:
        one.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in processes:
            one.process.send_signal(signal.SIGCONT)


def values(cluster: Cluster, keys: list[str]) -> list[bytes | None]:
    """Read them all: those that have expired are deleted by that."""
    found = cluster.each(keys, "GET")
    return [found[key] for key in keys]


def late(deadline: int) -> bool:
    return time.time() * 1000 > deadline - 50


def arrived(reader: Cluster, keys: list[str], deadline: int) -> bool:
    return all(values(reader, keys)) or late(deadline)


def race(refresher: Cluster, reader: Cluster, name: str, *processes: LinkProcess) -> None:
    """Expired copies are read on one side after the other wrote the keys anew, or gave them a later deadline."""
    keys = [f"{name}:{number}" for number in range(200)]
    anew, later = keys[:100], keys[100:]
    for ahead_ms in (2500, 5000, 10_000, 20_000):  # longer where the machine is too slow for it
        deadline = int(time.time() * 1000) + ahead_ms
        refresher.each(keys, "SET", "old", "PXAT", deadline)
        wait_until(partial(arrived, reader, keys, deadline), 20, "the old values at the reader")
        with standing(*processes):
            refresher.each(later, "PEXPIREAT", deadline + 3_600_000)
            if late(deadline):
                continue
            wait_until(partial(late, deadline + 60), 20, "the deadline")
            refresher.each(anew, "SET", "fresh", "EX", 3600)
            assert not any(values(reader, keys)), "the reader was to meet its expired copies"
            break
    wanted = [b"fresh"] * 100 + [b"old"] * 100
    wait_until(lambda: values(reader, keys) == wanted, 30, "what was refreshed at the reader")
    assert values(refresher, keys) == wanted


@pytest.mark.timeout(1800 if ROUNDS > 2 else 300)
def test_two_clusters_both_ways(tmp_path: Path) -> None:
    with Cluster.start(3) as a, Cluster.start(3) as b:
        for cluster in (a, b):
            for node in cluster.nodes:
                node.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        a.ask("SET", "a:before", "a")
        b.ask("SET", "b:before", "b")
        with (
            ClusterLoad(a, rate=300, commands=COUNTED, prefix="a") as one,
            ClusterLoad(b, rate=300, commands=COUNTED, prefix="b") as two,
        ):
            one.wait(100)
            there, back = links(a, b, tmp_path)
            with there, back:
                wait_until(lambda: streaming(b, "a-b") and streaming(a, "b-a"), 90, "both directions stream")
                for number in range(ROUNDS):
                    one.wait(200)
                    link = (there, back)[number % 2]
                    link.kill()
                    link.start()
                    if ROUNDS > 2:
                        two.wait(100)
                        other = (back, there)[number % 2]
                        other.kill()
                        other.start()
                one.stop()
                two.stop()
                wait_until(lambda: equal(a, b), 60, "both clusters hold the same", every=0.5)
                with a.gathered() as copy:
                    assert written(copy) == one.acknowledged + two.acknowledged
                race(a, b, "a:race", there, back)
                race(b, a, "b:race", there, back)
                wait_until(lambda: quiet(*a.nodes, *b.nodes), 30, "all streams fall silent")
                assert equal(a, b)
                assert there.terminate() == 0, there.log[-3000:]
                assert back.terminate() == 0, back.log[-3000:]
        assert not [path for path in (tmp_path / "state").rglob("dead-letters.jsonl") if path.read_text()]


@pytest.mark.parametrize("conflicts", ["off", "settle"])
def test_slots_that_move_stop_a_two_way_link_before_it_deletes_anything(
    redis_server: StartServer, tmp_path: Path, conflicts: str
) -> None:
    b = redis_server("7.0")
    with Cluster.start(2) as a:
        keys = [f"a:{number}" for number in range(2000)]
        a.each(keys, "SET", "v")
        there, back = links(a, b, tmp_path, conflicts=conflicts)
        with there, back:
            wait_until(lambda: b.control.get("a:1") and b.control.exists("redis-canal:slots:a-b"), 60, "a snapshot")
            wait_until(lambda: streaming(a, "b-a", 0), 60, "the link back")
            b.control.set("b:1", "v")
            wait_until(lambda: a.ask("GET", "b:1") == b"v", 30, "a write from b")
            a.ask("INCR", "a:count")
            wait_until(lambda: b.control.get("a:count") == b"1", 30, "a write from a")
            giver, taker = a.masters
            moved = giver.serves()[:400]
            a.move_slots(moved, taker)
            assert there.process.wait(60) == 1, there.log[-3000:]
            assert "are being moved or were moved" in there.log
            assert back.running, back.log[-3000:]
            assert b.control.exists(*keys) == len(keys)
            b.control.set("b:2", "v")
            wait_until(lambda: a.ask("GET", "b:2") == b"v", 30, "the other direction goes on")
            there.start()
            assert there.process.wait(60) == 1, there.log[-3000:]
            a.ask("INCR", "a:count")
            again = LinkProcess(a, b, tmp_path, *there.arguments[6:], "--snapshot", "always", name="a-b")
            with again:
                wait_until(lambda: b.control.get("a:count") == b"2", 60, "the snapshot taken anew")
                a.ask("DEL", keys[0])
                a.each(keys[1:], "APPEND", "w")
                b.control.append("b:1", "w")
                wait_until(lambda: same(a, b), 60, "both sides hold the same", every=0.5)
                assert again.terminate() == 0, again.log[-3000:]


def same(a: Cluster, b: Server) -> bool:
    with a.gathered() as copy:
        return not differences(copy, b, limit=1, ttl_tolerance_ms=2)
