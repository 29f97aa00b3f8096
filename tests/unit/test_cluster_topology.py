"""Slots of keys and the shapes of CLUSTER SLOTS and CLUSTER SHARDS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from canal.cluster import SLOTS, Member, Shard, Topology, parse_shards, parse_slots, slot_of, slot_tag
from canal.errors import NotRedis

ID1, ID2, ID3 = b"a" * 40, b"b" * 40, b"c" * 40


@given(st.binary(max_size=30) | st.text("{}ab", max_size=8).map(str.encode))
def test_slots_are_those_of_an_independent_implementation(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_known_slots_and_tags() -> None:
    assert slot_of(b"123456789") == 0x31C3  # the specification's own example
    assert slot_of(b"foo{}{bar}") == key_slot(b"foo{}{bar}")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    # names at targets are made of these: they must never change
    assert [slot_tag(slot) for slot in (0, 1, 8000, 16383)] == [b"1bz", b"emj", b"42", b"hia"]
    assert max(len(slot_tag(slot)) for slot in range(SLOTS)) <= 4


def test_cluster_slots() -> None:
    reply = [
        [5461, 10922, [b"10.0.0.2", 7001, ID2, [b"hostname", b"two.example"]]],
        [0, 99, [b"", 7000, ID1], [b"10.0.0.3", 7003, ID3]],
        [100, 5460, [None, 7000, ID1], [b"10.0.0.3", 7003, ID3]],
    ]
    topology = parse_slots(reply, "seed")
    assert [shard.slots for shard in topology.shards] == [((0, 5460),), ((5461, 10922),)]
    assert [one.address for one in topology.masters] == ["seed:7000", "10.0.0.2:7001"]
    assert topology.masters[1].names == ("two.example",)
    assert [one.address for one in topology.shards[0].members] == ["seed:7000", "10.0.0.3:7003"]
    assert topology.owners[6000] is topology.masters[1]
    assert topology.owners[16383] is None and not topology.complete
    assert topology.shard_of("c" * 40) is topology.shards[0]


def test_a_node_without_a_host_name_is_reached_by_its_ip() -> None:
    """What Redis 7.0 answers with ``cluster-preferred-endpoint-type hostname`` where one node has announced none."""
    reply = [
        [0, 8191, [b"one.example", 6379, ID1, [b"ip", b"10.0.0.1"]]],
        [8192, 16000, [b"?", 6379, ID2, [b"ip", b"10.0.0.2"]]],
        [16001, 16383, [b"?", 7000, ID3, [b"ip", b""]]],
    ]
    topology = parse_slots(reply, "seed")
    assert [one.host for one in topology.masters] == ["one.example", "10.0.0.2", "seed"]
    shards = [[b"slots", [0, 16383], b"nodes", [node(ID2, b"master", endpoint=b"?")]]]
    assert parse_shards(shards, "seed").masters[0].host == "10.0.0.1"


def test_whom_redirections_mean() -> None:
    half = SLOTS // 2
    one, two = (
        Member(id_.decode(), f"10.0.0.{number}", 6379, (f"n{number}.example",))
        for number, id_ in enumerate((ID1, ID2), 1)
    )
    three = Member(ID3.decode(), "10.0.0.3", 7000)
    topology = Topology(
        (Shard(one, (), ((0, half - 1),)), Shard(two, (), ((half, 16000),)), Shard(three, (), ((16001, SLOTS - 1),)))
    )
    for text, meant in [
        ("MOVED 9000 10.0.0.2:6379", two),
        ("ASK 9000 n2.example:6379", two),
        ("ASK 1 ?:7000", three),
        ("MOVED 1 :7000", three),
        ("MOVED 9000 other.example:6379", None),
        ("MOVED 9000 10.0.0.2:6380", None),
        ("MOVED 9000 ?:6379", None),
    ]:
        assert topology.redirected(text) is meant, text
    assert topology.redirected("MOVED 9000 ?:6379", fresh=True) is two
    assert topology.redirected("ASK 9000 ?:6379", fresh=True) is None, "an importing node is not the slot's owner"


def node(id_: bytes, role: bytes, port: int = 7000, health: bytes = b"online", **more: bytes) -> list[object]:
    fields = {b"id": id_, b"port": port, b"ip": b"10.0.0.1", b"endpoint": b"10.0.0.1", b"role": role, b"health": health}
    fields |= {name.encode(): value for name, value in more.items()}
    return [part for pair in fields.items() for part in pair]


def test_cluster_shards() -> None:
    reply = [
        [b"slots", [], b"nodes", [node(ID3, b"master", 7002)]],
        [b"slots", [0, 10, 20, 30], b"nodes", [node(ID2, b"replica", 7001), node(ID1, b"master")], b"id", b"s1"],
        [b"slots", [31, 40], b"nodes", [node(ID1, b"master", health=b"fail", hostname=b"one.example")]],
    ]
    topology = parse_shards(reply, "seed")
    assert [shard.slots for shard in topology.shards] == [((0, 10), (20, 30)), ((31, 40),), ()]
    assert [shard.master is None for shard in topology.shards] == [False, True, False]
    assert topology.shards[0].id == "s1" and topology.shards[0].slot_count == 22
    assert [one.id[0] for one in topology.masters] == ["a"]


@pytest.mark.parametrize("reply", [None, 5, b"x", [1], [[0, 1]], [[b"a", b"b", [b"h", 1]]], [[0, 1, []]]])
def test_what_is_no_topology_is_said_so(reply: object) -> None:
    with pytest.raises(NotRedis, match="expected the reply of CLUSTER SLOTS"):
        parse_slots(reply, "seed")
    with pytest.raises(NotRedis, match="expected the reply of CLUSTER SHARDS"):
        parse_shards([reply], "seed")
