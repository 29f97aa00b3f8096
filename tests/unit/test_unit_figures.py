"""Stream bytes → units: the figures, offsets, times and words beside the units, each to the digit.

Found missing by changing `sync.unit` at random: dead letters, errors and the watch of a two-way link are told by these.
"""

from __future__ import annotations

from typing import Any

import pytest

from canal.errors import ProtocolError
from canal.resp import encode
from sync.rules import Rules
from sync.unit import UnitReader
from tests.unit.test_unit import BASE, EXEC, MULTI, commands, feed, put, reader, select, tag


class Watch:
    """Remembers what it is told."""

    seen, needs = "seen", "needs"

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, arguments))


def test_received_counts_every_user_command_once() -> None:
    units = reader()
    feed(units, put(b"x") + put(b"y"), put(b"z"), encode([b"OTHER", b"k"]), encode([b"OTHER", b"k"]))
    assert units.counters.received == 5
    feed(units, select(3), encode([b"PING"]), MULTI, put(b"x"), put(b"y"), EXEC)
    assert units.counters.received == 7


def test_bytes_of_another_place_are_refused_with_both_places() -> None:
    units = reader()
    with pytest.raises(ProtocolError, match=rf"^expected the stream to go on at {BASE}, got bytes of 7") as caught:
        units.feed(7, b"", 0)
    assert caught.value.offset == 7


@pytest.mark.parametrize("before", [b"", put(b"x")])
def test_what_is_no_command_is_told_with_its_place_in_the_stream(before: bytes) -> None:
    units = reader()
    with pytest.raises(ProtocolError) as caught:
        feed(units, before + b"*x\r\n")
    assert caught.value.offset is not None
    assert BASE + len(before) <= caught.value.offset <= BASE + len(before) + 4
    text = str(caught.value)
    assert text.startswith("the source's stream: ") and text.count("(at") == 1 and len(text) > 40


def test_a_select_that_names_no_database_is_told_with_its_place() -> None:
    units = reader()
    with pytest.raises(ProtocolError, match=r"^the source's stream: expected SELECT <db>, got \[b'x'\]") as caught:
        feed(units, put(b"x") + encode([b"SELECT", b"x"]))
    assert caught.value.offset == BASE + len(put(b"x"))


def test_an_end_without_a_beginning_is_told_with_its_place() -> None:
    with pytest.raises(ProtocolError, match=r"^the source's stream: expected MULTI before EXEC") as caught:
        feed(reader(), put(b"x") + EXEC)
    assert caught.value.offset == BASE + len(put(b"x")) + len(EXEC)


def test_a_new_reader_has_received_nothing_and_holds_nothing() -> None:
    units = reader()
    assert units.received_ms == 0
    assert units.ahead(b"abc") == (b"abc", 0)
    feed(units, b"")
    assert units.received_ms == 123


def test_ahead_begins_where_a_command_does_and_in_its_database() -> None:
    units = reader(db=2)
    whole = put(b"x")
    feed(units, whole[:5])
    assert units.ahead(whole[5:]) == (whole, 2)
    feed(units, whole[5:], MULTI, select(7))
    assert units.ahead(put(b"y")) == (put(b"y"), 7)
    assert list(units.peek(put(b"y") + select(3) + put(b"z"))) == [(7, [b"SET", b"y", b"v"]), (3, [b"SET", b"z", b"v"])]
    assert list(units.peek(encode([b"PFADD", b"9"]))) == [(7, [b"PFADD", b"9"])]


def test_commands_beyond_the_target_s_databases_are_letters_with_their_own_offsets() -> None:
    units = reader(databases=2)
    first, *rest = feed(units, select(5) + put(b"x") + put(b"y"))
    letters = [letter for unit in (first, *rest) for letter in unit.dead]
    begin, size = BASE + len(select(5)), len(put(b"x"))
    assert [(one.offset, one.db, one.argv[1]) for one in letters] == [
        (begin + size, 5, b"x"),
        (begin + 2 * size, 5, b"y"),
    ]
    assert all("only 2 databases" in one.error for one in letters)
    assert [(unit.end, unit.db, unit.received_ms) for unit in (first, *rest)] == [
        (begin + size, 5, 123),
        (begin + 2 * size, 5, 123),
    ]


def test_a_reserved_name_far_behind_hides_none_before_it() -> None:
    """The walk stops at the first of them, looks for the next one after it, and goes on."""
    units, own = reader(), tag("z")
    out = feed(units, put(b"a") + own + put(b"b") + own + put(b"c"))
    assert [argv[1] for unit in out for _, argv in commands(unit)] == [b"a", b"b", b"c"]
    out = feed(reader(), own + put(b"b"))
    assert [argv[1] for unit in out for _, argv in commands(unit)] == [b"b"]


def test_the_watch_is_told_of_own_runs_and_not_of_tagged_ones() -> None:
    watch = Watch()
    units = reader(watch=watch)
    feed(units, select(4), put(b"x") + put(b"y"))
    end = BASE + len(select(4)) + 2 * len(put(b"x"))
    assert ("local", (4, put(b"x") + put(b"y"), end)) in watch.told
    watch.told.clear()
    feed(units, MULTI, tag("z"), put(b"t"), EXEC)
    assert not [one for one in watch.told if one[0] == "local" and put(b"t") in one[1]]


def test_units_carry_what_the_watch_had_seen_then() -> None:
    units = reader(watch=Watch())
    (unit,) = feed(units, put(b"x"))
    assert (unit.seen, unit.needs) == ("seen", "needs")
    (plain,) = feed(reader(), put(b"x"))
    assert (plain.seen, plain.needs) == ("", "")


def test_what_passes_goes_through_the_rule_for_its_database() -> None:
    told = []

    def passing(db: int, raw: bytes) -> bytes:
        told.append((db, raw))
        return raw.replace(b"x", b"y")

    units = reader(passing=passing)
    (unit,) = feed(units, select(2), put(b"x"))
    assert told == [(2, put(b"x"))]
    assert commands(unit) == [(2, [b"SET", b"y", b"v"])]


def test_runs_of_a_transaction_add_up() -> None:
    units = reader(max_commands=2)
    (unit,) = feed(units, MULTI + b"".join(put(b"%d" % n) for n in range(5)) + EXEC)
    assert (unit.count, unit.atomic, unit.solo, unit.noscript) == (5, True, False, False)
    assert len(commands(unit)) == 5


def test_rules_of_the_reader_are_those_given() -> None:
    rules = Rules("a", frozenset({"b"}), {b"SET": 3}, lambda *_: [])
    told: list[object] = []
    units = UnitReader(BASE, 0, rules, told.append)
    units.feed(BASE, MULTI + tag("b") + put(b"x") + EXEC, 1)
    assert len(told) == 1
