"""An expiry's DEL is in dispute only with what was built on the value that expired."""

from __future__ import annotations

import pytest

from canal.resp import encode
from sync.conflict import Conflicts
from sync.homes import Homes
from sync.lapsed import Lapsed
from sync.tag import Tag
from sync.window import places_written

HERE, THERE = "a" * 40, "b" * 40


def _conflicts(command: list[bytes], *, expired: bool = True, seen: int = 140) -> int:
    found = Conflicts("a", Homes(("hash",), ("a", "b")))
    found.start("", [(HERE, 0)])
    found.expired = lambda place, end: expired
    found.command(0, [b"DEL", b"k"], 150)
    fields = {b"v": b"1", b"origin": b"b", b"pos": f"{THERE}:10".encode(), b"at": b"1"}
    tag = Tag("b-a/0", "b", {**fields, b"seen": f"a={HERE[:16]}:{seen}".encode()})
    found.tag(tag, 200)
    found.unit(tag, [(0, encode([b"SET", b"other", b"1"]) + encode(command))], 250)
    return found.figures.conflicts


@pytest.mark.parametrize(
    "command",
    [
        [b"SET", b"k", b"v", b"PXAT", b"99"],
        [b"RESTORE", b"k", b"0", b"...", b"REPLACE"],
        [b"DEL", b"k"],
        [b"INCR", b"another"],
    ],
)
def test_a_whole_value_that_was_written_elsewhere_stands_on_both_sides(command: list[bytes]) -> None:
    assert _conflicts(command) == 0


@pytest.mark.parametrize(
    "command",
    [[b"INCR", b"k"], [b"SET", b"k", b"v", b"KEEPTTL"], [b"HSET", b"k", b"f", b"v"], [b"PEXPIREAT", b"k", b"99"]],
)
def test_what_was_built_on_the_expired_value_is_in_conflict(command: list[bytes]) -> None:
    assert _conflicts(command) == 1
    assert _conflicts(command, seen=150) == 0


def test_a_delete_that_somebody_meant_is_a_write_like_others() -> None:
    assert _conflicts([b"SET", b"k", b"v"], expired=False) == 1


def test_only_the_first_write_after_the_end_meets_it() -> None:
    lapsed = Lapsed()
    assert lapsed.add((0, b"k"), 10)
    raw = encode([b"SET", b"k", b"v"]) + encode([b"INCR", b"k"])
    assert list(lapsed.met(0, raw, 5, places_written)) == []
    assert len(lapsed) == 0


def test_what_everybody_has_seen_is_forgotten() -> None:
    lapsed = Lapsed()
    lapsed.add((0, b"one"), 10)
    lapsed.add((1, b"two"), 20)
    lapsed.expire(10)
    assert len(lapsed) == 1
    assert list(lapsed.met(1, encode([b"INCR", b"two"]), 5, places_written)) == [((1, b"two"), 20)]


def test_what_is_read_again_stood_for_an_expiry_though_everybody_has_seen_it() -> None:
    """Reading begins at the boundary that was saved last, which is before what everybody has seen."""
    lapsed = Lapsed()
    lapsed.add((0, b"k"), 10)
    lapsed.expire(15)
    assert len(lapsed) == 0 and lapsed.was(10)
    lapsed.forget_before(9)
    assert lapsed.was(10)
    lapsed.forget_before(10)
    assert not lapsed.was(10)
