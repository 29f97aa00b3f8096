"""What stream → units does by policy, and what it says of it: flushes, databases beyond the target's, looking ahead."""

from __future__ import annotations

import pytest

from canal.errors import Refused
from canal.resp import encode
from sync.rules import Adjusted, Dropped, Rules
from sync.unit import Unit, UnitReader

BASE = 500
FLUSHES = ([b"FLUSHALL"], [b"flushdb", b"ASYNC"], [b"SWAPDB", b"0", b"1"])


def as_it_is(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
    return Dropped("test") if argv[0] == b"DROPME" else [(db, argv)]


def reader(db: int = 0, *, databases: int = 16, flush: str = "replay") -> UnitReader:
    rules = Rules("a", frozenset({"b"}), {b"SET": 3}, as_it_is, flush=flush, databases=databases)
    return UnitReader(BASE, db, rules)


def stream(*commands: list[bytes]) -> bytes:
    return b"".join(encode(command) for command in commands)


def feed(units: UnitReader, data: bytes) -> list[Unit]:
    return units.feed(units._next, data, 77)


@pytest.mark.parametrize("command", FLUSHES, ids=lambda argv: argv[0].decode())
def test_a_flush_is_left_out_and_counted_where_the_policy_is_drop(command: list[bytes]) -> None:
    units = reader(flush="drop")
    data = stream(command, [b"SET", b"k", b"v"], command)
    (unit,) = feed(units, data)
    assert unit.count == 1 and units.position == BASE + len(data)
    assert units.counters.filtered == {"flush": 2}


@pytest.mark.parametrize("command", FLUSHES, ids=lambda argv: argv[0].decode())
def test_a_flush_stops_the_link_where_the_policy_is_stop(command: list[bytes]) -> None:
    units = reader(flush="stop")
    before = stream([b"SET", b"k", b"v"])
    where = BASE + len(before + encode(command))
    with pytest.raises(Refused, match=rf"did {command[0].upper().decode()} at offset ({BASE + len(before)}|{where});"):
        feed(units, before + encode(command))


def test_reasons_are_added_up_each_by_itself() -> None:
    units = reader()
    feed(units, stream([b"DROPME"], [b"SET", b"k", b"v"], [b"DROPME"]))
    units.counters.filter("other", 3)
    units.counters.filter("other")
    assert units.counters.filtered == {"test": 2, "other": 4}


def test_plain_commands_of_a_database_that_the_target_lacks_are_letters_one_by_one() -> None:
    units = reader(databases=3)
    commands = [[b"SET", b"key%d" % number, b"v" * number] for number in range(3)]
    start = len(stream([b"SELECT", b"9"]))
    ends = [BASE + start + len(stream(*commands[: number + 1])) for number in range(3)]
    found = feed(units, stream([b"SELECT", b"9"], *commands))
    letters = [letter for unit in found for letter in unit.dead]
    assert [(one.offset, one.db, one.argv) for one in letters] == [
        (end, 9, argv) for end, argv in zip(ends, commands, strict=True)
    ]
    assert {one.error for one in letters} == {"the target has only 3 databases"}
    assert [(unit.end, unit.db, unit.pieces, unit.received_ms) for unit in found] == [(end, 9, [], 77) for end in ends]


def test_the_last_database_of_the_target_is_one_of_its_own() -> None:
    for db, letters in ((2, 0), (3, 1)):
        found = feed(reader(databases=3), stream([b"SELECT", b"%d" % db], [b"SET", b"k", b"v"]))
        assert sum(len(unit.dead) for unit in found) == letters


def test_looking_ahead_takes_nothing_and_follows_select() -> None:
    units = reader(db=4)
    first, rest = stream([b"SET", b"a", b"1"])[:9], stream([b"SET", b"a", b"1"])[9:]
    feed(units, first)
    data = rest + stream([b"SELECT", b"7"], [b"SET", b"b", b"2"], [b"SELECT", b"x"], [b"GET", b"12"])
    wanted = [
        *((4, [b"SET", b"a", b"1"]), (7, [b"SET", b"b", b"2"])),
        *((7, [b"SELECT", b"x"]), (7, [b"GET", b"12"])),
    ]
    assert list(units.peek(data)) == wanted
    assert units.ahead(data) == (first + data, 4)
    assert list(units.peek(data)) == wanted, "nothing was taken"
    assert reader().ahead(data)[0] is data, "not copied where nothing waits"


def test_looking_ahead_within_a_transaction_knows_the_database_selected_there() -> None:
    units = reader(db=4)
    feed(units, stream([b"MULTI"], [b"SELECT", b"6"], [b"SET", b"a", b"1"]))
    data = stream([b"SET", b"b", b"2"])
    assert units.ahead(data) == (data, 6)
    assert list(units.peek(data)) == [(6, [b"SET", b"b", b"2"])]
