"""Slots that the servers move by themselves, whole runs at once (CLUSTER MIGRATESLOTS of Valkey 9), at either end.

Nothing tells a stream of it: no RESTORE-ASKING at the taker, no ASK at the giver, which deletes what it gave away.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.test_cluster_to_cluster import end_equal, shards_streaming
from tests.support.cluster import MOVED_MS, Cluster
from tests.support.cluster_load import ClusterLoad, seed
from tests.support.links import LinkProcess
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 20 if os.environ.get("REDIS_CANAL_FULL") else 3


def test_slots_that_change_hands_at_once(tmp_path: Path) -> None:
    with Cluster.start(3, 0, "valkey-9.1") as source, Cluster.start(3, 0, "valkey-9.1") as target:
        seed(source)
        with LinkProcess(source, target, tmp_path) as link, ClusterLoad(source, rate=500) as load:
            wait_until(lambda: shards_streaming(target, 3), 90, "all shards stream")
            for number in range(ROUNDS):
                load.wait(300)
                for cluster in (source, target):
                    there = cluster.masters
                    giver, taker = there[number % 3], there[(number + 1) % 3]
                    first = giver.serves()[0]
                    cluster.migrate_slots(range(first, first + 200), giver, taker)
                if number % 2:
                    link.kill()
                    link.start()
            load.stop()
            end_equal(source, target, link, MOVED_MS)
            assert link.terminate() == 0, link.log[-4000:]
        letters = list((tmp_path / "state").rglob("dead-letters.jsonl"))
        assert not [path for path in letters if path.read_text()], link.log[-3000:]
