"""What a datacenter has seen is told by its tags, and a tag that says nothing of it takes nothing back."""

from __future__ import annotations

from canal.resp import encode
from sync.conflict import Conflicts
from sync.homes import Homes, Place
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


def test_after_a_first_contact_only_what_its_snapshot_had_counts_as_written() -> None:
    """Each key that anybody wrote in a new mesh's first second was in dispute, and echoed over what came after."""
    found = Conflicts("a", Homes(("hash",), ("a", "b")), floor=100)
    doubted: list[Place] = []
    found.had, found.had_to, found.doubted = {(0, b"there")}, 100, doubted.append
    found.start("", [(HERE, 0)])

    def written(position: int, *keys: bytes) -> None:
        tag = _tag(position, 50)
        found.tag(tag, 100 + position)
        found.unit(tag, [(0, encode([b"SET", key, b"2"])) for key in keys], 110 + position)

    written(10, b"there", b"absent")
    assert list(found.pending) == [(0, b"there")]
    assert doubted == [(0, b"absent")], "it may have been deleted just before: to be compared"
    found.local_window.all_written(150)  # FLUSHALL, or the bound of the window
    written(20, b"absent")
    assert (0, b"absent") in found.pending


def test_keys_of_a_first_contact_are_forgotten_when_all_have_seen_it() -> None:
    found = Conflicts("a", Homes(("hash",), ("a", "b")), floor=100)
    found.had, found.had_to = set(), 100
    found.start("", [(HERE, 0)])
    for seen, known in ((99, True), (100, False)):
        found.tag(_tag(seen, seen), 100 + seen)
        found.progress()
        assert (found.had is not None) is known
