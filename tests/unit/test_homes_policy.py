"""Homes: the same for everybody who knows the policy, whatever order names come in."""

from __future__ import annotations

import pytest

from canal.errors import ConfigError
from canal.url import parse_url
from sync.homes import FUNCTIONS, Homes, hash_tag, refuse_clusters


def test_both_sides_work_out_the_same_home() -> None:
    one, other = Homes(("hash",), ("a", "b")), Homes((), ("b", "a", "b"))
    keys = [(0, b"key:%d" % n) for n in range(1000)]
    assert [one.home(key) for key in keys] == [other.home(key) for key in keys]
    assert one.fingerprint == other.fingerprint
    assert 400 < sum(one.home(key) == "a" for key in keys) < 600


def test_the_home_of_a_key_never_changes_between_versions() -> None:
    homes = Homes(("hash",), ("a", "b", "c"))
    assert [homes.home((0, b"key:%d" % n)) for n in range(8)] == list("bacccbcb")
    assert homes.home((FUNCTIONS, b"lib")) == homes.home((5, b"lib"))


def test_keys_of_one_hash_tag_have_one_home() -> None:
    homes = Homes(("hash",), ("a", "b", "c"))
    assert len({homes.home((0, b"{user:7}:%d" % n)) for n in range(50)}) == 1
    assert [hash_tag(key) for key in (b"a{b}c{d}", b"{}a", b"a{b", b"a}b{", b"{{a}}")] == [
        b"b",
        b"{}a",
        b"a{b",
        b"a}b{",
        b"{a",
    ]


def test_the_first_pattern_that_fits_names_the_home() -> None:
    homes = Homes(("prefix:user:=a", "user:*=b", "*:order=b", "b"), ("a", "b"))
    assert homes.home((0, b"user:1")) == "a"
    assert homes.home((3, b"x:order")) == "b"
    assert homes.home((0, b"other")) == "b"


def test_who_stands_in_for_a_home_is_the_next_in_a_circle() -> None:
    homes = Homes(("b",), ("c", "a", "b"))
    assert homes.ranking((0, b"any")) == ("b", "c", "a")
    assert Homes(("c",), ("c", "a", "b")).ranking((0, b"any")) == ("c", "a", "b")


def test_other_policies_and_other_datacenters_have_other_fingerprints() -> None:
    policies = [
        Homes(("hash",), ("a", "b")),
        Homes(("hash",), ("a", "b", "c")),
        Homes(("a",), ("a", "b")),
        Homes(("x*=a",), ("a", "b")),
        Homes(("x*=b",), ("a", "b")),
        Homes(("prefix:x=a",), ("a", "b")),
    ]
    assert len({policy.fingerprint for policy in policies}) == len(policies)


@pytest.mark.parametrize("words", [("paris",), ("user:*=paris",), ("a", "b"), ("regex:(=a",), ("",)])
def test_words_that_name_nothing_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Homes(words, ("a", "b"))


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cluster_is_linked_two_ways_with_one_datacenter_alone(side: str) -> None:
    """It has several streams, and a third datacenter would have to compare positions of all of them."""
    urls = {"source": "redis://a:1", "target": "redis+sentinel://b:2/main", side: "redis+cluster://c:3,d:4"}
    source, target = parse_url(urls["source"]), parse_url(urls["target"])
    refuse_clusters(source, target)
    with pytest.raises(ConfigError, match=f"{side} .* is a Redis Cluster: .* x is named besides"):
        refuse_clusters(source, target, direct=("x",))
    with pytest.raises(ConfigError, match="y is named besides"):
        refuse_clusters(source, target, others=("y",))
    with pytest.raises(ConfigError, match="FLUSHALL of one master"):
        refuse_clusters(source, target, flush="replay")


def test_clusters_are_linked_two_ways_without_conflicts_where_somebody_says_so() -> None:
    cluster, single = parse_url("redis+cluster://a:1"), parse_url("redis://b:1")
    refuse_clusters(cluster, cluster, "off", ("a",))
    refuse_clusters(cluster, single, "off", ("user:*=b", "a"), (), "drop")
    refuse_clusters(cluster, cluster)
    with pytest.raises(ConfigError, match="hash says nothing"):
        refuse_clusters(cluster, cluster, "off")
    with pytest.raises(ConfigError, match="hash says nothing"):
        refuse_clusters(single, single, "off", ("user:*=b", "hash"))
    with pytest.raises(ConfigError, match="one other datacenter"):
        refuse_clusters(cluster, cluster, "off", ("a",), ("c",))
    with pytest.raises(ConfigError, match="two datacenters"):
        refuse_clusters(single, single, "off", ("a",), ("c",))
    with pytest.raises(ConfigError, match="FLUSHALL"):
        refuse_clusters(cluster, single, "off", ("a",), (), "replay")
