"""The cluster fixture: real clusters that serve, fail over and move slots; and what the product learns of them."""

from __future__ import annotations

import pytest

from canal.cluster import SLOTS, slot_of, slot_tag
from canal.cluster.discover import discover
from canal.endpoint import parse_url
from tests.support.cluster import Cluster
from tests.support.servers import MAIN_VERSIONS

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("version", MAIN_VERSIONS)
async def test_a_cluster_serves_moves_and_fails_over(version: str) -> None:
    with Cluster.start(masters=3, replicas=1, version=version) as cluster:
        for number in range(100):
            cluster.ask("SET", f"k{number}", number)
        assert cluster.dbsize() == 100
        for shards in (False, True):
            topology = await discover(parse_url(cluster.url), shards=shards)
            assert topology.complete
            assert [one.port for one in topology.masters] == [node.port for node in cluster.nodes[:3]]
            assert [len(shard.replicas) for shard in topology.shards] == [1, 1, 1]
            owner = topology.owners[slot_of(b"k7")]
            assert owner is not None and owner.id == cluster.owner("k7").id
        assert cluster.move_slots([slot_of(b"k7")], to=cluster.owner("k8")) in (0, 1)
        assert cluster.owner("k7") is cluster.owner("k8")
        old = cluster.masters[0]
        new = cluster.takeover(old)
        assert new.port in [one.port for one in (await discover(parse_url(cluster.url))).masters]
        cluster.come_back(old)
        assert old.master_id() == new.id
        with cluster.gathered() as copy:
            assert copy.client().dbsize() == 100
            assert copy.client().get("k7") == b"7"


def test_the_tag_of_each_slot_belongs_to_it() -> None:
    assert [slot_of(b"redis-canal:x:{%b}" % slot_tag(slot)) for slot in range(SLOTS)] == list(range(SLOTS))
