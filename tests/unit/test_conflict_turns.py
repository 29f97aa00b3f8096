"""Who echoes a disputed key, and when: the home at once, others only for a home that is silent and does not know."""

from __future__ import annotations

import pytest

from canal.resp import encode
from sync.conflict import Conflict, Conflicts
from sync.homes import Homes
from sync.tag import Tag

NAMES = ("a", "b", "c")
KEY = (0, b"k")
SILENT_S = 600.0
STALE_S = 30.0


class Told:
    """The `Conflicts` of one datacenter, with a clock of its own."""

    def __init__(self, here: str, home: str, names: tuple[str, ...] = NAMES, *, delay_s: float = 0.0) -> None:
        self.here, self.names, self.now, self.end = here, names, 1000.0, 100
        self.homes = Homes((home,), names)
        self.log: list[Conflict] = []
        there = next(name for name in names if name != here)
        self.found = Conflicts(
            here,
            self.homes,
            delay_s=delay_s,
            there=there,
            clock=lambda: self.now,
            on_conflict=self.log.append,
        )
        self.found.start("", [(here * 40, 0)])

    def own(self, *argv: bytes) -> int:
        """A write of ours; where it ended."""
        self.end += 50
        if argv[0] in (b"SET", b"INCR"):
            self.found.local(0, encode(list(argv)), self.end)
        else:
            self.found.command(0, list(argv), self.end)
        return self.end

    def tagged(self, origin: str, at: int, *argv: bytes, homes: str | None = None, **seen: int) -> None:
        """A transaction of another datacenter, which had seen so much; without a command only its tag."""
        vector = ",".join(f"{name}={name * 16}:{offset}" for name, offset in sorted(seen.items()))
        fields = {b"v": b"1", b"origin": origin.encode(), b"pos": f"{origin * 40}:{at}".encode(), b"at": b"1"}
        fields |= {b"seen": vector.encode(), b"homes": (homes or self.homes.fingerprint).encode()}
        tag = Tag(f"{origin}-{self.here}/0", origin, fields)
        self.end += 200
        self.found.tag(tag, self.end)
        if argv:
            self.found.unit(tag, [(0, encode(list(argv)))], self.end + 50)

    def asked(self, after_s: float = 0.0) -> bool:
        """Is an echo of the key asked for by then?"""
        self.now += after_s
        self.found.progress()
        return self.found.take_asks() == [KEY]

    @property
    def prompted(self) -> bool:
        asked = KEY in self.found.prompts
        self.found.prompts.clear()
        return asked


def test_the_home_echoes_at_once_and_once_more_when_all_have_seen_both_writes() -> None:
    told = Told("a", "a")
    ours = told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    assert told.asked()
    assert not told.asked(1.0), "it is on its way"
    echo = told.own(b"RESTORE", b"k", b"0", b"...", b"REPLACE")
    told.tagged("b", 20, a=echo)
    assert not told.asked(), "the third has not seen it"
    told.tagged("c", 10, a=echo, b=5)
    assert not told.asked(), "nor the write that was in dispute"
    told.tagged("c", 20, a=echo, b=10)
    assert told.asked(), "the third could have taken the loser after the echo"
    echo = told.own(b"RESTORE", b"k", b"0", b"...", b"REPLACE")
    told.tagged("b", 30, a=echo)
    told.tagged("c", 30, a=echo, b=10)
    assert not told.asked(SILENT_S)
    assert not told.found.pending and told.found.figures.settled == 1
    assert [(one.first, one.second, one.winner) for one in told.log] == [(("a", ours), ("b", 10), "a")]


def test_between_two_one_echo_is_enough() -> None:
    told = Told("a", "a", ("a", "b"))
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    assert told.asked()
    told.tagged("b", 20, a=told.own(b"RESTORE", b"k", b"0", b"...", b"REPLACE"))
    assert not told.asked(SILENT_S)
    assert not told.found.pending


def test_a_write_that_had_not_seen_the_echo_has_it_echoed_again() -> None:
    told = Told("a", "a", ("a", "b"))
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    assert told.asked()
    first = told.own(b"RESTORE", b"k", b"0", b"...", b"REPLACE")
    told.tagged("b", 20, b"SET", b"k", b"3")
    assert not told.asked(), "the other has not seen the echo before yet"
    told.tagged("b", 30, a=first)
    assert told.asked()


def test_an_echo_that_never_enters_the_stream_is_asked_for_again() -> None:
    told = Told("a", "a", ("a", "b"))
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    assert told.asked()
    assert not told.asked(STALE_S - 1)
    assert told.asked(2.0)


def test_of_two_links_with_one_source_the_second_waits_for_the_first() -> None:
    told = Told("a", "a", delay_s=1.5)
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    assert not told.asked(1.0)
    assert told.asked(1.0), "the first has not done it"
    told = Told("a", "a", delay_s=1.5)
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    told.own(b"RESTORE", b"k", b"0", b"...", b"REPLACE")
    assert not told.asked(2.0), "the first has"


def test_a_silent_home_is_stood_in_for_by_the_next_in_the_circle() -> None:
    told = Told("c", "b")  # the circle is b, c, a
    told.own(b"SET", b"k", b"1")
    told.tagged("a", 10, b"SET", b"k", b"2")
    assert not told.asked(SILENT_S - 1), "a home that is slow undoes nothing when it comes back"
    assert told.asked(2.0)
    assert told.found.pending[KEY].acting


def test_the_one_after_the_next_stands_in_only_when_both_are_silent() -> None:
    told = Told("a", "b")
    told.own(b"SET", b"k", b"1")
    told.tagged("c", 10, b"SET", b"k", b"2")
    assert not told.asked(SILENT_S - 1)
    told.tagged("c", 20)  # the next one lives: it is for c to do
    assert not told.asked(SILENT_S - 1)
    assert told.asked(2.0)


def test_over_a_home_that_lives_nobody_echoes() -> None:
    told = Told("c", "b")
    ours = told.own(b"SET", b"k", b"1")
    told.tagged("a", 10, b"SET", b"k", b"2")
    for _ in range(10):
        assert not told.asked(SILENT_S / 2)
        told.tagged("b", 10)  # heard of, but it has not seen the dispute
    assert told.found.pending
    told.tagged("b", 20, a=10, c=ours)
    assert not told.asked(SILENT_S), "it saw both writes: its own echo is on its way, or it saw no conflict"
    assert not told.found.pending


def test_a_home_that_has_all_writes_and_says_nothing_is_asked_at_its_server() -> None:
    told = Told("a", "b", ("a", "b"))
    ours = told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    told.asked(1.0)
    assert not told.prompted
    told.tagged("b", 20, a=ours)
    told.asked(0.5)
    assert not told.prompted, "its own echo may be on its way"
    told.asked(1.0)
    assert told.prompted
    told.tagged("b", 30, b"RESTORE", b"k", b"0", b"...", b"REPLACE", a=ours)
    assert not told.found.pending, "it came"
    told.asked(SILENT_S)
    assert not told.prompted


def test_what_cannot_be_echoed_is_waited_for_by_nobody() -> None:
    told = Told("a", "a", ("a", "b"))
    told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    told.found.drop(KEY)
    assert not told.asked(SILENT_S)
    assert told.found.figures.given_up == 1


@pytest.mark.parametrize("names", [("a", "b"), NAMES])
def test_another_policy_is_a_stranger_until_it_says_the_same(names: tuple[str, ...]) -> None:
    told = Told("a", "a", names)
    told.tagged("b", 10, homes="12345678")
    assert told.found.strangers == {"b": "12345678"}
    told.tagged("b", 20)
    assert told.found.strangers == {}


def test_a_conflict_that_is_open_keeps_the_journal() -> None:
    told = Told("a", "a", ("a", "b"))
    ours = told.own(b"SET", b"k", b"1")
    told.tagged("b", 10, b"SET", b"k", b"2")
    later = told.own(b"SET", b"other", b"1")
    told.tagged("b", 20, a=later)
    told.found.progress()
    assert told.found.settled_to == ours - 1
    told.found.drop(KEY)
    told.found.progress()
    assert told.found.settled_to == later
