"""A Redis Cluster as target: snapshot and stream of every type, cross-slot commands, moved slots, failover, crashes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from canal.cluster import slot_of
from canal.errors import ConfigError
from sync.placing import TransformOptions
from tests.support.cluster import MOVED_MS, Cluster
from tests.support.compare import assert_equal, differences
from tests.support.links import Link, LinkProcess
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.workload import Workload

pytestmark = pytest.mark.servers


def rounds(short: int, whole: int) -> int:
    """REDIS_CANAL_FULL=1 asks for the whole number."""
    return whole if os.environ.get("REDIS_CANAL_FULL") else short


def position(cluster: Cluster) -> bytes:
    """The newest that any node's tag says."""
    found = [node.control.keys("redis-canal:checkpoint:test/0:tag:*") for node in cluster.nodes]
    pairs = zip(cluster.nodes, found, strict=True)
    told = [node.control.hget(name, "pos") or b"" for node, names in pairs for name in names]
    return max(told, key=lambda text: int(text.rpartition(b":")[2] or 0), default=b"")


def same(source: Server, cluster: Cluster) -> bool:
    with cluster.gathered() as copy:
        return not differences(source, copy, ttl_tolerance_ms=2, limit=1)


def assert_same(source: Server, cluster: Cluster, tolerance_ms: int = 2) -> None:
    with cluster.gathered() as copy:
        assert_equal(source, copy, ttl_tolerance_ms=tolerance_ms)


def test_a_snapshot_and_a_stream_of_every_type(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start() as cluster:
        with Workload(source, databases=(0,)) as load:
            load.wait(2000)
            with Link(source, cluster, tmp_path) as link:
                link.streaming()
                load.wait(3000)
                load.stop()
                link.in_step(source)
                assert link.status.dead_letters == 0
        assert_same(source, cluster)


def test_the_daemon_is_killed_again_and_again(tmp_path: Path) -> None:
    """INCR, APPEND, LPUSH, XADD: one applied twice or not at all shows for good."""
    with (
        Server.start() as source,
        Cluster.start() as cluster,
        Workload(source, databases=(0,), rate=1000) as load,
        LinkProcess(source, cluster, tmp_path) as link,
    ):
        for _ in range(rounds(4, 30)):
            before = position(cluster)
            load.wait(500)
            wait_until(lambda known=before: position(cluster) != known, 60, "the link has written")
            link.kill()
            link.start()
        load.stop()
        wait_until(lambda: same(source, cluster), 60, "the cluster holds what the source holds", every=0.5)
        assert link.terminate() == 0


def test_slots_move_while_writes_go_on(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start() as cluster:
        first, second, _ = cluster.masters
        with Workload(source, databases=(0,), rate=2000) as load, Link(source, cluster, tmp_path) as link:
            link.streaming()
            load.wait(2000)
            hot = sorted({slot_of(key) for key in source.client().keys("*")})
            for slot in hot[: rounds(15, 200)]:
                cluster.move_slots([slot], to=first if slot not in first.serves() else second)
            load.wait(1000)
            cluster.move_slots(range(rounds(50, 1000)), to=second)
            load.stop()
            link.in_step(source)
            assert link.status.target_slots_moved > 0
            assert link.status.dead_letters == 0 and link.status.full_resyncs == 1
        assert_same(source, cluster, MOVED_MS)


def test_a_slot_that_stays_between_two_masters(tmp_path: Path) -> None:
    """New keys get ASK, old ones do not, several at once TRYAGAIN: all goes on, and is right when the move ends."""
    with Server.start() as source, Cluster.start(2) as cluster:
        client = source.client()
        with Link(source, cluster, tmp_path, two_way=True, conflicts="off", home=("source",)) as link:
            link.streaming()
            client.mset({"{t}old": 1, "{t}gone": 1, "elsewhere": 1})
            for px in (1500, 6000, 24_000):  # longer where the machine is too slow for it
                client.set("{t}dies", "v", px=px)
                client.set("{t}lives", "v", px=px)
                link.in_step(source)
                if cluster.ask("PERSIST", "{t}lives") == 1:
                    break
            slot = slot_of(b"t")
            giver = cluster.owner("{t}")
            taker = next(node for node in cluster.masters if node is not giver)
            taker.do("CLUSTER", "SETSLOT", slot, "IMPORTING", giver.id)
            giver.do("CLUSTER", "SETSLOT", slot, "MIGRATING", taker.id)
            giver.do("MIGRATE", "127.0.0.1", taker.port, "", 0, 60000, "KEYS", "{t}gone", "{t}dies", "{t}lives")
            client.incr("{t}gone")
            client.incr("{t}old")
            client.rpush("{t}new", "a", "b")
            client.incr("elsewhere")
            client.mset({"{t}old": 5, "{t}gone": 7})
            wait_until(lambda: not client.exists("{t}dies", "{t}lives"), 60, "the short ones to expire")
            client.incr("{t}gone")
            wait_until(lambda: cluster.ask("GET", "elsewhere") == b"2", 30, "other slots go on")
            cluster.move_slots([slot], taker)
            link.in_step(source)
            assert link.status.dead_letters == 0 and link.status.target_slots_moved >= 1
            assert [cluster.ask("GET", key) for key in ("{t}old", "{t}gone", "{t}dies")] == [b"5", b"8", None]
            assert cluster.ask("LRANGE", "{t}new", 0, -1) == [b"a", b"b"]
            assert cluster.ask("GET", "{t}lives") == b"v", "what has no deadline there is nobody's expired copy"
            link.until(lambda: link.status.echoes >= 1, 30, "the key that was kept is echoed")


def test_a_master_of_the_target_fails(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start(replicas=1) as cluster:
        with Workload(source, databases=(0,), rate=1000) as load, Link(source, cluster, tmp_path) as link:
            link.streaming()
            for number in range(rounds(1, 5)):
                load.wait(1000)
                old = cluster.masters[number % 3]
                cluster.takeover(old)
                link.more("batches")
                cluster.come_back(old)
            load.stop()
            link.in_step(source)
            assert link.status.full_resyncs == 1
        assert_same(source, cluster)


def test_commands_over_several_slots(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start() as cluster, Link(source, cluster, tmp_path) as link:
        link.streaming()
        client = source.client()
        client.mset({f"m{n}": n for n in range(50)})
        client.delete(*(f"m{n}" for n in range(20)))
        client.unlink("m20", "m21")
        client.rpush("list", "a", "b", "c")
        client.sadd("set:1", "x", "y")
        client.sadd("set:2", "y", "z")
        client.set("bits", "abc")
        client.zadd("z1", {"a": 1.5})
        link.in_step(source)
        client.rename("m22", "renamed")
        client.rpoplpush("list", "list2")
        client.smove("set:1", "set:2", "x")
        client.sunionstore("set:3", "set:1", "set:2")
        client.bitop("NOT", "bits2", "bits")
        client.copy("list", "list3")
        client.zunionstore("z2", ["z1"])
        client.rpush("list3", "after")
        client.msetnx({"n1": 1, "n2": 2})
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("t1").incr("t2").rpush("t3", "v").expire("t3", 1000)
            pipe.execute()
        link.in_step(source)
        link.until(lambda: link.status.refetch_keys == 0, what="all keys are fetched")
        assert link.status.transactions_split >= 1
        assert link.status.cross_slot >= 3
        assert link.status.dead_letters == 0
        assert_same(source, cluster)
        client.flushall()
        client.set("after", "flush")
        link.in_step(source)
        assert_same(source, cluster)
        assert link.status.full_resyncs == 1


def test_a_full_resync_converges(tmp_path: Path) -> None:
    """What the source no longer has goes from every node; big values are made in their slot."""
    with Server.start() as source, Cluster.start() as cluster:
        client = source.client()
        client.mset({f"k{n}": n for n in range(2000)})
        client.rpush("big", *(f"{n:0500}" for n in range(3000)))
        with Link(source, cluster, tmp_path / "a", snapshot_big_key_bytes=100_000) as link:
            link.streaming()
        assert_same(source, cluster)
        client.delete(*(f"k{n}" for n in range(300)))
        client.incr("k500")
        cluster.ask("SET", "stranger", "of the target")
        with Link(source, cluster, tmp_path / "b", snapshot_mode="always", snapshot_stale_keys="delete") as link:
            link.streaming()
            client.incr("k501")
            link.in_step(source)
        assert_same(source, cluster)


def test_other_databases_are_refused_before_the_start(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start() as cluster:
        source.client(db=3).set("k", "v")
        with Link(source, cluster, tmp_path / "a") as link:
            error = link.failed()
            assert isinstance(error, ConfigError)
            assert "database 3" in str(error) and "--db-map 3:0" in str(error)
        assert cluster.dbsize() == 0
        with Link(
            source, cluster, tmp_path / "b", transform=TransformOptions(db_map={3: 0}, exclude_databases=frozenset({0}))
        ) as link:
            link.streaming()
            source.client(db=3).incr("n")
            link.in_step(source)
        assert cluster.ask("GET", "k") == b"v"
        assert cluster.ask("GET", "n") == b"1"


def test_a_node_of_a_cluster_is_no_target_by_itself(tmp_path: Path) -> None:
    with Server.start() as source, Cluster.start() as cluster, Link(source, cluster.nodes[0], tmp_path) as link:
        assert "redis+cluster://" in str(link.failed())
