"""Two ways: which replies say that a command met another state than where it was made."""

from __future__ import annotations

import pytest

from canal.commands import COMMANDS, Flag, lookup
from canal.endpoint import parse_url
from canal.position import Position
from canal.resp import encode
from sync.batch import Batch
from sync.conditional import DELETE_IF
from sync.effects import JUDGED, may_be_empty, nothing, without_effect
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.target.standalone import Writer
from sync.unit import Piece, Unit
from tests.unit.test_writer_replies import REPLID, Line, good


def batch_of(*pieces: tuple[int, list[bytes]]) -> Batch:
    """Each piece: (db, commands as text)."""
    made = []
    for db, lines in pieces:
        raw = b"".join(encode(line.split(b" ")) for line in lines)
        made.append(Piece(db, raw, len(lines)))
    units = [Unit(n + 1, 0, [piece], 0) for n, piece in enumerate(made)]
    return Batch(len(units), 0, units, sum(piece.commands for piece in made), sum(len(piece.raw) for piece in made))


def judged(text: bytes) -> bool:
    """Is nothing an unexpected reply to this command?"""
    return [argv for _, argv in without_effect(batch_of((0, [text])), [0])] != []


@pytest.mark.parametrize(
    "text",
    [
        *(b"LPOP k", b"rpop k", b"RPOPLPUSH k l", b"LMOVE k l LEFT LEFT", b"LREM k 1 v", b"LINSERT k BEFORE p v"),
        *(b"SMOVE k l m", b"ZPOPMIN k", b"COPY k l REPLACE", b"MOVE k 3", b"PEXPIREAT k 9", b"PERSIST k"),
        *(b"ZADD k NX 1 m", b"ZADD k XX CH 1 m", b"SUNIONSTORE k l", b"SORT k BY x STORE l", b"BITOP AND k l"),
    ],
)
def test_nothing_is_unexpected_where_something_has_to_be_there(text: bytes) -> None:
    assert judged(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"HSET k f v",
            b"SETBIT k 1 0",
            b"INCRBY k -1",
            b"GETSET k v",
            b"ZADD k 1 m",
            b"ZADD k GT 1 m",
            b"PUBLISH c m",
        ),
        *(b"DEL k", b"UNLINK k", b"SADD k m", b"SREM k m", b"HDEL k f", b"ZREM k m", b"PFADD k v", b"SORT k DESC"),
        *(b"EVAL x 1 k", b"MODULE.THING k", b"GET k"),
    ],
)
def test_nothing_is_no_sign_where_it_is_usual_or_both_sides_are_the_same_after_it(text: bytes) -> None:
    assert not judged(text)


def test_a_conditional_delete_that_kept_the_key_is_told() -> None:
    argv = [b"EVAL", DELETE_IF, b"1", b"k", b"9", b"1", b"hash"]
    unit = Unit(1, 0, [Piece(0, encode(argv), 1)], 0)
    assert list(without_effect(Batch(1, 0, [unit], 1, 1), [0])) == [(0, argv)]


def test_names_are_those_of_the_command_table_and_write() -> None:
    for name in JUDGED - {b"EVAL"}:
        info = lookup(name)
        assert info is not None and info.flags & Flag.WRITE and info in COMMANDS


def test_commands_are_found_by_their_number_across_pieces_and_databases() -> None:
    batch = batch_of(
        (0, [b"SET a 1", b"LPOP b", b"HSET c f v"]),
        (3, [b"COPY d e"]),
        (3, [b"SET f 1", b"SET g 1"]),
        (0, [b"SET h 1", b"lpop i", b"LPOP j", b"SET k 1", b"RPOP l"]),
    )
    assert list(without_effect(batch, range(11))) == [
        (0, [b"LPOP", b"b"]),
        (3, [b"COPY", b"d", b"e"]),
        (0, [b"lpop", b"i"]),
        (0, [b"LPOP", b"j"]),
        (0, [b"RPOP", b"l"]),
    ]
    assert list(without_effect(batch, [0, 2, 8])) == [(0, [b"LPOP", b"j"])]
    assert list(without_effect(batch, [])) == []


@pytest.mark.parametrize("reply", [b":0\r\n", b":-1\r\n", b"$-1\r\n", b"*0\r\n", b"*-1\r\n"])
def test_every_nothing_is_seen_at_a_glance(reply: bytes) -> None:
    assert may_be_empty(b"*2\r\n:1\r\n" + reply, 0)
    assert not may_be_empty(b"*2\r\n:1\r\n:10\r\n$1\r\n0\r\n", 0)


def test_what_is_nothing() -> None:
    assert [nothing(one) for one in (0, -1, None, [], 1, b"", b"0", [0], "OK")] == [True] * 4 + [False] * 5


class Judging:
    """A writer that tells which numbers were answered by nothing."""

    def __init__(self, guarded: bool) -> None:
        self.line = Line()
        self.told: list[list[int]] = []
        self.commits: list[int] = []
        self.line.endpoint = parse_url("redis://target")
        self.writer = Writer(
            self.line,  # type: ignore[arg-type]
            Tagger(checkpoint_key("t", "0"), "u", "a", Checkpoint(uid="u", position=Position(REPLID, 0))),
            lambda _: REPLID,
            guarded=guarded,
            epoch=1,
            stands=(f"{REPLID}:0", 0),
            pipelined_multi=True,
            on_commit=lambda batch, failures: self.commits.append(len(failures)),
            wake=lambda: None,
            judge=lambda batch, numbers: self.told.append(numbers),
        )


def test_gated_replies_are_counted_back_to_the_users_commands() -> None:
    bench = Judging(guarded=False)
    bench.writer.submit(batch_of((0, [b"LPOP a", b"LPOP b"]), (2, [b"LPOP c", b"LPOP d"])))
    # tag, two, SELECT, two
    replies = b"+OK\r\n" + b"+QUEUED\r\n" * 6 + b"*6\r\n:0\r\n$-1\r\n$1\r\nx\r\n+OK\r\n-WRONGTYPE\r\n*0\r\n"
    bench.line.data(replies + bench.writer._transactions.mark_reply)
    assert bench.told == [[0, 3]]
    assert bench.commits == [1]


def test_gated_replies_without_a_nothing_cost_no_second_look() -> None:
    bench = Judging(guarded=False)
    bench.writer.submit(batch_of((0, [b"LPOP a"])))
    bench.line.data(good(1) + bench.writer._transactions.mark_reply)
    assert bench.told == [] and bench.commits == [0]


def test_guarded_replies_name_commands_without_an_error_text() -> None:
    bench = Judging(guarded=True)
    bench.writer.submit(batch_of((0, [b"LPOP a", b"LPOP b", b"LPOP c"])))
    bench.line.data(b"*4\r\n:1\r\n$0\r\n\r\n:3\r\n$9\r\nWRONGTYPE\r\n")
    assert bench.told == [[0]]
    assert bench.commits == [1]
