"""Tasks whose source is a cluster: shards that follow from what the cluster is, on nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.slotmap import parse_ranges
from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.cluster_load import ClusterLoad
from tests.support.compare import differences
from tests.support.nodes import Site
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def equal(cluster: Cluster, target: Server) -> bool:
    with cluster.gathered() as copy:
        return not differences(copy, target, limit=1)


def running(site: Site) -> dict[str, dict[str, Any]]:
    """The shards that the living nodes run, by name."""
    return {shard["shard"]: shard for node in site.nodes for shard in node.status().get("shards", [])}


def test_shards_come_and_go_with_the_cluster(site: Site, redis_server: StartServer) -> None:
    target = redis_server("7.0")
    nodes = [site.node("a").start(), site.node("b").start()]
    with Cluster.start(2, 1, "7.0") as cluster:
        cluster.ask("SET", "before", 1)
        site.create("sh-bj", cluster, target, "verify: {rate: 2000}\nheartbeat: true\n")  # type: ignore[arg-type]
        with ClusterLoad(cluster, rate=300) as load:
            wait_until(lambda: sorted(site.spread()) == [1, 1], 60, "one shard on each node")
            load.wait(200)
            cluster.takeover(cluster.masters[1])
            third = cluster.add_node()
            cluster.await_ok()
            cluster.move_slots(cluster.masters[0].serves()[:20], third)
            nodes[1].kill()
            name = third.id[:12]
            moved = set(third.serves())
            wait_until(
                lambda: parse_ranges(running(site).get(name, {}).get("slots", "")) == moved,
                90,
                "the new shard has its slots, and the other node has taken over",
            )
            load.wait(100)
        wait_until(lambda: equal(cluster, target), 60, "both sides are equal", every=0.3)
        task = site.describe("sh-bj")
        assert len(task["shards"]) == 3
        history = " ".join(str(event) for event in task["events"])
        assert f"shard {name} is new" in history and "has the slots" in history

        def beats() -> list[Any]:
            return [shard.get("heartbeat_lag") for shard in running(site).values()]

        wait_until(lambda: len(beats()) == 3 and None not in beats(), 30, "each shard has a heartbeat")

        def sampled(what: str) -> list[Any]:
            return [shard.get(f"verify_{what}") for shard in running(site).values()]

        wait_until(lambda: set(sampled("error")) == {""} and all(sampled("keys")), 60, "each shard looks at its keys")
        assert not any(sampled("differing")), running(site)

        def compared(*more: str) -> tuple[int, dict[str, Any]]:
            """One job for all shards."""
            done = site.cli("task", "verify", "sh-bj", "--wait", "-o", "json", *more, check=False)
            (found,) = json.loads(done.stdout)
            return done.returncode, found

        target.client().set("extra", 1)
        target.client().delete("before")
        wait_until(lambda: sum(sampled("differing")) == 2, 60, "the shards' samplers have found both")
        code, found = compared()
        assert (code, {one["key"] for one in found["differences"]}) == (1, {"extra", "before"})
        code, found = compared("--repair", "--yes", "--by", "echo")
        assert (code, found["repaired"]) == (0, 2), found
        target.client().set("extra", 1)
        refused = site.cli("task", "verify", "sh-bj", "--wait", "--repair", "--yes", "--by", "fetch", check=False)
        assert refused.returncode == 1 and "is a cluster, whose keys come by several links" in refused.stderr
        assert equal(cluster, target) is False
