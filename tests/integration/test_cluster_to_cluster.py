"""One cluster to another of a different layout: three masters to five, with kills of the daemon and moved slots.

REDIS_CANAL_FULL=1: ten kills, 1,000 slots on either side.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from canal.cluster import SLOTS
from tests.support.cluster import Cluster
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.compare import assert_equal, differences
from tests.support.links import LinkProcess
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
KILLS, MOVED = (10, 1000) if FULL else (2, 30)


def shards_streaming(target: Cluster, shards: int) -> bool:
    found = target.ask("HGETALL", "redis-canal:slots:test")
    names = [name[6:].decode() for name in found[::2] if name.startswith(b"shard:")]
    phases = [target.ask("HGET", f"redis-canal:checkpoint:test/{name}", "phase") for name in names]
    return len(names) >= shards and all(phase == b"stream" for phase in phases)


@pytest.mark.timeout(1800 if FULL else 300)
def test_three_masters_to_five(tmp_path: Path) -> None:
    with Cluster.start(3) as source, Cluster.start(5) as target:
        seed(source)
        with LinkProcess(source, target, tmp_path) as link, ClusterLoad(source, rate=500) as load:
            wait_until(lambda: shards_streaming(target, 3), 90, "all shards stream")
            for number in range(KILLS):
                load.wait(300)
                link.kill()
                link.start()
                load.wait(100)
                giver, taker = source.masters[number % 3], source.masters[(number + 1) % 3]
                source.move_slots(giver.serves()[: MOVED // KILLS], taker)
                giver, taker = target.masters[number % 5], target.masters[(number + 1) % 5]
                target.move_slots(giver.serves()[: MOVED // KILLS], taker)
            load.stop()
            end_equal(source, target, link)
            assert link.terminate() == 0, link.log[-4000:]
        assert sum(len(node.serves()) for node in target.masters) == SLOTS
        letters = list((tmp_path / "state").rglob("dead-letters.jsonl"))
        assert not [path for path in letters if path.read_text()], link.log[-3000:]


def end_equal(source: Cluster, target: Cluster, link: LinkProcess, timeout: float = 120.0) -> None:
    """Once nothing is written any more, the target comes to hold what the source holds."""
    deadline = time.monotonic() + timeout
    with source.gathered() as wanted:
        while True:
            with target.gathered() as copy:
                if not differences(wanted, copy, limit=1, ttl_tolerance_ms=2):
                    return
                assert link.running, link.log[-4000:]
                if time.monotonic() > deadline:
                    print(link.log[-6000:])
                    assert_equal(wanted, copy)
            time.sleep(0.5)
