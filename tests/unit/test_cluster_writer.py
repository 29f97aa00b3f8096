"""The writer of a cluster target beside a node whose answers come in an order that real ones seldom take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from canal.cluster import SLOTS, Topology, slot_of
from canal.cluster.topology import Member, Shard
from canal.endpoint import parse_url
from canal.errors import CanalError
from canal.position import Position
from canal.resp import encode, parse
from sync.batch import Batch
from sync.conditional import DELETE_IF
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence, NodeTag
from sync.target.cluster.lanes import Lanes
from sync.target.cluster.node import NodeLink
from sync.target.cluster.records import Record, Records
from sync.target.cluster.script import Scripts
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import Connection
from sync.target.fence import ServerInfo
from sync.unit import Piece, Unit

REPLID = "a" * 40
NODE = "n" * 40


class Wire(Connection):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__(parse_url("redis://h:1"))
        self.sent: list[list[bytes]] = []
        self.hear: Callable[[bytes], None] = lambda data: None

    def write(self, data: bytes) -> None:
        at = 0
        while (parsed := parse(data, at, len(data))) is not None:
            self.sent.append(parsed[0])
            at = parsed[1]

    def stream(
        self, on_data: Callable[[bytes], None], on_lost: Callable[[CanalError], None], on_writable: Callable[[], None]
    ) -> None:
        self.hear = on_data

    def close(self, error: CanalError | None = None) -> None:
        self.closed = error


def made(committed: list[int], kept: list[list[int]] | None = None) -> tuple[ClusterWriter, Wire]:
    wire = Wire()
    topology = Topology((Shard(Member(NODE, "h", 1), (), ((0, SLOTS - 1),)),))
    conn = ClusterConnection(parse_url("redis+cluster://h:1"), topology)
    conn.nodes[NODE] = wire
    records = Records([Record(Position(REPLID, 0), 0, 0)] * SLOTS, [NODE] * SLOTS)
    fence = ClusterFence(Checkpoint(), ServerInfo("7.0.0", "redis", "r", REPLID), True, 0.0, records)
    lanes = Lanes("t", "0", lambda db, key: key)
    lanes.owners = [1] * SLOTS

    def commit(batch: Batch, failures: Any) -> None:
        committed.append(batch.end)

    key = checkpoint_key("t", "0")
    writer = ClusterWriter(
        conn,
        fence,
        Tagger(key, "uid", "a", None),
        *("t", "0", lambda offset: REPLID, Scripts(True), lanes),
        start=0,
        on_commit=commit,
        wake=lambda: None,
        judge=None if kept is None else lambda batch, numbers: kept.append(numbers),
    )
    writer.checkpoint._saved_at = 1e12  # the link's own checkpoint is not what is looked at here
    writer.links.append(NodeLink(NODE, wire, NodeTag(1, key, b"c"), writer.fail, writer.wake))
    return writer, wire


def batch(end: int, *commands: list[bytes]) -> Batch:
    raw = b"".join(map(encode, commands))
    unit = Unit(end, 0, [Piece(0, raw, len(commands))], 0)
    return Batch(end, 0, units=[unit], count=len(commands), size=len(raw))


async def steps() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_record_that_is_ahead_is_not_put_back() -> None:
    """A node that gets nothing of a batch has a record written all the same: not of a slot that is beyond it, or after
    another crash what the slot has applied already would be applied once more.
    """
    committed: list[int] = []
    writer, wire = made(committed)
    writer.lanes.skips = [500] * SLOTS
    writer.submit(batch(100, [b"INCR", b"a"]))
    assert (wire.sent, committed) == ([], [100])
    writer.submit(batch(600, [b"INCR", b"a"]))
    assert [argv[0] for argv in wire.sent] == [b"EVALSHA"]


async def test_a_node_is_put_in_order_while_questions_about_a_moving_slot_are_on_their_way() -> None:
    """All calls are answered while the transaction of the slot that waits is not: they are sent again all the same."""
    committed: list[int] = []
    writer, wire = made(committed)
    assert slot_of(b"a") != slot_of(b"b")
    writer.submit(batch(100, [b"SET", b"a", b"1"], [b"SET", b"b", b"1"]))
    writer.submit(batch(200, [b"SET", b"b", b"2"]))
    assert [argv[0] for argv in wire.sent] == [b"EVALSHA", b"EVALSHA"]
    wire.sent.clear()
    wire.hear(b"*2\r\n:0\r\n$1\r\n!\r\n")  # the slot of a is moving
    await steps()
    assert [argv[0] for argv in wire.sent] == [b"MULTI", b"HSET", b"SET", b"EXEC"]
    wire.sent.clear()
    wire.hear(b"-MOVED_ON chain is c.1!\r\n")
    await steps()
    again = wire.sent[0]
    assert again[0] == b"EVALSHA" and again[-3:] == [b"SET", b"b", b"2"]
    assert again[4] == b"c.1!"  # as the first call has left it
    assert committed == []
    wire.sent.clear()
    wire.hear(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n+OK\r\n")
    wire.hear(b"*0\r\n")
    await steps()
    assert committed == [100, 200]
    assert wire.sent[0][0] == b"EXISTS"  # does the slot stand still?
    assert writer.lanes.owners[slot_of(b"a")] == 0
    wire.hear(b":0\r\n")
    await steps()
    assert writer.lanes.owners[slot_of(b"a")] == 1 and writer.error is None
    writer.close()


def conditional(key: bytes) -> list[bytes]:
    return [b"EVAL", DELETE_IF, b"1", key, b"1000", b"1", b""]


async def test_a_conditional_delete_that_left_its_key_is_told_when_its_batch_is_committed() -> None:
    committed: list[int] = []
    kept: list[list[int]] = []
    writer, wire = made(committed, kept)
    writer.submit(batch(100, [b"SET", b"a", b"1"], conditional(b"a"), conditional(b"b")))
    wire.hear(b"*4\r\n:1\r\n$1\r\n~\r\n:2\r\n$1\r\n~\r\n")
    assert (kept, committed) == ([[1, 2]], [100])
    writer.submit(batch(200, conditional(b"a")))
    wire.hear(b"*0\r\n")
    assert (kept, committed) == ([[1, 2]], [100, 200])
    writer.close()


async def test_a_conditional_delete_in_a_slot_that_waits_is_told_too() -> None:
    committed: list[int] = []
    kept: list[list[int]] = []
    writer, wire = made(committed, kept)
    writer.submit(batch(100, [b"SET", b"a", b"1"], conditional(b"a")))
    wire.hear(b"*2\r\n:0\r\n$1\r\n!\r\n")
    await steps()
    wire.hear(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:0\r\n+OK\r\n:0\r\n")
    await steps()
    assert (kept, committed) == ([[1]], [100])
    writer.close()


async def test_what_is_refused_with_tryagain_is_sent_again_unit_by_unit() -> None:
    """Nothing of a transaction that met TRYAGAIN was applied; the next attempt is smaller, then waits."""
    committed: list[int] = []
    writer, wire = made(committed)
    writer.submit(batch(100, [b"SET", b"a", b"1"], [b"INCR", b"a"]))
    wire.hear(b"*2\r\n:0\r\n$1\r\n!\r\n")
    await steps()
    wire.sent.clear()
    refused = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
    wire.hear(b"+OK\r\n" + refused + refused + refused + b"-EXECABORT Transaction discarded\r\n")
    for _ in range(100):
        await asyncio.sleep(0.001)
        if wire.sent:
            break
    assert [argv[0] for argv in wire.sent][:2] == [b"MULTI", b"HSET"] and committed == []
    assert [argv[0] for argv in wire.sent] == [b"MULTI", b"HSET", b"SET", b"EXEC"]
    wire.sent.clear()
    wire.hear(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n+OK\r\n")
    await steps()
    assert [argv[0] for argv in wire.sent] == [b"MULTI", b"HSET", b"INCR", b"EXEC"] and committed == []
    wire.hear(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n:2\r\n")
    await steps()
    assert committed == [100]
    writer.close()


async def test_a_batch_that_goes_alone_is_committed_when_it_is_answered_and_not_with_the_one_before() -> None:
    committed: list[int] = []
    writer, wire = made(committed)
    writer.submit(batch(100, [b"SET", b"a", b"1"]))
    alone = batch(200, conditional(b"a"))
    alone.noscript = True
    writer.submit(alone)
    await steps()
    wire.sent.clear()
    wire.hear(b"*0\r\n")
    assert committed == [100]
    for _ in range(100):
        await asyncio.sleep(0.001)
        if wire.sent:
            break
    assert [argv[0] for argv in wire.sent] == [b"MULTI", b"HSET", b"EVAL", b"EXEC"] and committed == [100]
    wire.hear(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n:1\r\n")
    assert committed == [100, 200]
    writer.close()
