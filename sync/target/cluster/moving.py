"""Slots that are moving between nodes of the target: each waits alone, in order, while all others go on.

What belongs to such a slot goes in transactions, which Redis applies wholly or not at all while a slot is moving: the
slot's record, then the commands. The answers tell what to do: MOVED, go to the new owner; ASK for all, the keys are not
here any more: to the node that imports them, by a script that writes one key after the other; anything else, wait. Once
a slot has nothing more to send and is seen to be still, it goes the ordinary way again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import hiredis

from canal.cluster import slot_tag
from canal.errors import CanalError, Unready
from canal.position import Position
from canal.resp import encode
from canal.routing import Lane
from sync.effects import nothing
from sync.target.cluster.connection import ClusterConnection, open_cluster
from sync.target.cluster.lanes import argc_of, command_of, less, of_slot
from sync.target.cluster.node import Flight, NodeLink
from sync.target.cluster.opening import new_node
from sync.target.cluster.records import record_key
from sync.target.cluster.script import KEPT
from sync.target.errors import is_of_keys, is_transient

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter

log = logging.getLogger(__name__)

_BOUND_BYTES: Final = 32 << 20
_REST_S: Final = 0.01
_AT_ONCE: Final = 100
AWAY: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "EXECABORT")
"""Errors of a transaction that say where its slot is, or nothing."""


@dataclass(slots=True)
class Waiting:
    """What one batch has for one slot."""

    flight: Flight
    slot: int
    lane: Lane


class MovingSlots:
    """The queues of the slots that wait."""

    def __init__(self, writer: ClusterWriter) -> None:
        self.queues: dict[int, deque[Waiting]] = {}
        self.seen = 0  # how many slots were met moving
        self._writer = writer
        self._bytes = 0
        self._where: dict[int, str] = {}  # node id, where it is not the one of the topology
        self._tasks: set[asyncio.Task[None]] = set()
        self._side: ClusterConnection | None = None
        self._opening = asyncio.Lock()

    @property
    def full(self) -> bool:
        """Too much waits: no more is taken from the stream."""
        return self._bytes > _BOUND_BYTES

    def add(self, waiting: Waiting, *, moves: bool = True) -> None:
        """Queue it behind what the slot has already; its flight has counted it. ``moves``: the slot does."""
        slot = waiting.slot
        self._bytes += sum(map(len, waiting.lane.parts))
        queue = self.queues.get(slot)
        if queue is None:
            queue = self.queues[slot] = deque()
            self._writer.lanes.owners[slot] = 0
            self.seen += moves
            task = asyncio.create_task(self._drive(slot, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append(waiting)

    def close(self) -> None:
        """Nothing more is sent."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._side is not None:
            self._side.close()

    async def side(self) -> ClusterConnection:
        """Connections for calls, beside those that batches go on."""
        async with self._opening:
            if self._side is None or any(node.closed is not None for node in self._side.nodes.values()):
                self._side = await open_cluster(self._writer.conn.endpoint)
            return self._side

    # one slot

    async def _drive(self, slot: int, queue: deque[Waiting]) -> None:
        try:
            most = _AT_ONCE
            while self._writer.error is None:
                if not queue:
                    if await self._still(slot):
                        return
                    await asyncio.sleep(_REST_S)
                    continue
                done = await self._attempt(queue[0], most)
                if done < 0:
                    most = 1
                    await asyncio.sleep(_REST_S)
                elif done >= len(queue[0].lane.slots):
                    finished = queue.popleft()
                    self._bytes -= sum(map(len, finished.lane.parts))
                    self._writer.settle(finished.flight)
                elif done:
                    head = queue[0]
                    self._bytes -= sum(map(len, head.lane.parts))
                    head.lane = of_slot(head.lane, slot, done)
                    self._bytes += sum(map(len, head.lane.parts))
                else:
                    most = 1
        except CanalError as error:
            self._writer.fail(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("slot %d", slot)
            self._writer.fail(Unready(f"slot {slot}: {error}"))

    async def _link(self, slot: int) -> NodeLink:
        writer = self._writer
        node = self._where.get(slot) or writer.conn.owner(slot).id
        for link in writer.links:
            if link.id == node:
                return link
        async with self._opening:
            for link in writer.links:
                if link.id == node:
                    return link
            return writer.links[await new_node(writer, node)]

    async def _still(self, slot: int) -> bool:
        """When the slot is not moving any more, it goes the ordinary way again."""
        link = await self._link(slot)
        reply = (await self._sent(link, encode([b"EXISTS", self._writer.prefix + slot_tag(slot) + b"}?"]), 1))[0]
        if isinstance(reply, hiredis.ReplyError):
            await self._moved(slot, str(reply))
            return False
        if self.queues[slot]:
            return False
        index = self._writer.links.index(link)
        self._writer.lanes.owners[slot] = index + 1
        del self.queues[slot]
        self._writer.wake()
        return True

    async def _attempt(self, waiting: Waiting, most: int) -> int:
        """How many commands of it are settled now; 0: fewer at once; -1: nothing can be done for now."""
        link = await self._link(waiting.slot)
        lane = waiting.lane
        upto = units_within(lane, most)
        data, count = self.transaction(waiting, upto)
        replies = await self._sent(link, data, count)
        if isinstance(replies[-1], list):
            self.failures(waiting, replies[-1])
            return upto
        errors = [str(one) for one in replies[1:] if isinstance(one, hiredis.ReplyError)]
        lasting = self._lasting(waiting, replies)
        if lasting:
            return 0
        first = next((text for text in errors if not text.startswith("EXECABORT")), errors[0])
        if first.startswith("MOVED "):
            await self._moved(waiting.slot, first)
            return 0
        asked = [text for text in errors if text.startswith("ASK ")]
        if asked and len(asked) >= len(errors) - 1 and (len(asked) == count - 2 or str(replies[-1]).startswith("ASK ")):
            return await self._import(waiting, asked[0], units_within(lane, 1))
        if is_transient(first) and not first.startswith(AWAY):
            raise Unready(f"target refused a transaction: {first}")
        return 0 if upto > units_within(lane, 1) else -1

    def _lasting(self, waiting: Waiting, replies: list[Any]) -> bool:
        """Commands that no node will take are dead letters; true when there were some."""
        bad = []
        numbers = real(waiting.lane, len(waiting.lane.slots))
        ours = isinstance(replies[1], hiredis.ReplyError)  # where the record is forbidden too, it is no rule of keys
        for index, one in zip(numbers, replies[2:-1], strict=False):
            text = str(one)
            if not isinstance(one, hiredis.ReplyError) or text.startswith(AWAY):
                continue
            if not is_transient(text) or (is_of_keys(text) and not ours):
                waiting.flight.fail(waiting.lane.numbers[index], text)
                bad.append(index)
        if bad:
            kept = less(waiting.lane, set(bad))
            if not kept.slots:  # the record still has to be written
                kept.add(waiting.slot, b"", b"", 0, waiting.flight.batch.end, -1)
            waiting.lane = kept
        return bool(bad)

    async def _import(self, waiting: Waiting, error: str, upto: int) -> int:
        """The node that imports the slot is asked to do one unit, key by key."""
        writer = self._writer
        member = await self._member(error)
        if member is None:
            return -1
        before = self._where.get(waiting.slot)
        self._where[waiting.slot] = member
        try:
            link = await self._link(waiting.slot)
        finally:
            if before is None:
                self._where.pop(waiting.slot, None)
            else:
                self._where[waiting.slot] = before
        words = self.words(waiting, upto)
        argv = [b"EVALSHA", writer.scripts.careful_sha, b"0", words[1], b"%d" % (len(words) - 2), *words[2:]]
        indexes = real(waiting.lane, upto)
        count = len(argv) + sum(argc_of(waiting.lane, index) + 1 for index in indexes)
        parts = [b"*%d\r\n" % count, *(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)]
        for index in indexes:
            digits = b"%d" % argc_of(waiting.lane, index)
            parts += [b"$%d\r\n%b\r\n" % (len(digits), digits), waiting.lane.parts[2 * index + 1]]
        replies = await self._sent(link, encode([b"ASKING"]) + b"".join(parts), 2)
        reply = replies[1]
        if isinstance(reply, hiredis.ReplyError):
            return -1
        for number, raw in zip(reply[::2], reply[1::2], strict=True):
            text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
            if text == KEPT:
                waiting.flight.kept.append(waiting.lane.numbers[indexes[number]])
            else:
                waiting.flight.fail(waiting.lane.numbers[indexes[number]], text)
        return upto

    # shared with the writer

    def transact(self, link: NodeLink, waiting: Waiting, most: int) -> None:
        """Send a transaction for one slot on its node without waiting; what does not go through is queued."""
        upto = units_within(waiting.lane, most)
        data, count = self.transaction(waiting, upto)

        def then(replies: list[Any]) -> None:
            if self._writer.error is not None:
                return
            if isinstance(replies[-1], list):
                self.failures(waiting, replies[-1])
                self._writer.settle(waiting.flight)
            else:
                self.add(waiting)

        link.send(data, count, then)

    def words(self, waiting: Waiting, upto: int) -> list[bytes]:
        """The slot's record as the tag of its own transaction, with the position that ``upto`` commands reach."""
        writer, batch, lane = self._writer, waiting.flight.batch, waiting.lane
        key = record_key(writer.task, writer.shard, waiting.slot)
        words = writer.tag_words(batch, key)
        if batch.snapshot:
            return words
        whole = upto == len(lane.slots)
        end = batch.end if whole else lane.ends[upto - 1]
        words[words.index(b"pos") + 1] = str(Position(writer.replid_at(batch.end), end)).encode()
        return [*words, b"low", writer.low]

    def transaction(self, waiting: Waiting, upto: int) -> tuple[bytes, int]:
        """MULTI, the record, the first ``upto`` commands, EXEC; and how many replies that gets."""
        lane = waiting.lane
        indexes = real(lane, upto)
        body = [b"*1\r\n$5\r\nMULTI\r\n", encode(self.words(waiting, upto))]
        body += [command_of(lane, index) for index in indexes]
        body.append(b"*1\r\n$4\r\nEXEC\r\n")
        return b"".join(body), 3 + len(indexes)

    def failures(self, waiting: Waiting, results: list[Any]) -> None:
        """Note the commands that failed in a transaction that was applied."""
        for index, one in zip(real(waiting.lane, len(waiting.lane.slots)), results[1:], strict=False):
            if isinstance(one, hiredis.ReplyError):
                waiting.flight.fail(waiting.lane.numbers[index], str(one))
            elif nothing(one) if self._writer.scripts.judging else one == 0 and _is_script(waiting.lane, index):
                waiting.flight.kept.append(waiting.lane.numbers[index])

    # answers

    async def _sent(self, link: NodeLink, data: bytes, count: int) -> list[Any]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def then(replies: list[Any]) -> None:
            if not future.done():
                future.set_result(replies)

        link.send(data, count, then)
        return await future

    async def _member(self, error: str) -> str | None:
        """The node id that a MOVED or ASK names."""
        conn = self._writer.conn
        for attempt in range(2):
            member = conn.topology.redirected(error, fresh=attempt > 0)
            if member is not None:
                return member.id
            if attempt == 0:
                await conn.refresh()
        return None

    async def _moved(self, slot: int, error: str) -> None:
        if not error.startswith("MOVED "):
            return
        member = await self._member(error)
        if member is None:
            await asyncio.sleep(0.1)
            return
        self._where[slot] = member
        conn = self._writer.conn
        for one in conn.topology.masters:
            if one.id == member:
                conn.topology.owners[slot] = one


def _is_script(lane: Lane, index: int) -> bool:
    return lane.parts[2 * index + 1].startswith(b"$4\r\nEVAL\r\n")


def real(lane: Lane, upto: int) -> list[int]:
    """The first ``upto`` commands less those that only have the record written."""
    return [index for index in range(upto) if argc_of(lane, index)]


def units_within(lane: Lane, most: int) -> int:
    """How many commands make whole units, at most ``most`` but at least one unit."""
    total = len(lane.slots)
    upto = min(most, total)
    while upto < total and lane.ends[upto - 1] == lane.ends[upto]:
        upto += 1
    return upto
