"""A Redis Cluster as source: one link per shard, through failovers, moved slots and kills; equal and exact in the end.

REDIS_CANAL_SOAK=1 runs the long forms: 30 kills, 5 failovers, 1,000 slots, more versions.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.compare import assert_equal, differences
from tests.support.links import LinkProcess
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SOAK = os.environ.get("REDIS_CANAL_SOAK") == "1"
KILLS, FAILOVERS, MOVED = (30, 5, 1000) if SOAK else (3, 1, 60)
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
            events = ["kill"] * KILLS + ["failover"] * FAILOVERS + ["move"] * 3
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
                    cluster.move_slots(giver.serves()[: MOVED // 3], taker)
                load.wait(100)
            load.stop()
            in_the_end_equal(cluster, target, link)
            wait_until(lambda: sum(len(node.serves()) for node in cluster.masters) == 16384, 10)
            assert link.terminate() == 0, link.log[-4000:]
        letters = list((tmp_path / "state").rglob("dead-letters.jsonl"))
        assert not [path for path in letters if path.read_text()], link.log[-3000:]
        assert len(slot_map(target)) == 3
        print(f"\n{version}: full syncs at the masters {[node.sync_full for node in cluster.masters]}")
