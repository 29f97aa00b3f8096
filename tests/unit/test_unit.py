"""Stream bytes → units: what belongs together, where the checkpoint may stand, what tags do to a transaction."""

from __future__ import annotations

import pytest

from canal.errors import ProtocolError
from canal.position import Position
from canal.resp import encode, parse
from sync.rules import Adjusted, Dropped, Impossible, Rules
from sync.tag import Tagger, checkpoint_key
from sync.unit import Circulation, Unit, UnitReader

PING = encode([b"PING"])
MULTI, EXEC = encode([b"MULTI"]), encode([b"EXEC"])
BASE = 1000


def select(db: int) -> bytes:
    return encode([b"SELECT", b"%d" % db])


def put(key: bytes) -> bytes:
    return encode([b"SET", key, b"v"])


def tag(origin: str, task: str = "b-a", replid: str = "f" * 40) -> bytes:
    return encode(Tagger(checkpoint_key(task, "0"), "uid", origin, None).make(Position(replid, 5), 0))


def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
    """Stands for the rules of a link: one command is dropped, one cannot be carried, one becomes two."""
    name = argv[0].upper()
    if name == b"DROPME":
        return Dropped("test")
    if name == b"CANNOT":
        return Impossible("because")
    if name == b"TWICE":
        return [(db, [b"SET", b"one", b"1"]), (db + 1, [b"SET", b"two", b"%d" % received_ms])]
    return [(db, argv)]


def reader(db: int = 0, **changes: object) -> UnitReader:
    rules = Rules("a", frozenset({"b"}), {b"SET": 3, b"INCR": 0}, adjust, noscript=frozenset({b"EVAL"}))
    for name, value in changes.items():
        setattr(rules, name, value)
    return UnitReader(BASE, db, rules)


def commands(unit: Unit) -> list[tuple[int, list[bytes]]]:
    """(database, command) of a unit."""
    out = []
    for piece in unit.pieces:
        at = count = 0
        while at < len(piece.raw):
            found = parse(piece.raw, at, len(piece.raw))
            assert found is not None
            out.append((piece.db, found[0]))
            at, count = found[1], count + 1
        assert count == piece.commands
    return out


def feed(units: UnitReader, *data: bytes) -> list[Unit]:
    out = []
    for each in data:
        out += units.feed(units._next, each, 123)
    return out


def test_plain_commands_are_one_run_with_their_bytes() -> None:
    units = reader()
    (unit,) = feed(units, put(b"x") + put(b"y"))
    assert unit.pieces[0].raw == put(b"x") + put(b"y")
    assert (unit.count, unit.atomic, unit.end, unit.received_ms) == (2, False, BASE + 2 * len(put(b"x")), 123)
    assert units.position == unit.end


def test_select_is_consumed_and_remembered() -> None:
    units = reader(db=4)
    first, second = feed(units, put(b"x") + select(7) + put(b"y"))
    assert (first.pieces[0].db, first.db) == (4, 4)
    assert (second.pieces[0].db, second.db) == (7, 7)
    assert units.db == 7


def test_pings_move_the_position_and_make_no_unit() -> None:
    units = reader()
    assert feed(units, PING * 3 + encode([b"REPLCONF", b"GETACK", b"*"])) == []
    assert units.position == BASE + 3 * len(PING) + len(encode([b"REPLCONF", b"GETACK", b"*"]))
    assert units.counters.received == 0


def test_a_transaction_is_one_unit_and_the_position_stays_before_it() -> None:
    units = reader()
    assert feed(units, MULTI + put(b"x"), put(b"y")) == []
    assert units.position == BASE
    (unit,) = feed(units, EXEC)
    assert unit.atomic
    assert [argv[1] for _, argv in commands(unit)] == [b"x", b"y"]
    assert units.position == unit.end == units._next


def test_select_within_a_transaction_holds_after_it() -> None:
    units = reader()
    (unit, after) = feed(units, MULTI + put(b"x") + select(3) + put(b"y") + EXEC + put(b"z"))
    assert [db for db, _ in commands(unit)] == [0, 3]
    assert (unit.db, after.pieces[0].db, units.db) == (3, 3, 3)


def test_an_empty_transaction_makes_no_unit() -> None:
    units = reader()
    assert feed(units, MULTI + PING + EXEC) == []
    assert units.position == units._next


def test_every_cut_gives_the_same_commands_and_positions() -> None:
    stream = put(b"x") + select(2) + MULTI + put(b"y") + PING + put(b"z") + EXEC + PING + put(b"q" * 50)
    whole = reader()
    expected = [(unit.end, unit.db, unit.atomic, commands(unit)) for unit in feed(whole, stream)]
    for cut in range(len(stream)):
        units = reader()
        found = feed(units, stream[:cut])
        assert units.position <= BASE + cut
        found += feed(units, stream[cut:])
        assert [(unit.end, unit.db, unit.atomic, commands(unit)) for unit in found] == expected
        assert (units.position, units.db) == (whole.position, whole.db)


def test_bytes_that_do_not_follow_are_refused() -> None:
    units = reader()
    with pytest.raises(ProtocolError, match="1000"):
        units.feed(BASE + 1, PING, 0)


def test_garbage_is_a_protocol_error_with_its_stream_offset() -> None:
    units = reader()
    with pytest.raises(ProtocolError) as caught:
        feed(units, put(b"x") + b"garbage\r\n")
    assert caught.value.offset == BASE + len(put(b"x"))


@pytest.mark.parametrize("bad", [EXEC, encode([b"SELECT", b"x"]), encode([b"SELECT"])])
def test_what_cannot_stand_in_a_stream_is_a_protocol_error(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(reader(), bad)


# --- adjusted commands


def test_dropped_commands_are_counted_and_passed() -> None:
    units = reader()
    assert feed(units, encode([b"DROPME"])) == []
    assert units.counters.filtered == {"test": 1}
    assert units.position == units._next


def test_impossible_commands_become_dead_letters() -> None:
    units = reader()
    (unit,) = feed(units, encode([b"CANNOT", b"key"]))
    assert (unit.pieces, unit.dead[0].argv, unit.dead[0].error) == ([], [b"CANNOT", b"key"], "because")
    (unit,) = feed(units, MULTI + put(b"x") + encode([b"CANNOT"]) + EXEC)
    assert (unit.count, len(unit.dead)) == (1, 1)


def test_a_command_may_become_several_in_several_databases() -> None:
    units = reader(db=2)
    (unit,) = feed(units, encode([b"TWICE"]))
    assert commands(unit) == [(2, [b"SET", b"one", b"1"]), (3, [b"SET", b"two", b"123"])]
    assert unit.end == units._next


def test_commands_that_scripts_may_not_call_are_marked() -> None:
    (unit,) = feed(reader(), encode([b"eval", b"return 1", b"0"]))
    assert unit.noscript
    (unit,) = feed(reader(), MULTI + put(b"x") + encode([b"EVAL", b"return 1", b"0"]) + EXEC)
    assert unit.noscript


def test_databases_that_the_target_lacks_make_dead_letters() -> None:
    units = reader(databases=4)
    found = feed(units, put(b"w") + select(4) + put(b"x") + put(b"y") + encode([b"DEL", b"z"]) + select(3) + put(b"q"))
    assert [command for unit in found for command in commands(unit)] == [
        (0, [b"SET", b"w", b"v"]),
        (3, [b"SET", b"q", b"v"]),
    ]
    letters = [letter for unit in found for letter in unit.dead]
    assert [(letter.db, letter.argv[1]) for letter in letters] == [(4, b"x"), (4, b"y"), (4, b"z")]
    assert "only 4 databases" in letters[0].error


# --- tags


def test_a_transaction_of_the_targets_own_is_dropped_and_counted() -> None:
    units = reader()
    assert feed(units, MULTI + tag("b") + put(b"x") + encode([b"DEL", b"y"]) + EXEC) == []
    assert units.counters.loops_dropped == 2
    assert units.counters.dropped_bytes == units._next - BASE
    assert units.position == units._next


def test_a_bare_tag_is_swallowed_and_arms_nothing() -> None:
    units = reader()
    (unit,) = feed(units, tag("b") + put(b"local"))
    assert [argv[1] for _, argv in commands(unit)] == [b"local"]
    assert units.counters.loops_dropped == units.counters.dropped_bytes == 0


def test_a_bare_tag_that_kept_its_multi_asks_for_no_tag_in_return() -> None:
    """Redis 6.2 keeps MULTI around a single command; two idle links would tag each other for ever."""
    units = reader()
    assert feed(units, MULTI + tag("b") + EXEC) == []
    assert units.counters.dropped_bytes == 0


def test_transactions_of_other_origins_are_forwarded_with_origin_and_position() -> None:
    (unit,) = feed(reader(), MULTI + tag("c", "c-a") + put(b"x") + EXEC)
    assert (unit.origin, unit.opos) == ("c", "f" * 40 + ":5")
    assert [argv[1] for _, argv in commands(unit)] == [b"x"]


def test_a_forwarded_position_is_kept_where_it_was_forwarded_before() -> None:
    made = Tagger(checkpoint_key("d-a", "0"), "u", "d", None).make(
        Position("e" * 40, 9), 0, origin="c", opos="c" * 40 + ":7"
    )
    (unit,) = feed(reader(), MULTI + encode(made) + put(b"x") + EXEC)
    assert (unit.origin, unit.opos) == ("c", "c" * 40 + ":7")


def test_writes_that_come_home_are_circulation() -> None:
    with pytest.raises(Circulation, match="circle"):
        feed(reader(), MULTI + tag("a") + put(b"x") + EXEC)


def test_an_origin_that_comes_by_two_tasks_in_turn_is_circulation() -> None:
    units = reader()
    feed(units, MULTI + tag("c", "c-a") + put(b"x") + EXEC)
    feed(units, MULTI + tag("c", "new-c-a") + put(b"x") + EXEC)  # a task that was made anew
    with pytest.raises(Circulation, match="two tasks"):
        feed(units, MULTI + tag("c", "c-a") + put(b"x") + EXEC)


def test_dropped_origins_may_come_by_any_number_of_tasks() -> None:
    units = reader()
    for task in ("b-a", "x", "b-a", "x"):
        assert feed(units, MULTI + tag("b", task) + put(b"x") + EXEC) == []


def test_the_next_transaction_is_local_again() -> None:
    found = feed(reader(), MULTI + tag("b") + put(b"theirs") + EXEC + MULTI + put(b"ours") + EXEC)
    assert [argv[1] for unit in found for _, argv in commands(unit)] == [b"ours"]
    assert found[0].origin == ""


def test_peek_shows_what_is_coming_and_takes_nothing() -> None:
    units = reader(db=1)
    data = select(2) + put(b"x") + MULTI + put(b"y") + EXEC + put(b"z")[:-1]
    feed(units, put(b"w")[:7])
    seen = list(units.peek(put(b"w")[7:] + data))
    assert [(db, argv[1]) for db, argv in seen if len(argv) > 1] == [(1, b"w"), (2, b"x"), (2, b"y")]
    assert units.position == BASE


def test_ahead_shows_what_is_coming_and_takes_nothing() -> None:
    units = reader(db=1)
    feed(units, put(b"w")[:7])
    assert units.ahead(put(b"w")[7:] + select(2)) == (put(b"w") + select(2), 1)
    assert units.position == BASE
