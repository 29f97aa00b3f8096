"""Stream bytes → units: who is told what: the watch, the observer, the rules and the counters, in order.

Found missing by changing `sync.unit` at random: a two-way link decides conflicts and echoes by these.
"""

from __future__ import annotations

from itertools import accumulate

import pytest

from canal.errors import ProtocolError, Refused
from canal.position import Position
from canal.resp import encode, parse
from sync.flush import keep_reserved
from sync.rules import Adjusted
from sync.tag import RESERVED, Tag, Tagger, checkpoint_key, recognise
from sync.unit import Circulation, Unit, UnitReader
from tests.unit.test_unit import BASE, EXEC, MULTI, commands, feed, put, reader, select, tag
from tests.unit.test_unit_figures import Watch

DEL = encode([b"DEL", b"k"])
PING = encode([b"PING"])


def met(raw: bytes) -> Tag:
    """The tag as whoever meets it in the stream is told of it."""
    parsed = parse(raw, 0, len(raw))
    found = None if parsed is None else recognise(parsed[0])
    assert found is not None
    return found


def told_tag(origin: str, seen: str = "") -> bytes:
    made = Tagger(checkpoint_key(f"{origin}-a", "0"), "u", origin, None).make(Position("f" * 40, 5), 0, seen=seen)
    return encode(made)


# --- the watch of a two-way link


def test_the_watch_is_told_everything_in_the_order_of_the_stream() -> None:
    ours, theirs = tag("b"), tag("c", "c-a")
    parts = [
        *(select(2), put(b"x"), DEL, MULTI, select(3), put(b"x"), DEL, EXEC),  # the source's own, to number 7
        *(ours, MULTI, ours, put(b"t"), select(4), DEL, EXEC),  # bare, and an echo
        *(MULTI, ours, EXEC, MULTI, theirs, DEL, put(b"f"), EXEC, put(b"y")),  # with nothing in it, and passed on
    ]
    at = list(accumulate((len(part) for part in parts), initial=BASE))
    watch = Watch()
    feed(reader(watch=watch), b"".join(parts))
    assert watch.told == [
        ("local", (2, put(b"x"), at[2])),
        ("command", (2, [b"DEL", b"k"], at[3])),
        ("local", (3, put(b"x"), at[6])),
        ("command", (3, [b"DEL", b"k"], at[7])),
        ("tag", (met(ours), at[9])),
        ("tag", (met(ours), at[11])),
        ("unit", (met(ours), [(3, put(b"t")), (4, DEL)], at[15])),
        ("tag", (met(ours), at[17])),
        ("tag", (met(theirs), at[20])),
        ("unit", (met(theirs), [(4, DEL), (4, put(b"f"))], at[23])),
        ("local", (4, put(b"y"), at[24])),
    ]


def test_on_tag_is_told_every_tag_and_the_watch_before_it() -> None:
    units, order = reader(), []
    units._on_tag = lambda tag: order.append(tag.origin)
    feed(units, tag("b") + MULTI + tag("c") + DEL + EXEC)
    assert order == ["b", "c"]


def test_every_unit_of_the_source_carries_what_was_seen_then() -> None:
    watch = Watch()
    units = reader(watch=watch)
    one, two = feed(units, DEL, MULTI + put(b"x") + DEL + EXEC)
    assert [(unit.seen, unit.needs) for unit in (one, two)] == [("seen", "needs")] * 2
    for plain in feed(reader(), DEL, MULTI + put(b"x") + DEL + EXEC):
        assert (plain.origin, plain.opos, plain.seen, plain.needs) == ("", "", "", "")


@pytest.mark.parametrize("watched", [True, False])
def test_what_is_passed_on_carries_what_its_tag_says(watched: bool) -> None:
    units = reader(watch=Watch() if watched else None)
    (unit,) = feed(units, MULTI + told_tag("c", seen="d=x:1") + DEL + EXEC)
    assert (unit.origin, unit.opos, unit.seen, unit.needs) == ("c", "f" * 40 + ":5", "d=x:1", "")
    (unit,) = feed(units, MULTI + told_tag("c") + DEL + EXEC)
    assert (unit.seen, unit.needs) == ("", "")


def test_what_a_tag_says_in_bytes_that_are_no_text_does_not_stop_the_link() -> None:
    odd = [b"v", b"1", b"origin", b"c", b"seen", b"\xff", b"pos", b"\xfe"]
    (unit,) = feed(reader(), MULTI + encode([b"HSET", checkpoint_key("c-a", "0"), *odd]) + DEL + EXEC)
    assert (unit.seen, unit.opos) == ("\ufffd", "\ufffd")
    bare = [b"v", b"1", b"origin", b"c"]
    (unit,) = feed(reader(), MULTI + encode([b"HSET", checkpoint_key("c-a", "0"), *bare]) + DEL + EXEC)
    assert (unit.seen, unit.opos) == ("", "")


# --- what is dropped as an echo


def test_an_observer_hears_of_echoes_that_are_looked_at() -> None:
    heard: list[tuple[int, list[bytes], int]] = []
    units = reader(observe=lambda db, argv, ms: heard.append((db, argv, ms)))
    feed(units, DEL, MULTI + select(6) + tag("b") + put(b"x") + DEL + EXEC, MULTI + tag("c") + DEL + EXEC)
    assert heard == [(6, [b"DEL", b"k"], 123)]


def test_commands_of_echoes_are_counted_each_once_and_reserved_ones_not() -> None:
    own = encode([b"SADD", RESERVED + b"links", b"x"]) + encode([b"DEL", RESERVED + b"x"])
    units = reader(max_commands=2)
    first = MULTI + tag("b") + b"".join(put(b"%d" % n) for n in range(5)) + DEL + own + encode([b"FLUSHALL"]) + EXEC
    feed(units, put(b"x"), first)
    assert (units.counters.loops_dropped, units.counters.dropped_bytes) == (7, len(first))
    second = MULTI + tag("b") + DEL + EXEC
    feed(units, second, MULTI + tag("b") + own + EXEC)
    assert (units.counters.loops_dropped, units.counters.dropped_bytes) == (8, len(first) + len(second))


def test_a_tag_decides_what_stands_before_it_in_its_transaction_too() -> None:
    units = reader(over=lambda db, argv: "passed" if argv[0] == b"OVER" else "")
    over = encode([b"OVER", b"k"])
    assert feed(units, MULTI + DEL + DEL + over + over + put(b"x") + tag("b") + EXEC) == []
    assert units.counters.loops_dropped == 5


@pytest.mark.parametrize(
    ("before", "coming", "dropped"),
    [
        (b"", tag("b"), False),
        (MULTI, tag("b") + put(b"x"), True),
        (MULTI, tag("c"), False),
        (MULTI, put(b"x") + tag("b"), False),
        (MULTI, b"", False),
        (MULTI + tag("b"), put(b"x"), True),
        (MULTI + tag("c"), put(b"x"), False),
        (MULTI + tag("c"), tag("b"), False),
        (MULTI + put(b"x"), tag("b"), False),
        (MULTI + DEL, tag("b"), False),
        (MULTI + encode([b"DROPME"]), tag("b"), False),
        (MULTI + encode([b"OVER"]), tag("b"), False),
        (MULTI + tag("b") + EXEC, tag("b"), False),
    ],
)
def test_whether_what_comes_is_part_of_an_echo(before: bytes, coming: bytes, dropped: bool) -> None:
    units = reader(over=lambda db, argv: "passed" if argv[0] == b"OVER" else "")
    feed(units, before)
    assert units.dropping(coming) is dropped


# --- what the rules are asked


def test_what_is_passed_over_is_counted_observed_and_left_out() -> None:
    heard: list[tuple[int, list[bytes], int]] = []
    asked: list[tuple[int, list[bytes]]] = []

    def over(db: int, argv: list[bytes]) -> str:
        asked.append((db, argv))
        return "passed" if argv[0] == b"OVER" else ""

    units = reader(over=over, observe=lambda db, argv, ms: heard.append((db, argv, ms)))
    one, two = encode([b"OVER", b"1"]), encode([b"OVER", b"2"])
    assert feed(units, select(4), one) == []
    assert units.position == BASE + len(select(4)) + len(one)
    (unit,) = feed(units, MULTI + select(5) + two + DEL + EXEC)
    assert commands(unit) == [(5, [b"DEL", b"k"])]
    assert units.counters.filtered == {"passed": 2}
    assert asked == [(4, [b"OVER", b"1"]), (5, [b"OVER", b"2"]), (5, [b"DEL", b"k"])]
    assert heard == [(4, [b"OVER", b"1"], 123), (5, [b"OVER", b"2"], 123)]
    assert feed(reader(over=over), MULTI + one) == [], "nobody has to observe"


def test_adjust_is_asked_with_the_place_and_knows_its_transaction() -> None:
    asked: list[tuple[int, list[bytes], int, int, int]] = []

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        asked.append((db, argv, received_ms, end, units.rules.transaction))
        return [(db, argv)]

    units = reader(adjust=adjust)
    parts = [select(2), DEL, put(b"x"), MULTI, select(3), DEL, put(b"x"), EXEC, DEL]
    at = list(accumulate((len(part) for part in parts), initial=BASE))
    feed(units, b"".join(parts))
    argv = [b"DEL", b"k"]
    assert asked == [(2, argv, 123, at[2], -1), (3, argv, 123, at[6], at[3]), (3, argv, 123, at[9], -1)]


def test_plain_commands_go_by_untouched_wherever_reserved_names_stand() -> None:
    asked: list[bytes] = []

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        asked.append(argv[1])
        return [(db, argv)]

    plain = {b"SET": 3, b"HSET": 0}
    stream = put(b"a") + tag("z") + put(b"b") + put(b"c") + tag("z") + put(b"d")
    units = reader(adjust=adjust, plain=plain)
    out = feed(units, stream)
    assert [argv[1] for unit in out for _, argv in commands(unit)] == [b"a", b"b", b"c", b"d"]
    assert [unit.count for unit in out] == [1, 2, 1]
    assert asked == []
    units = reader(adjust=adjust, plain=plain, look_at={b"c"})
    assert [unit.count for unit in feed(units, stream)] == [1, 1, 1, 1]
    assert asked == [b"c"]


# --- letters and marks


def test_letters_say_where_the_command_stood() -> None:
    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        return [(9, argv), (9, [b"FLUSHDB"]), (1, [b"SET", b"y", b"v"]), (db, argv)]

    cannot = encode([b"CANNOT", b"k"])
    units = reader()
    (unit,) = feed(units, select(3) + put(b"x")[:4], put(b"x")[4:] + cannot)[1:]
    (letter,) = unit.dead
    begin = BASE + len(select(3)) + len(put(b"x"))
    assert (letter.offset, letter.db, letter.argv, letter.error) == (begin, 3, [b"CANNOT", b"k"], "because")
    assert (unit.end, unit.db, unit.received_ms) == (begin + len(cannot), 3, 123)
    (unit,) = feed(reader(databases=9, adjust=adjust), put(b"x") + DEL)[1:]
    (letter,) = unit.dead
    assert (letter.offset, letter.db, letter.argv) == (BASE + len(put(b"x")), 9, [b"DEL", b"k"])
    assert letter.error == "the target has only 9 databases"
    assert commands(unit) == [(1, [b"SET", b"y", b"v"]), (0, [b"DEL", b"k"])], "and what follows is taken"


def test_marks_of_one_command_hold_for_its_whole_transaction() -> None:
    script, flush = encode([b"EVAL", b"return 1", b"0"]), encode([b"FLUSHALL"])
    (unit,) = feed(reader(), MULTI + script + DEL + EXEC)
    assert (unit.noscript, unit.solo) == (True, False)
    (unit,) = feed(reader(), MULTI + flush + DEL + EXEC)
    assert (unit.noscript, unit.solo) == (True, True), "it goes as a script"
    (unit,) = feed(reader(), MULTI + DEL + encode([b"CANNOT"]) + DEL + EXEC)
    assert (unit.noscript, unit.solo, unit.count, len(unit.dead)) == (False, False, 2, 1)
    (unit,) = feed(reader(), DEL)
    assert (unit.noscript, unit.solo, unit.atomic) == (False, False, False)


def test_a_flush_that_keeps_the_reserved_keys_ends_in_the_database_it_came_from() -> None:
    for db in (0, 3):
        (unit,) = feed(reader(db=db), encode([b"FLUSHALL", b"ASYNC"]))
        ((at, argv),) = commands(unit)
        assert (at, argv) == (db, keep_reserved([b"FLUSHALL", b"ASYNC"], db))
        assert argv[-3:] == [b"%d" % db, b"FLUSHALL", b"ASYNC"]


def test_neighbours_of_one_database_become_one_piece() -> None:
    (unit,) = feed(reader(), MULTI + DEL + put(b"x") + select(3) + DEL + select(0) + DEL + put(b"y") + DEL + EXEC)
    assert [(piece.db, piece.commands, piece.raw) for piece in unit.pieces] == [
        (0, 2, DEL + put(b"x")),
        (3, 1, DEL),
        (0, 3, DEL + put(b"y") + DEL),
    ]
    assert unit.size == len(DEL) * 4 + len(put(b"x")) * 2


def test_a_letter_alone_makes_a_unit_of_a_transaction() -> None:
    stream = MULTI + encode([b"CANNOT", b"k"]) + EXEC
    (unit,) = feed(reader(), stream)
    assert (unit.pieces, len(unit.dead), unit.end, unit.received_ms) == ([], 1, BASE + len(stream), 123)


# --- what stops


def test_a_flush_that_stops_says_which_where_and_what_to_do() -> None:
    units = reader(flush="stop")
    with pytest.raises(Refused) as caught:
        feed(units, put(b"x") + encode([b"flushall"]))
    assert str(caught.value) == (
        f"the source did FLUSHALL at offset {BASE + len(put(b'x'))}; in a two-way task that stops the link, since it "
        "would remove what the other datacenter wrote: start again with --flush replay or --flush drop "
        "(flush: in the task)"
    )


def test_a_flush_of_an_echo_stops_nothing() -> None:
    assert feed(reader(flush="stop"), MULTI + tag("b") + encode([b"FLUSHALL"]) + EXEC) == []


def path(units: UnitReader, origin: str, task: str, shard: str = "0") -> list[Unit]:
    made = Tagger(checkpoint_key(task, shard), "u", origin, None).make(Position("f" * 40, 5), 0)
    return feed(units, MULTI + encode(made) + DEL + EXEC)


def test_shards_of_a_task_and_tasks_of_other_origins_bring_writes_in_any_turn() -> None:
    units = reader()
    for origin, task, shard in (("c", "c-a", "0"), ("c", "c-a", "1"), ("d", "d-a", "0")) * 2:
        assert len(path(units, origin, task, shard)) == 1


def test_circulation_names_the_tasks_and_what_to_do() -> None:
    units = reader()
    for task in ("one", "two", "two", "three"):
        path(units, "c", task)
    with pytest.raises(Circulation) as caught:
        path(units, "c", "one")
    assert str(caught.value) == (
        "writes of datacenter c reach the source by two tasks in turn, three and one, so "
        "they are applied twice or go in circles: name c in the `direct` list of the task that "
        "only passes them on"
    )
    with pytest.raises(Circulation) as caught:
        path(reader(), "a", "b-a")
    assert str(caught.value) == (
        "link b-a/0 brings writes of datacenter a back to it: the tasks form a circle. "
        "Name a in the `direct` list of that task, or remove one of the tasks"
    )


def test_no_command_at_the_very_beginning_is_told_with_its_place() -> None:
    with pytest.raises(ProtocolError) as caught:
        feed(reader(), b"x (at y) (at z)\r\n")
    assert caught.value.offset == BASE
    assert str(caught.value) == (
        "the source's stream: expected a command (*<count>, at most 16777216 arguments), "
        f"got b'x (at y) (at z)\\r\\n' (at offset {BASE})"
    )


def test_a_short_command_after_a_long_one_in_pieces_comes_out_at_once() -> None:
    units = reader()
    long = put(b"x" * 1000)
    assert feed(units, long[:20], long[20:40]) == []
    assert len(feed(units, long[40:])) == 1
    assert len(feed(units, put(b"y"))) == 1
    assert len(feed(units, PING + put(b"z"))) == 1
