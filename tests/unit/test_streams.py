"""Two ways with clusters: a datacenter of several streams, and what is seen of each."""

from __future__ import annotations

from canal.cluster import SLOTS, slot_of
from canal.resp import encode
from sync.conflict import Conflicts
from sync.homes import Homes
from sync.streams import Streams, datacenter_of, stream_name, writer_of
from sync.tag import Tag

A, B, C = "a" * 40, "b" * 40, "c" * 40
LOW, HIGH = b"k0", b"k1"  # in the lower and the upper half of the slots
HALVES = (f"0-{SLOTS // 2 - 1}".encode(), f"{SLOTS // 2}-{SLOTS - 1}".encode())


def setup_module() -> None:
    global LOW, HIGH
    names = [b"k%d" % number for number in range(100)]
    LOW = next(name for name in names if slot_of(name) < SLOTS // 2)
    HIGH = next(name for name in names if slot_of(name) >= SLOTS // 2)


def test_names() -> None:
    assert (stream_name("b", "0"), stream_name("b", "f00d")) == ("b", "b/f00d")
    assert datacenter_of("b/f00d") == datacenter_of("b") == "b"
    assert writer_of("b-a/0") == ("0", "link")
    assert writer_of("b-a/f00d:tag:{x}") == ("f00d", "node")
    assert writer_of("b-a/f00d:{x}") == ("f00d", "slot")


def test_the_last_who_says_that_it_has_a_slot_has_it() -> None:
    streams = Streams()
    assert streams.of("b", (0, LOW)) == "b" and streams.all("b", None) == ["b"]
    streams.told("b", "b/1", HALVES[0])
    assert streams.of("b", (0, LOW)) == "b/1" and streams.of("b", (0, HIGH)) == ""
    assert streams.all("b", None) == ["", "b/1"] and streams.all("b", frozenset({0, 1})) == ["b/1"]
    streams.told("b", "b/2", HALVES[1])
    assert streams.all("b", None) == ["b/1", "b/2"]
    streams.told("b", "b/2", b"0-16383")
    assert streams.all("b", None) == ["b/2"]
    streams.told("b", "b/1", HALVES[0])
    assert streams.all("b", None) == ["b/1", "b/2"] and streams.of("b", (0, LOW)) == "b/1"
    streams.told("b", "b/2", b"what")
    assert streams.of("b", (0, HIGH)) == "b/2"


def _shard() -> Conflicts:
    """One of cluster a that has all slots, with two keys written at 100 and 200."""
    found = Conflicts("a", Homes(("a",), ("a", "b")), shard="f00d", slots=lambda: frozenset(range(SLOTS)))
    found.start("", [(A, 0)])
    for key, end in ((LOW, 100), (HIGH, 200)):
        found.local(0, encode([b"SET", key, b"v"]), end)
    return found


def _tag(shard: str, replid: str, pos: int, seen: int, slots: bytes = b"", scope: str = ":tag:{x}") -> Tag:
    fields = {b"pos": b"%b:%d" % (replid.encode(), pos), b"seen": b"a/f00d=%b:%d" % (A[:16].encode(), seen)}
    if slots:
        fields[b"slots"] = slots
    return Tag(f"b-a/{shard}{scope}", "b", fields)


def _arrives(found: Conflicts, tag: Tag, key: bytes, end: int) -> None:
    found.tag(tag, end)
    found.unit(tag, [(0, encode([b"APPEND", key, b"w"]))], end)


def test_each_shard_speaks_of_what_it_has_seen_itself() -> None:
    found = _shard()
    _arrives(found, _tag("1", B, 10, 100, HALVES[0]), LOW, 300)
    _arrives(found, _tag("2", C, 10, 150, HALVES[1]), HIGH, 400)
    assert list(found.pending) == [(0, HIGH)], "the first had seen the write of its key, the second had not"
    assert found.oldest_seen == 100
    assert found.seen == f"b/1={B[:16]}:10,b/2={C[:16]}:10"


def test_what_another_shard_of_ours_was_seen_to_have_written_says_nothing() -> None:
    found = _shard()
    tag = Tag("b-a/1:tag:{x}", "b", {b"pos": b"%b:10" % B.encode(), b"seen": b"a/cafe=%b:900" % A[:16].encode()})
    _arrives(found, tag, LOW, 300)
    assert list(found.pending) == [(0, LOW)]


def test_the_tag_of_a_slot_or_of_people_does_not_say_what_the_node_has() -> None:
    found = _shard()
    found.tag(_tag("1", B, 50, 100, HALVES[0]), 300)
    found.tag(_tag("1", B, 80, 100, scope=":{x}"), 310)
    found.tag(_tag("1", B, 90, 100, scope=""), 320)
    found.tag(_tag("1", B, 40, 100), 330)  # a link that has begun again skips what is there
    assert found.seen == f"b/1={B[:16]}:50"


def test_a_snapshot_is_not_seen_before_its_end() -> None:
    found = _shard()
    tag = _tag("1", B, 50, 100, HALVES[0])
    tag.fields[b"phase"] = b"snapshot"
    found.tag(tag, 300)
    assert found.seen == ""


def test_an_echo_is_settled_when_the_shard_with_its_key_has_it() -> None:
    found = _shard()
    found.tag(_tag("2", C, 10, 150, HALVES[1]), 290)
    _arrives(found, _tag("1", B, 10, 50, HALVES[0]), LOW, 300)
    found.progress()
    assert found.take_asks() == [(0, LOW)]
    found.command(0, [b"RESTORE", LOW, b"0", b"", b"REPLACE"], 400)
    found.tag(_tag("2", C, 20, 500), 450)
    found.progress()
    assert list(found.pending) == [(0, LOW)], "the shard that has the key has not said that it has the echo"
    found.tag(_tag("1", B, 20, 400), 460)
    found.progress()
    assert not found.pending
