"""What is done to all nodes of a cluster at once while nothing else is on its way: records, commands without a key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import hiredis

from canal.cluster import SLOTS
from canal.errors import Unready
from canal.resp import encode
from canal.routing import Lane
from sync.batch import Batch
from sync.target.cluster.node import Flight, Part
from sync.target.cluster.records import record_key
from sync.target.errors import classify, is_transient

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter

_KEEP: Final = b"""\
redis.call(unpack(ARGV, 2, 1 + tonumber(ARGV[1])))
local kept = {}
local cursor = '0'
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', 'redis-canal:*', 'COUNT', 1000)
  cursor = page[1]
  for _, name in ipairs(page[2]) do kept[name] = redis.call('DUMP', name) end
until cursor == '0'
redis.call('FLUSHALL')
for name, payload in pairs(kept) do
  if payload then redis.call('RESTORE', name, 0, payload) end
end
return 'OK'
"""


async def initial_records(writer: ClusterWriter, batch: Batch) -> None:
    """Every slot's record says that all is applied up to the end of the batch, and the frontier is there."""
    writer.frontier = (batch.end, batch.db)
    writer.lanes.skips = []
    mark = Batch(batch.end, batch.db)
    lanes = [Lane() for _ in range(len(writer.links) + 1)]
    for slot in range(SLOTS):
        writer.lanes.mark(lanes[writer.lanes.owners[slot]], slot, batch.end)
    await _apart(writer, mark, lanes)
    await _saved(writer, mark)


async def no_records(writer: ClusterWriter, batch: Batch) -> None:
    """Before a snapshot: no record may speak of positions of before."""
    writer.checkpoint.save(batch, now=True, nodes=True)
    await writer.quiet(but=1)
    lanes = [Lane() for _ in range(len(writer.links) + 1)]
    for slot in range(SLOTS):
        key = record_key(writer.task, writer.shard, slot)
        writer.lanes.place(lanes, slot, [b"DEL", key], batch.end, -1, True)
    await _apart(writer, Batch(batch.end, batch.db, snapshot=True, progress=batch.progress), lanes)


async def _saved(writer: ClusterWriter, batch: Batch) -> None:
    writer.checkpoint.save(batch, now=True)
    await writer.quiet(but=1)


async def _apart(writer: ClusterWriter, batch: Batch, lanes: list[Lane]) -> None:
    """Send these lanes as a batch of their own, and wait until all is done."""
    flight = Flight(batch, batch.end - 1, pending=1)
    for link, lane in zip(writer.links, lanes[1:], strict=True):
        if lane.slots:
            flight.pending += 1
            writer.calls.send(link, Part(flight, lane, witnesses=len(lane.slots)))
    writer.wait_slots(flight, lanes[0])
    flight.pending -= 1
    while flight.pending:
        if writer.error is not None:
            raise writer.error
        await asyncio.sleep(0.001)


async def flush_everywhere(writer: ClusterWriter, batch: Batch) -> None:
    """FLUSHALL on every node; the reserved keys of all links stay."""
    head = b"#!lua flags=allow-cross-slot-keys\n" if writer.scripts.modern else b""
    done: list[asyncio.Future[list[Any]]] = []
    for link in writer.links:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        done.append(future)
        tag = writer.tag_words(batch, link.tag.key)
        link.send(encode([b"EVAL", head + _KEEP, b"0", b"%d" % len(tag), *tag]), 1, future.set_result)
    for replies in [await one for one in done]:
        if isinstance(replies[0], hiredis.ReplyError):
            error = classify(str(replies[0]), "FLUSHALL")
            raise error if error.transient else Unready(str(error))


async def command_everywhere(writer: ClusterWriter, flight: Flight, number: int, argv: list[bytes]) -> None:
    """A command without a key: to every node, in a transaction of its own with the node's tag."""
    done: list[asyncio.Future[list[Any]]] = []
    for link in writer.links:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        done.append(future)
        tag = encode(writer.tag_words(flight.batch, link.tag.key))
        data = b"*1\r\n$5\r\nMULTI\r\n" + tag + encode(argv) + b"*1\r\n$4\r\nEXEC\r\n"
        link.send(data, 4, lambda replies, future=future: future.done() or future.set_result(replies))  # type: ignore[misc]
    for replies in [await one for one in done]:
        texts = [str(one) for one in replies[:3] if isinstance(one, hiredis.ReplyError)]
        if isinstance(replies[3], list):
            texts += [str(one) for one in replies[3] if isinstance(one, hiredis.ReplyError)]
        if any(is_transient(text) for text in texts):
            raise Unready(f"target refused {argv[0]!r}: {texts[0]}")
        if texts and not any(number == known for known, _ in flight.failures or []):
            flight.fail(number, texts[0])
