"""Nodes of this release and of the next (one format more) in one ensemble: side by side, switched, and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from canal import formats
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.nodes import NodeProcess, Site
from tests.support.process import ROOT, wait_until
from tests.support.workload import COUNTING, Workload
from tests.support.zookeeper import ZooKeeper

pytestmark = [pytest.mark.servers, pytest.mark.zookeeper, pytest.mark.slow]

NEXT = {"PYTHONPATH": str(ROOT / "tests" / "support" / "next_release")}


@pytest.fixture
def site(tmp_path: Path, zookeeper: Callable[[], ZooKeeper]) -> Iterator[Site]:
    made = Site(tmp_path, f"zookeeper: {{hosts: '{zookeeper().hosts}'}}")
    yield made
    made.close()


def nodes(site: Site) -> dict[str, Any]:
    listed = json.loads(site.cli("node", "list", "-o", "json").stdout)
    return {one["node"]: one for one in listed}


def held_by(site: Site, name: str) -> bool:
    return bool(site.shard("t")["node"] == name)


def move(site: Site, giver: NodeProcess, taker: NodeProcess) -> None:
    site.cli("node", "drain", giver.name)
    wait_until(lambda: held_by(site, taker.name), 60, f"{taker.name} has the shard")
    site.wait_state("t", "streaming", 60)
    site.cli("node", "drain", giver.name, "--undo")


def test_two_releases_share_an_ensemble_and_an_upgrade_is_taken_back(site: Site, redis_server: StartServer) -> None:
    source, target = redis_server(), redis_server()
    old, new = site.node("old").start(), site.node("new")
    new.environ = dict(NEXT)
    site.create("t", source, target)
    with Workload(source, rate=200, commands=COUNTING) as load:
        new.start()
        known = {name: (one["writes_format"], one["knows_format"]) for name, one in nodes(site).items()}
        assert known == {"old": (1, formats.NEWEST), "new": (formats.NEWEST, formats.NEWEST + 1)}
        move(site, old, new)
        load.wait(200)
        move(site, new, old)
        load.wait(200)
        move(site, old, new)
        assert new.stop() == 0
        new.environ = {}  # the old release again, over what the new one left
        new.start()
        move(site, old, new)
        load.wait(200)
    wait_equal(source, target)
    assert site.shard("t")["full_resyncs"] == 1 or new.status()["shards"][0]["full_resyncs"] <= 1


def test_a_switch_waits_for_all_nodes_and_the_older_release_stays_out_afterwards(
    site: Site, redis_server: StartServer
) -> None:
    source, target = redis_server(), redis_server()
    old, new = site.node("old").start(), site.node("new")
    site.create("t", source, target)
    newest = formats.NEWEST + 1
    new.environ = dict(NEXT)
    new.configure(format=str(newest))
    new.start(wait=False)
    assert new.process is not None and new.process.wait(60) == 1
    said = f"format {newest} is asked for, and node old (redis-canal "
    assert said in new.log() and "upgrade that node first" in new.log(), new.log()
    source.client().incr("n")
    assert old.stop() == 0
    new.start()
    site.environ = NEXT
    site.wait_state("t", "streaming", 60)
    source.client().incr("n")
    wait_equal(source, target)
    old.start(wait=False)
    assert old.process is not None and old.process.wait(60) == 1
    assert f"has format {newest}, this redis-canal knows up to {formats.NEWEST}" in old.log(), old.log()
    site.environ = {}
    refused = site.cli("task", "list", check=False)
    assert refused.returncode == 1 and f"has format {newest}" in refused.stderr
    source.client().incr("n")
    wait_equal(source, target)
    assert new.shards() == ["t"], "the newer one is not disturbed"
