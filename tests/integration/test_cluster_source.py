"""A Redis Cluster as source: one link per shard, through failovers, moved slots and kills; equal and exact in the end.

REDIS_CANAL_SOAK=1 runs the long forms: 30 kills, 5 failovers, 1,000 slots, more versions.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from sync.slotmap import parse_ranges
from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.compare import assert_equal, differences
from tests.support.links import LinkProcess
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SOAK = os.environ.get("REDIS_CANAL_SOAK") == "1"
KILLS, FAILOVERS, MOVED = (30, 5, 1000) if SOAK else (2, 1, 60)
MOVES = 4 if SOAK else 2
VERSIONS = ("7.0", "6.2", "8.2", "valkey-9.1") if SOAK else ("7.0",)


def slot_map(target: Server, task: str = "test") -> dict[str, str]:
    """Slots by shard, as the target has them."""
    found = target.control.hgetall(f"redis-canal:slots:{task}")
    return {name[6:].decode(): text.decode() for name, text in found.items() if name.startswith(b"shard:")}


def streaming(target: Server, shards: int, task: str = "test") -> bool:
    names = slot_map(target, task)
    phases = [target.control.hget(f"redis-canal:checkpoint:{task}/{name}", "phase") for name in names]
    return len(names) >= shards and all(phase == b"stream" for phase in phases)


def in_the_end_equal(cluster: Cluster, target: Server, link: LinkProcess, timeout: float = 90.0) -> None:
    """Once nothing is written any more, the target comes to hold what the cluster holds."""
    deadline = time.monotonic() + timeout
    while True:
        with cluster.gathered() as copy:
            if not differences(copy, target, limit=1):
                return
            assert link.running, link.log[-4000:]
            if time.monotonic() > deadline:
                print(link.log[-6000:], slot_map(target))
                assert_equal(copy, target)
        time.sleep(0.2)


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_cluster_with_everything_that_happens_to_it_onto_one_server(
    redis_server: StartServer, tmp_path: Path, version: str
) -> None:
    """Kills of the daemon, failovers and moved slots, all under load."""
    chance = random.Random(version)
    target = redis_server(version)
    with Cluster.start(3, 1, version, repl_backlog_size="32mb") as cluster:
        seed(cluster)
        with LinkProcess(cluster, target, tmp_path) as link, ClusterLoad(cluster, rate=800) as load:
            wait_until(lambda: streaming(target, 3), 60, "all shards stream")
            load.wait(500)
            events = ["kill"] * KILLS + ["failover"] * FAILOVERS + ["move"] * MOVES
            chance.shuffle(events)
            for event in events:
                assert link.running, link.log[-4000:]
                if event == "kill":
                    link.kill()
                    link.start()
                elif event == "failover":
                    old = chance.choice(cluster.masters)
                    cluster.takeover(old)
                    load.wait(200)
                    cluster.come_back(old)
                else:
                    giver, taker = chance.sample(cluster.masters, 2)
                    cluster.move_slots(giver.serves()[: MOVED // MOVES], taker)
                load.wait(100)
            load.stop()
            in_the_end_equal(cluster, target, link)
            wait_until(lambda: sum(len(node.serves()) for node in cluster.masters) == 16384, 10)
            assert link.terminate() == 0, link.log[-4000:]
        letters = list((tmp_path / "state").rglob("dead-letters.jsonl"))
        assert not [path for path in letters if path.read_text()], link.log[-3000:]
        assert len(slot_map(target)) == 3
        print(f"\n{version}: full syncs at the masters {[node.sync_full for node in cluster.masters]}")


def test_masters_that_join_and_leave_and_a_flush(redis_server: StartServer, tmp_path: Path) -> None:
    """A new master is a new shard; one that gave its slots away and left ends it; FLUSHALL is one master's."""
    target = redis_server("7.0")
    with (
        Cluster.start(2, 0, "7.0") as cluster,
        LinkProcess(cluster, target, tmp_path) as link,
        ClusterLoad(cluster, rate=300) as load,
    ):
        wait_until(lambda: streaming(target, 2), 60, "both shards stream")
        load.wait(300)
        first, second = cluster.masters
        third = cluster.add_node()
        cluster.await_ok()
        cluster.move_slots(range(12200, 12240), third)
        wait_until(lambda: len(slot_map(target)) == 3, 60, "a shard for the new master")
        cluster.move_slots([slot for slot in second.serves() if slot % 40 == 0], third)
        name = third.id[:12]
        moved = set(third.serves())
        wait_until(lambda: parse_ranges(slot_map(target)[name]) == moved, 60, "the slots are handed over")
        second.do("FLUSHALL")
        load.wait(300)
        load.stop()
        in_the_end_equal(cluster, target, link)

        cluster.move_slots(third.serves(), first)
        third.do("CLUSTER", "REPLICATE", first.id)  # as with cluster-allow-replica-migration by itself
        wait_until(lambda: len(slot_map(target)) == 2, 60, "the shard that left has ended")
        cluster.ask("SET", "after", "it")
        in_the_end_equal(cluster, target, link)
        cluster.await_replicas()
        cluster.takeover(first)
        cluster.ask("SET", "after", "that")
        in_the_end_equal(cluster, target, link)
        assert "has left the cluster" in link.log
        assert set(json.loads((tmp_path / "state" / "test" / "cluster.json").read_text())["shards"]) == set(
            slot_map(target)
        )
        assert link.terminate() == 0, link.log[-3000:]


def test_a_target_with_data_is_refused_once_for_all_shards(redis_server: StartServer, tmp_path: Path) -> None:
    target = redis_server("7.0")
    target.control.set("mine", 1)
    with Cluster.start(2, 0, "7.0") as cluster:
        cluster.ask("SET", "a", 1)
        with LinkProcess(cluster, target, tmp_path) as link:
            assert link.process.wait(60) == 1
            assert "holds 1 keys and no checkpoint" in link.log
        assert target.control.get("a") is None
        with LinkProcess(cluster, target, tmp_path, "--stale-keys", "delete") as link:
            in_the_end_equal(cluster, target, link)
