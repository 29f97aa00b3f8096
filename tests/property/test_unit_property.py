"""Any stream, fed in any pieces, gives the same commands in the same order, and positions that can be gone on from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canal.position import Position
from canal.resp import encode, parse
from sync.batch import Batcher
from sync.rules import Rules
from sync.tag import Tagger, checkpoint_key
from sync.unit import Unit, UnitReader

keys = st.sampled_from([b"a", b"", b"\r\n", b"redis-canal", b"x" * 200])
write = keys.map(lambda key: [[b"SET", key, b"v"]])
other = keys.map(lambda key: [[b"LPUSH", key, b"v"]])
select = st.integers(0, 15).map(lambda db: [[b"SELECT", b"%d" % db]])
ping = st.just([[b"PING"]])
inside = st.lists(st.one_of(write, other, select, ping), max_size=6).map(
    lambda parts: [c for part in parts for c in part]
)


def tagged(origin: str, commands: list[list[bytes]]) -> list[list[bytes]]:
    tag = Tagger(checkpoint_key(f"{origin}-a", "0"), "u", origin, None).make(Position("f" * 40, 1), 0)
    return [[b"MULTI"], tag, *commands, [b"EXEC"]]


transaction = inside.map(lambda commands: [[b"MULTI"], *commands, [b"EXEC"]])
echo = inside.map(lambda commands: tagged("b", commands))
passed_on = inside.map(lambda commands: tagged("c", commands))
streams = st.lists(st.one_of(write, other, select, ping, transaction, echo, passed_on), max_size=15)


def reader(position: int = 0, db: int = 0) -> UnitReader:
    rules = Rules("a", frozenset({"b"}), {b"SET": 3}, lambda db, argv, ms, end: [(db, argv)])
    return UnitReader(position, db, rules)


def written(units: list[Unit]) -> list[tuple[int, list[bytes], str]]:
    """(database, command, origin) of all, in order."""
    out = []
    for unit in units:
        for piece in unit.pieces:
            at = 0
            while at < len(piece.raw):
                found = parse(piece.raw, at, len(piece.raw))
                assert found is not None
                out.append((piece.db, found[0], unit.origin))
                at = found[1]
    return out


def expected(stream: list[list[list[bytes]]]) -> list[tuple[int, list[bytes], str]]:
    """The same by the simplest reading of the rules."""
    out: list[tuple[int, list[bytes], str]] = []
    db = 0
    for part in stream:
        origin = ""
        for argv in part:
            if argv[0] == b"SELECT":
                db = int(argv[1])
            elif argv[0] == b"HSET":
                origin = argv[argv.index(b"origin") + 1].decode()
            elif argv[0] not in (b"PING", b"MULTI", b"EXEC") and origin != "b":
                out.append((db, argv, origin))
    return out


@given(streams, st.data())
def test_any_pieces_give_the_same_commands_in_order(stream: list[list[list[bytes]]], data: st.DataObject) -> None:
    buf = b"".join(encode(argv) for part in stream for argv in part)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(buf)), max_size=8)))
    units = reader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(buf)], strict=True):
        found += units.feed(start, buf[start:end], 0)
    assert written(found) == expected(stream)
    assert units.position == len(buf)


@given(streams, st.integers(1, 5), st.data())
def test_a_restart_at_any_checkpoint_gives_exactly_the_rest(
    stream: list[list[list[bytes]]], most: int, data: st.DataObject
) -> None:
    """(position, db) of a batch is all that a later reader needs: nothing is lost, nothing comes twice."""
    buf = b"".join(encode(argv) for part in stream for argv in part)
    ends = [0]
    for argv in (argv for part in stream for argv in part):
        ends.append(ends[-1] + len(encode(argv)))
    upto = data.draw(st.sampled_from(ends) | st.integers(0, len(buf)))
    units, batcher = reader(), Batcher(most, 1 << 20)
    for unit in units.feed(0, buf[:upto], 0):
        batcher.add(unit)
    applied, position, db = [], 0, 0
    for _ in range(data.draw(st.integers(0, 10))):
        batch = batcher.take(units.position, units.db)
        if batch is None:
            break
        applied += batch.units
        position, db = batch.end, batch.db
    again = reader(position, db)
    rest = again.feed(position, buf[position:], 0)
    assert written(applied) + written(rest) == expected(stream)
