"""200 idle tasks on one node over the embedded coordinator: start, idle CPU, coordination traffic. By hand: -m soak.

The figures are printed; the bound on the start is asserted.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config.models import TaskSpec
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.spec import write_spec
from tests.conftest import StartServer
from tests.support.nodes import Site
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.soak, pytest.mark.timeout(600)]
SIDE = 15
TASKS = int(os.environ.get("REDIS_CANAL_IDLE_TASKS", "200"))
IDLE_S = 30.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def private_mib(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def test_two_hundred_idle_tasks(site: Site, redis_server: StartServer) -> None:
    sources = [redis_server() for _ in range(SIDE)]
    targets = [redis_server() for _ in range(SIDE)]
    database = site.directory / "coordination.db"
    with Coordinator(EmbeddedStore(database)) as coordinator:
        for number in range(TASKS):
            spec = TaskSpec.model_validate(
                {
                    "task": f"t{number}",
                    "source": {"datacenter": "sh", "url": sources[number % SIDE].url},
                    "target": {"datacenter": "bj", "url": targets[number // SIDE].url},
                }
            )
            coordinator.tasks.create(spec.task, write_spec(spec), desired="running")
    node = site.node("a")
    node.configure(publish_seconds="5", lease_timeout_seconds="10")
    started = time.monotonic()
    node.start(wait=False)

    def streaming() -> bool:
        shards = node.status().get("shards", [])
        return sum(1 for shard in shards if shard.get("link_state") == "streaming") == TASKS

    wait_until(streaming, 300, "all stream", every=0.5)
    took = time.monotonic() - started
    at_start = cpu_seconds(node.family())
    time.sleep(20)
    family = node.family()
    daemon, parent, workers = family[:1], family[1:2], family[2:]
    before = [cpu_seconds(pids) for pids in (daemon, parent, workers)]
    with sqlite3.connect(database) as link:
        changes = "SELECT (SELECT count FROM changes), (SELECT SUM(version) FROM records)"
        counted, versions = link.execute(changes).fetchone()
        time.sleep(IDLE_S)
        counted_after, versions_after = link.execute(changes).fetchone()
    used = [
        (after - b) / IDLE_S * 100 for after, b in zip(map(cpu_seconds, (daemon, parent, workers)), before, strict=True)
    ]
    print(f"{TASKS} tasks stream after {took:.1f} s, for which daemon and workers used {at_start:.1f} s of CPU")
    print(f"idle CPU, % of one core: daemon {used[0]:.1f}, parent {used[1]:.1f}, workers {used[2]:.1f}")
    wrote, structural = (versions_after - versions) / IDLE_S, (counted_after - counted) / IDLE_S
    print(f"records written per second: {wrote:.1f}, of them structural {structural:.2f}")
    print(f"memory (PSS): daemon {private_mib(daemon):.0f} MiB, workers {private_mib(workers) / TASKS:.1f} MiB each")
    assert took < 60
