"""One cluster to another of a different layout: three masters to five, with kills of the daemon and moved slots.

REDIS_CANAL_FULL=1: thirty kills, 1,000 slots on either side, five failovers of either side, three masters to three as
well, and other versions (REDIS_CANAL_ONLY=3-7.0 picks one).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from canal.cluster import SLOTS
from tests.support.cluster import MOVED_MS, Cluster
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.compare import assert_equal, differences
from tests.support.links import LinkProcess
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
KILLS, MOVED, FAILOVERS = (30, 1000, 5) if FULL else (2, 30, 0)
LAYOUTS = ((5, "7.0"), (3, "7.0"), (3, "6.2"), (3, "8.2"), (3, "valkey-8.1")) if FULL else ((5, "7.0"),)
ONLY = os.environ.get("REDIS_CANAL_ONLY", "")


def shards_streaming(target: Cluster, shards: int) -> bool:
    found = target.ask("HGETALL", "redis-canal:slots:test")
    names = [name[6:].decode() for name in found[::2] if name.startswith(b"shard:")]
    phases = [target.ask("HGET", f"redis-canal:checkpoint:test/{name}", "phase") for name in names]
    return len(names) >= shards and all(phase == b"stream" for phase in phases)


@pytest.mark.timeout(3000 if FULL else 300)
@pytest.mark.parametrize(("masters", "version"), [one for one in LAYOUTS if ONLY in ("", f"{one[0]}-{one[1]}")])
def test_three_masters_to_others(tmp_path: Path, masters: int, version: str) -> None:
    replicas = 1 if FAILOVERS else 0
    with Cluster.start(3, replicas, version) as source, Cluster.start(masters, replicas, version) as target:
        exact = source.nodes[0].at_least((7, 0))
        began = time.monotonic()
        seed(source)
        with LinkProcess(source, target, tmp_path) as link, ClusterLoad(source, rate=500) as load:
            wait_until(lambda: shards_streaming(target, 3), 90, "all shards stream")
            for number in range(KILLS):
                load.wait(300)
                link.kill()
                link.start()
                load.wait(100)
                for cluster in (source, target):
                    if number % 6 == 5 and number // 6 < FAILOVERS:
                        old = cluster.masters[number % 3]
                        cluster.takeover(old)
                        load.wait(200)
                        cluster.come_back(old)
                    there = cluster.masters
                    giver, taker = there[number % len(there)], there[(number + 1) % len(there)]
                    cluster.move_slots(giver.serves()[: -(-MOVED // KILLS)], taker)
            load.stop()
            # before 7.0 a SET's deadline comes as what is left, and counts on from when somebody was there to hear it
            tolerance_ms = MOVED_MS if exact else int((time.monotonic() - began) * 1000)
            end_equal(source, target, link, tolerance_ms)
            assert link.terminate() == 0, link.log[-4000:]
        assert sum(len(node.serves()) for node in target.masters) == SLOTS
        letters = list((tmp_path / "state").rglob("dead-letters.jsonl"))
        assert not [path for path in letters if path.read_text()], link.log[-3000:]


def end_equal(source: Cluster, target: Cluster, link: LinkProcess, tolerance_ms: int, timeout: float = 120.0) -> None:
    """Once nothing is written any more, the target comes to hold what the source holds."""
    deadline = time.monotonic() + timeout
    with source.gathered() as wanted:
        while True:
            with target.gathered() as copy:
                if not differences(wanted, copy, limit=1, ttl_tolerance_ms=tolerance_ms):
                    return
                assert link.running, link.log[-4000:]
                if time.monotonic() > deadline:
                    print(link.log[-6000:])
                    assert_equal(wanted, copy, ttl_tolerance_ms=tolerance_ms)
            time.sleep(0.5)
