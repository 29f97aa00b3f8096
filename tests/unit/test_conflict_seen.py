"""What a datacenter has seen is told by its tags, and a tag that says nothing of it takes nothing back."""

from __future__ import annotations

from canal.resp import encode
from sync.conflict import Conflicts
from sync.homes import Homes
from sync.tag import Tag

HERE = "a" * 40
THERE = "b" * 40


def _tag(position: int, seen: int | None) -> Tag:
    fields = {b"v": b"1", b"origin": b"b", b"pos": f"{THERE}:{position}".encode(), b"at": b"1"}
    if seen is not None:
        fields[b"seen"] = f"a={HERE[:16]}:{seen}".encode()
    return Tag("b-a/0", "b", fields)


def _conflicts(*tags: Tag) -> Conflicts:
    found = Conflicts("a", Homes(("hash",), ("a", "b")), floor=100)
    found.start("", [(HERE, 0)])
    found.local(0, encode([b"SET", b"mine", b"1"]), 150)
    end = 200
    for tag in tags:
        found.tag(tag, end)
        found.unit(tag, [(0, encode([b"SET", b"mine", b"2"]))], end + 50)
        end += 100
    return found


def test_a_write_that_had_not_seen_ours_is_in_conflict_with_it() -> None:
    assert _conflicts(_tag(10, 140)).figures.conflicts == 1


def test_a_write_that_had_seen_ours_is_in_conflict_with_nothing() -> None:
    assert _conflicts(_tag(10, 150)).figures.conflicts == 0


def test_a_tag_that_does_not_say_what_was_seen_means_no_less_than_the_one_before() -> None:
    assert _conflicts(_tag(10, 160), _tag(20, None)).figures.conflicts == 0
    assert _conflicts(_tag(10, 140), _tag(20, None)).figures.conflicts == 2


def test_our_own_keys_of_the_link_are_in_dispute_with_nobody() -> None:
    found = Conflicts("a", Homes(("hash",), ("a", "b")), floor=100)
    found.start("", [(HERE, 0)])
    tag = _tag(10, None)
    found.tag(tag, 200)
    found.unit(tag, [(0, encode([b"SADD", b"redis-canal:links", b"x"]))], 250)
    assert found.figures.conflicts == 0
