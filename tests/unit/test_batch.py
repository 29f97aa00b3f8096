"""Units → batches → transactions: where batches are cut, where the checkpoint lands, what the bytes are."""

from __future__ import annotations

from canal.position import Position
from canal.resp import encode, parse
from sync.batch import Batch, Batcher, command_at, without
from sync.render import MAX_SCRIPT_ARGUMENTS, render, script_form
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.unit import DeadLetter, Piece, Unit

REPLID = "f" * 40
KEY = checkpoint_key("t", "0")


def put(number: int) -> list[bytes]:
    return [b"SET", b"k%d" % number, b"v"]


def unit(end: int, *numbers: int, db: int = 0, **changes: object) -> Unit:
    raw = b"".join(encode(put(number)) for number in numbers)
    made = Unit(end, db, [Piece(db, raw, len(numbers))] if numbers else [], end)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def take_all(batcher: Batcher, position: int, db: int = 0) -> list[Batch]:
    out = []
    while (batch := batcher.take(position, db)) is not None:
        out.append(batch)
    return out


def parsed(raw: bytes) -> list[list[bytes]]:
    out, at = [], 0
    while at < len(raw):
        found = parse(raw, at, len(raw))
        assert found is not None
        out.append(found[0])
        at = found[1]
    return out


# --- cutting


def test_a_new_batch_says_nothing_of_what_it_does_not_hold() -> None:
    """Batches of a snapshot are made without a unit, and these go into their tags."""
    made = Batch(5, 3)
    assert (made.units, made.count, made.size, made.void, made.progress, made.sent) == ([], 0, 0, 0, 0, 0.0)
    assert (made.origin, made.opos, made.seen, made.needs) == ("", "", "", "")
    assert (made.received_ms, made.last_received_ms) == (0, 0)
    assert (made.solo, made.noscript, made.snapshot, made.first, made.again) == (False,) * 5


def test_what_is_ready_goes_as_one_batch() -> None:
    batcher = Batcher(10, 1 << 20)
    batcher.add(unit(10, 1))
    batcher.add(unit(20, 2, 3, db=4))
    (batch,) = take_all(batcher, 25, 4)
    assert (batch.count, batch.end, batch.db) == (3, 25, 4)
    assert (batch.received_ms, batch.last_received_ms) == (10, 20)
    assert batcher.empty


def test_only_the_newest_batch_moves_the_checkpoint_over_what_was_consumed_since() -> None:
    batcher = Batcher(1, 1 << 20)
    for number in (1, 2, 3):
        batcher.add(unit(number * 10, number, db=number))
    assert [(batch.end, batch.db) for batch in take_all(batcher, 99, 7)] == [(10, 1), (20, 2), (99, 7)]


def test_without_a_position_a_batch_ends_where_its_last_unit_does() -> None:
    batcher = Batcher(10, 1 << 20)
    batcher.add(unit(10, 1, db=2))
    batch = batcher.take()
    assert batch is not None
    assert (batch.end, batch.db) == (10, 2)
    assert batcher.take() is None


def test_batches_are_cut_by_commands_and_by_bytes_and_never_within_a_unit() -> None:
    batcher = Batcher(4, 1 << 20)
    for end, numbers in ((10, (1, 2, 3)), (20, (4, 5)), (30, range(10)), (40, (6,))):
        batcher.add(unit(end, *numbers, atomic=True))
    assert [batch.count for batch in take_all(batcher, 40)] == [3, 2, 10, 1]
    batcher = Batcher(1000, 2 * len(encode(put(1))))
    for end in (10, 20, 30):
        batcher.add(unit(end, 1))
    assert [batch.count for batch in take_all(batcher, 30)] == [2, 1]


def test_a_batch_holds_one_origin() -> None:
    batcher = Batcher(100, 1 << 20)
    for end, origin in ((10, ""), (20, "c"), (30, "c"), (40, "d"), (50, "")):
        batcher.add(unit(end, 1, origin=origin, opos=f"at {end}" if origin else ""))
    found = [(batch.origin, batch.count, batch.opos) for batch in take_all(batcher, 50)]
    assert found == [("", 1, ""), ("c", 2, "at 30"), ("d", 1, "at 40"), ("", 1, "")]


def test_what_reaches_the_tag_ends_its_batch_and_what_scripts_cannot_call_goes_apart() -> None:
    batcher = Batcher(100, 1 << 20)
    batcher.add(unit(10, 1))
    batcher.add(unit(20, 2, solo=True))
    batcher.add(unit(30, 3))
    batcher.add(unit(40, 4, noscript=True))
    batcher.add(unit(50, 5))
    found = [(batch.count, batch.solo, batch.noscript) for batch in take_all(batcher, 50)]
    assert found == [(1, False, False), (1, True, False), (1, False, False), (1, False, True), (1, False, False)]


def test_full_batches_are_counted_as_behind() -> None:
    batcher = Batcher(1, 1 << 20)
    batcher.add(unit(10, 1))
    assert batcher.behind == 0
    assert not batcher.empty
    batcher.add(unit(20, 2))
    assert batcher.behind == 1


# --- looking into one


def test_a_command_is_found_by_its_number_with_its_own_offset() -> None:
    size = len(encode(put(1)))
    batch = Batch(0, 0, [unit(100, 1, 2, 3), unit(200, 4, 5, db=3, atomic=True)])
    assert command_at(batch, 0) == (0, put(1), 100 - 2 * size)
    assert command_at(batch, 2) == (0, put(3), 100)
    assert command_at(batch, 3) == (3, put(4), 200)  # of a transaction: after it
    assert command_at(batch, 4) == (3, put(5), 200)
    assert command_at(batch, 5) is None


def test_commands_are_taken_out_by_number() -> None:
    two = Unit(9, 0, [*unit(9, 1, 2).pieces, *unit(9, 3, db=1).pieces], 0)
    left = without(two, {1})
    assert [(piece.db, parsed(piece.raw)) for piece in left.pieces] == [(0, [put(1)]), (1, [put(3)])]
    assert without(two, {0, 1, 2}).pieces == []
    assert left.count == 2


# --- rendering


def tagger(**stored: object) -> Tagger:
    return Tagger(KEY, "u", "a", Checkpoint(uid="u", position=Position(REPLID, 1), **stored))  # type: ignore[arg-type]


def test_the_tag_comes_first_and_in_database_0() -> None:
    batch = Batch(50, 3, [unit(50, 1, db=3)])
    rendered = render(batch, tagger(), REPLID, 5)
    words = parsed(rendered.body)
    assert [argv[0] for argv in words] == [b"SELECT", b"HSET", b"SELECT", b"SET"]
    assert (words[0][1], words[2][1]) == (b"0", b"3")
    assert f"{REPLID}:50".encode() in words[1]
    assert (rendered.replies, rendered.own, rendered.db) == (4, [0, 1, 2], 3)


def test_databases_are_selected_only_where_they_change() -> None:
    batch = Batch(50, 0, [unit(10, 1), unit(20, 2), unit(30, 3, db=1), unit(40, 4, db=1), unit(50, 5)])
    names = [argv[0] for argv in parsed(render(batch, tagger(), REPLID, 0).body)]
    assert names == [b"HSET", b"SET", b"SET", b"SELECT", b"SET", b"SET", b"SELECT", b"SET"]


def test_after_a_flush_the_whole_tag_is_written_again() -> None:
    flush = Unit(50, 2, [Piece(2, encode([b"FLUSHALL"]), 1)], 0, solo=True)
    batch = Batch(50, 2, [flush], 1, solo=True)
    words = parsed(render(batch, tagger(epoch=4), REPLID, 0).body)
    assert [argv[0] for argv in words] == [b"HSET", b"SELECT", b"FLUSHALL", b"SELECT", b"HSET"]
    last = dict(zip(words[-1][2::2], words[-1][3::2], strict=True))
    stored = Checkpoint.from_fields(last, "key")
    assert (stored.uid, stored.epoch, stored.db, stored.position) == ("u", 4, 2, Position(REPLID, 50))


def test_an_empty_batch_is_a_bare_tag() -> None:
    rendered = render(Batch(50, 0), tagger(), REPLID, 0)
    assert [argv[0] for argv in parsed(rendered.body)] == [b"HSET"]


def test_the_script_form_has_every_command_or_none() -> None:
    rendered = render(Batch(50, 0, [unit(50, 1)]), tagger(), REPLID, 0)
    form = script_form(rendered)
    assert form is not None
    raw, total = form
    assert total == sum(len(argv) + 1 for argv in parsed(rendered.body))
    assert parsed(b"*%d\r\n" % total + raw)[0][-4:] == [b"3", *put(1)]
    long = Unit(50, 0, [Piece(0, encode([b"RPUSH", b"k", *[b"x"] * MAX_SCRIPT_ARGUMENTS]), 1)], 0)
    assert script_form(render(Batch(50, 0, [long]), tagger(), REPLID, 0)) is None


def test_a_batch_says_of_seen_what_its_first_unit_did_and_of_needs_what_its_last_did() -> None:
    batcher = Batcher(10, 1 << 20)
    batcher.add(unit(10, 1, seen="first", needs="one"))
    batcher.add(unit(20, 2, seen="second", needs="two"))
    assert batcher.next_needs == "two"
    batch = batcher.take()
    assert batch is not None
    assert (batch.seen, batch.needs, batch.end, batch.db) == ("first", "two", 20, 0)


def test_a_batch_of_just_as_many_commands_as_may_be_is_not_cut() -> None:
    batcher = Batcher(3, 1 << 20)
    batcher.add(unit(10, 1, 2))
    batcher.add(unit(20, 3))
    assert batcher.behind == 0
    batcher.add(unit(30, 4))
    assert batcher.behind == 1


def test_the_last_batch_moves_over_what_was_consumed_from_the_stream_s_beginning_on() -> None:
    for position in (0, 1):
        batcher = Batcher(3, 1 << 20)
        batcher.add(unit(5, 1))
        batch = batcher.take(position, 4)
        assert batch is not None and (batch.end, batch.db) == (position, 4)
    batcher.add(unit(5, 1, db=2))
    batch = batcher.take(9)
    assert batch is not None and (batch.end, batch.db) == (9, 0)


def test_a_command_is_found_behind_units_of_several_pieces() -> None:
    pieces = [Piece(0, encode(put(1)), 1), Piece(2, encode(put(2)) + encode(put(3)), 2)]
    batch = Batch(0, 0, [Unit(100, 2, pieces, 0, atomic=True)])
    assert [command_at(batch, index) for index in range(4)] == [
        (0, put(1), 100),
        (2, put(2), 100),
        (2, put(3), 100),
        None,
    ]


# --- what is asked of a batch and of what waits


def test_pieces_and_letters_of_all_units_come_in_order() -> None:
    one = unit(10, 1, dead=[DeadLetter(5, 0, [b"A"], "x")])
    two = unit(20, dead=[DeadLetter(15, 0, [b"B"], "x"), DeadLetter(16, 0, [b"C"], "x")])
    two.pieces = [Piece(1, encode(put(2)), 1), Piece(0, encode(put(3)), 1)]
    batch = Batch(20, 0, [one, two])
    assert [(piece.db, parsed(piece.raw)) for piece in batch.pieces()] == [(0, [put(1)]), (1, [put(2)]), (0, [put(3)])]
    assert [letter.argv for letter in batch.dead()] == [[b"A"], [b"B"], [b"C"]]


def test_what_waits_is_known_before_it_is_taken() -> None:
    """What the next batch needs at the target is waited for before that batch is sent, not before the last one."""
    batcher = Batcher(1, 1 << 20)
    assert (batcher.empty, batcher.behind, batcher.next_needs) == (True, 0, "")
    told = []
    for number in (1, 2, 3):
        batcher.add(unit(number * 10, number, needs=f"n{number}"))
        told.append((batcher.empty, batcher.behind, batcher.next_needs))
    assert told == [(False, 0, "n1"), (False, 1, "n1"), (False, 2, "n1")]
    left = []
    while (batch := batcher.take()) is not None:
        left.append((batch.needs, batcher.empty, batcher.behind, batcher.next_needs))
    assert left == [("n1", False, 1, "n2"), ("n2", False, 0, "n3"), ("n3", True, 0, "")]
    batcher.add(unit(40, 4, solo=True, needs="n4"))
    assert (batcher.empty, batcher.behind, batcher.next_needs) == (False, 1, "n4"), "closed, and none is open"
