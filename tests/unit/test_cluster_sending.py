"""Large batches as transactions by slot, beside a node whose answers come in an order that real ones seldom take."""

from __future__ import annotations

from typing import Any

import pytest

from canal.cluster import slot_of
from canal.errors import Unready
from canal.resp import encode
from sync.batch import Batch
from sync.target.cluster.bulk import cut
from sync.target.cluster.writer import ClusterWriter
from sync.unit import Piece, Unit
from tests.unit.test_cluster_writer import Wire, batch, made, steps

OK, QUEUED = b"+OK\r\n", b"+QUEUED\r\n"
GOOD = OK + 2 * QUEUED + b"*2\r\n:0\r\n" + OK
NEW = OK + 2 * QUEUED + b"*2\r\n:3\r\n" + OK
AGAIN = (
    OK + QUEUED + b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n-EXECABORT Transaction discarded\r\n"
)


def sets(*keys: str, value: str = "1") -> list[list[bytes]]:
    return [[b"SET", key.encode(), value.encode()] for key in keys]


def ready(committed: list[int]) -> tuple[ClusterWriter, Wire]:
    writer, wire = made(committed)
    writer.bulk.least = 2
    return writer, wire


def names(wire: Wire) -> list[bytes]:
    found, wire.sent = [argv[0] for argv in wire.sent], []
    return found


async def test_a_slot_gets_one_transaction_and_its_sets_are_joined() -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("{a}1", "b"), [b"INCR", b"{b}n"], *sets("{a}2", "{b}2", "{a}1", value="2")))
    by_key = {argv[1]: argv for argv in wire.sent if argv[0] == b"MSET"}
    assert by_key[b"{a}1"] == [b"MSET", b"{a}1", b"1", b"{a}2", b"2", b"{a}1", b"2"]
    assert sorted(names(wire)) == sorted(
        [b"MULTI", b"HSET", b"MSET", b"EXEC", b"MULTI", b"HSET"] + [b"SET"] * 2 + [b"INCR", b"EXEC"]
    )
    assert not writer.idle
    a, b = slot_of(b"a") % 8, slot_of(b"b") % 8
    assert a != b
    replies_b = OK + 4 * QUEUED + b"*4\r\n:3\r\n" + OK + b":1\r\n" + OK
    wire.hear(NEW + replies_b if a < b else replies_b + NEW)
    await steps()
    assert committed == [100] and writer.idle
    writer.close()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers_as_expected_are_compared_whatever_their_pieces(size: int) -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("{a}1", "{a}2")))
    writer.submit(batch(200, *sets("{a}1", "{a}2")))
    replies = GOOD + NEW
    for at in range(0, len(replies), size):
        wire.hear(replies[at : at + size])
    await steps()
    assert committed == [100, 200] and writer.error is None
    writer.close()


async def test_what_a_slot_has_next_is_sent_when_the_batch_before_is_answered() -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("{a}1", "{a}2")))
    assert names(wire) == [b"MULTI", b"HSET", b"MSET", b"EXEC"]
    writer.submit(batch(200, *sets("{a}1", "{a}2")))
    assert names(wire) == [] and not writer.room
    wire.hear(GOOD)
    await steps()
    assert names(wire) == [b"MULTI", b"HSET", b"MSET", b"EXEC"] and writer.room
    wire.hear(GOOD)
    await steps()
    assert committed == [100, 200]
    writer.close()


async def test_a_refused_transaction_is_not_overtaken_and_goes_command_by_command() -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("{a}1", "{a}2")))
    writer.submit(batch(200, *sets("{a}3", "{a}4", "b", value="2")))
    assert names(wire) == [*b"MULTI HSET MSET EXEC".split(), *b"MULTI HSET SET EXEC".split()]  # b is of another set
    wire.hear(AGAIN)
    await steps()
    assert names(wire) == [b"MULTI", b"HSET", b"SET", b"SET", b"EXEC"]  # not joined, and nothing of the second batch
    assert writer.lanes.owners[slot_of(b"a")] == 0 and not writer.room
    wire.hear(GOOD)  # of b
    wire.hear(OK + 3 * QUEUED + b"*3\r\n:0\r\n" + OK + OK)
    await steps()
    assert committed == [100]
    assert [argv[1] for argv in wire.sent if argv[0] == b"SET"] == [b"{a}3", b"{a}4"]
    names(wire)
    wire.hear(OK + 3 * QUEUED + b"*3\r\n:0\r\n" + OK + OK)
    await steps()
    assert committed == [100, 200]
    writer.close()


async def test_each_command_of_a_joined_one_that_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    failures: list[Any] = []
    monkeypatch.setattr(writer, "_on_commit", lambda batch, found: failures.extend(found))
    writer.submit(batch(100, *sets("{a}1"), [b"INCR", b"{a}n"], *sets("{a}2", "{a}3")))
    wire.hear(OK + 4 * QUEUED + b"*4\r\n:0\r\n" + OK + b"-WRONGTYPE x\r\n-NOPERM y\r\n")
    await steps()
    assert failures == [(1, "WRONGTYPE x"), (2, "NOPERM y"), (3, "NOPERM y")]
    writer.close()


@pytest.mark.parametrize(
    "replies",
    [
        OK + b"-OOM command not allowed when used memory > 'maxmemory'.\r\n" * 2 + b"-EXECABORT x\r\n",
        OK + QUEUED * 2 + b"*2\r\n-WRONGTYPE the record\r\n" + OK,
        OK + b"-NOPERM no permissions to access a key\r\n" + QUEUED + b"-EXECABORT x\r\n",
    ],
    ids=["memory", "record", "key of the record"],
)
async def test_what_does_not_belong_to_a_command_ends_the_writer(replies: bytes) -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("{a}1", "{a}2")))
    wire.hear(replies)
    await steps()
    assert isinstance(writer.error, Unready) and committed == []


async def test_a_large_batch_waits_for_scripts_and_small_ones_behind_it_go_its_way() -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    writer.submit(batch(100, *sets("a")))
    writer.submit(batch(200, *sets("{a}1", "{a}2")))
    assert names(wire) == [b"EVALSHA"]
    wire.hear(b"*0\r\n")
    await steps()
    assert names(wire) == [b"MULTI", b"HSET", b"MSET", b"EXEC"]
    writer.submit(batch(300, *sets("a")))
    wire.hear(GOOD)
    await steps()
    assert names(wire) == [b"MULTI", b"HSET", b"SET", b"EXEC"]
    wire.hear(GOOD)
    writer.submit(batch(400, *sets("a")))
    assert names(wire) == [b"EVALSHA"] and committed == [100, 200, 300]
    writer.close()


async def test_a_slot_that_has_too_much_goes_by_scripts_in_parts() -> None:
    committed: list[int] = []
    writer, wire = ready(committed)
    runs = [sets(*["a"] * 1500) for _ in range(6)]
    raws = [b"".join(map(encode, run)) for run in runs]
    units = [Unit(100 * (at + 1), 0, [Piece(0, raw, 1500)], 0) for at, raw in enumerate(raws)]
    writer.submit(Batch(650, 0, units, 9000, sum(map(len, raws))))
    await steps()
    assert names(wire) == [b"EVALSHA", b"EVALSHA"]
    wire.hear(b"*0\r\n*0\r\n")
    await steps()
    assert committed == [400, 650] and writer.idle and writer.room
    assert not writer.bulk.wide  # for a while
    writer.close()


def test_a_batch_is_cut_between_its_units() -> None:
    units = [Unit(10 * at, 0, [Piece(0, b"x" * at, at)], at, seen=f"s{at}", needs=f"n{at}") for at in (1, 2, 3, 4)]
    whole = Batch(99, 5, list(units), 10, 10, origin="o", seen="s1", needs="n4", received_ms=1, last_received_ms=4)
    parts = cut(whole, 3)
    assert [(one.end, one.db, one.count, one.size) for one in parts] == [(20, 0, 3, 3), (30, 0, 3, 3), (99, 5, 4, 4)]
    assert [(one.seen, one.needs, one.received_ms) for one in parts] == [
        ("s1", "n2", 1),
        ("s3", "n3", 3),
        ("s4", "n4", 4),
    ]
    assert [unit for one in parts for unit in one.units] == units
