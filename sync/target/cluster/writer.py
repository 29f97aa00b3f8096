"""The writer of a cluster target: batches in, commits out, the nodes side by side, in order for each slot.

It has the face of the standalone `Writer`. A batch is split into one call for each node; it is committed when all of
them are answered and nothing of it waits in a slot that is moving. Batches commit in order, and the newest one below
which everything is committed is the frontier that the slots' records carry.

Whatever breaks a connection ends the writer, and everything starts again from the records. What does not break one is
dealt with here: a slot that has moved or is moving waits alone (`moving`), the rest of its node's calls is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis

from canal.cluster import slot_of
from canal.errors import CanalError, Unreachable, Unready
from canal.position import Position
from canal.resp import encode
from canal.routing import Lane
from sync.batch import Batch
from sync.render import Failures
from sync.sendwindow import SendWindow
from sync.status import LinkStatus
from sync.tag import Tagger
from sync.target.cluster.bulk import MOST_BY_SCRIPT, MOST_BYTES, Bulk, cut
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import NODES, ClusterFence, NodeTag, fence_node, open_node
from sync.target.cluster.lanes import Lanes, of_slot, without
from sync.target.cluster.moving import MovingSlots, Waiting
from sync.target.cluster.node import Flight, NodeLink, Part
from sync.target.cluster.records import record_prefix
from sync.target.cluster.script import KEPT, MAX_ARGUMENTS, Scripts, call
from sync.target.cluster.sweeping import flush_everywhere, initial_records, no_records
from sync.target.errors import classify, is_transient
from sync.target.fence import may_join

log = logging.getLogger(__name__)

_MARK_S: Final = 1.0
"""How long a node may go without a record that carries the frontier while others get some."""
_SAVE_S: Final = 1.0
_PER_NODE: Final = 2
"""Parts of a batch may have so many times the configured commands: a node is held up by one for some 5 ms."""


class ClusterWriter:
    """Made by `open_writer`. ``on_commit(batch, failures)`` is called in order; ``error`` is set when it ended."""

    guarded = True

    def __init__(
        self,
        conn: ClusterConnection,
        fence: ClusterFence,
        tagger: Tagger,
        task: str,
        shard: str,
        replid_at: Callable[[int], str],
        scripts: Scripts,
        lanes: Lanes,
        *,
        start: int,
        on_commit: Callable[[Batch, Failures], None],
        wake: Callable[[], None],
        judge: Callable[[Batch, list[int]], None] | None = None,
    ) -> None:
        self.error: CanalError | None = None
        self.sent_to = 0
        self.in_flight: deque[Flight] = deque()
        self.conn = conn
        self.scripts = scripts
        self.lanes = lanes
        self.links: list[NodeLink] = []
        self.epoch = fence.checkpoint.epoch
        self._run_ids = fence.info.run_id
        self.gated = False  # a transaction for each slot in the place of the script; for measuring
        self.task, self.shard = task, shard
        self.prefix = record_prefix(task, shard)
        self.replid_at = replid_at
        self.frontier = (start, fence.checkpoint.db)
        self.phase = "none" if fence.records.missing else "stream"  # what the slots' records speak of
        self.moving = MovingSlots(self)
        self.bulk = Bulk(self)
        self.wake = wake
        self._tagger = tagger
        self._on_commit = on_commit
        self._judge = judge
        self._begin = self.frontier[0]
        self._bytes = 0
        self._window = SendWindow(fence.rtt)
        self._alone: asyncio.Task[None] | None = None
        self._cutting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = (-1, -1)
        self._moved_at = 0.0
        self._saved_at = 0.0
        self._unsaved: Batch | None = None

    # what the session asks

    @property
    def room(self) -> bool:
        """True when a batch may be submitted now."""
        if self.error is not None or self._alone is not None or self._cutting:
            return False
        if self.moving.full or not self.bulk.room:
            return False
        if not self.in_flight:
            return True
        if self.gated:
            return False
        held = any(link.conn.paused or link.held for link in self.links)
        return self.bulk.busy or (not held and self._window.admits(self._bytes))

    def bounds(self, commands: int, size: int) -> tuple[int, int]:
        """How large batches may be, where these are the bounds for one server: each node gets a part, and a slot's
        record is written once for all that a batch has of the slot.
        """
        width = _PER_NODE * max(1, len(self.links))
        if self.bulk.wide:
            return commands * max(width, self.bulk.width), max(size * width, min(size * self.bulk.width, MOST_BYTES))
        return commands * width, size * width

    @property
    def idle(self) -> bool:
        """Nothing on its way."""
        return not self.in_flight and self._alone is None and not self._cutting

    @property
    def skips_until(self) -> int:
        """Position below which some slots are applied already."""
        return max(self.lanes.skips, default=-1)

    def stuck_for(self, now: float) -> float:
        """Seconds in which nothing of what is on its way has moved; 0 when idle."""
        moved = (sum(link.received for link in self.links), -self.conn.unsent)
        if self.idle or moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at

    def submit(self, batch: Batch) -> None:
        """Send a batch; only when `room`."""
        alone = batch.solo or batch.noscript or self.phase != wanted_phase(batch)
        if alone or not self.bulk.takes(batch):
            self._submit(batch, alone)
            return
        flight = self._begun(batch)
        if self.bulk.send(flight):
            flight.bulk = True
            self.settle(flight)
            return
        self.in_flight.pop()
        self._begin = flight.begin
        self._cutting = True  # nothing comes in between, also while one part has set and left ``_alone``
        self._spawn(self._apply_cut(batch))

    def _begun(self, batch: Batch) -> Flight:
        self.sent_to = batch.end
        batch.sent = time.monotonic()
        flight = Flight(batch, self._begin, pending=1)  # also one that waits to go alone is not settled
        self._begin = batch.end
        self.in_flight.append(flight)
        if self.lanes.skips and flight.begin >= self.skips_until:
            self.lanes.skips = []
        return flight

    def _submit(self, batch: Batch, alone: bool) -> None:
        """By scripts."""
        flight = self._begun(batch)
        if alone:
            self._alone = asyncio.create_task(self._apply_alone(flight))
            return
        lanes, everywhere = self.lanes.split(batch, len(self.links) + 1)
        if everywhere:
            self._alone = asyncio.create_task(self._apply_alone(flight))
            return
        self._send(flight, lanes)
        self.settle(flight)

    def count(self, status: LinkStatus) -> None:
        """Move what was counted into the status."""
        status.transactions_split += self.lanes.split_units
        status.target_slots_moved += self.moving.seen
        self.lanes.split_units = self.moving.seen = 0

    def close(self, error: CanalError | None = None) -> None:
        """Drop all connections; nothing more is sent."""
        self.fail(error or Unreachable("closed"))

    def fail(self, error: CanalError) -> None:
        """The end of this writer."""
        if self.error is None:
            self.error = error
        self.conn.close(error)
        for task in (*self._tasks, *([self._alone] if self._alone else [])):
            if task is not asyncio.current_task():
                task.cancel()
        self.moving.close()
        self.wake()

    # sending

    def _send(self, flight: Flight, lanes: list[Lane]) -> None:
        """One call for each node that gets something; a mark for those that have had nothing for long."""
        now = time.monotonic()
        batch = flight.batch
        for index, link in enumerate(self.links, 1):
            lane = lanes[index]
            idle = not batch.snapshot and not lane.slots and self.due(batch, link, now)
            if idle and self.lanes.owners[link.tag.slot] == index:
                self.lanes.mark(lane, link.tag.slot, batch.end)
            if lane.slots or (batch.snapshot and not batch.units and index == 1):
                link.marked_at = now
                flight.pending += 1
                self.send_part(link, Part(flight, lane))
        self.wait_slots(flight, lanes[0])

    def due(self, batch: Batch, link: NodeLink, now: float) -> bool:
        """Must a node that gets nothing of the batch have a record written?"""
        return not batch.units or now - link.marked_at > _MARK_S

    def wait_slots(self, flight: Flight, lane: Lane) -> None:
        """The lane of slots that are moving."""
        for slot in dict.fromkeys(lane.slots):
            self.wait(flight, slot, of_slot(lane, slot, 0))

    def wait(self, flight: Flight, slot: int, lane: Lane, *, moves: bool = True) -> None:
        """What belongs to a slot that is moving waits, in order."""
        flight.pending += 1
        self.moving.add(Waiting(flight, slot, lane), moves=moves)

    def send_part(self, link: NodeLink, part: Part) -> None:
        """Send a part, or keep it while its node has to be put in order first."""
        if link.held:
            link.refused.append(part)
            return
        if self.gated or part.lane.longest > MAX_ARGUMENTS:
            self._send_transactions(link, part)
            return
        batch = part.flight.batch
        chain = link.next_chain()
        part.chain = chain[1]
        data = call(
            self.scripts,
            part.lane,
            self.tag_words(batch, link.tag.key, chain[1]),
            key=link.tag.key,
            chain=chain,
            epoch=self.epoch,
            prefix=self.prefix,
            replid=self.replid_at(batch.end),
            end=batch.end,
            low=self.low,
            begin=part.flight.begin,
            records=not batch.snapshot,
            witnesses=part.witnesses,
        )
        part.size = len(data)
        self._bytes += part.size
        link.parts.append(part)
        link.send(data, 1, lambda replies: self._answered(link, replies[0]))

    @property
    def low(self) -> bytes:
        """The frontier as records have it."""
        return b"%d/%d" % self.frontier

    def tag_words(self, batch: Batch, key: bytes, chain: bytes | None = None) -> list[bytes]:
        """The HSET that opens a node's transaction."""
        end, seen = batch.end, batch.seen
        if self._tagger.settles and chain is not None and self.moving.queues and self.in_flight:
            # what waits in a slot that moves is on no node yet, and may land where this tag is
            oldest = self.in_flight[0]
            end, seen = min(end, oldest.begin), oldest.batch.seen
        words = self._tagger.words(
            key,
            Position(self.replid_at(end), end),
            origin=batch.origin,
            opos=batch.opos if batch.origin else "",
            seen=seen,
            snapshot=batch.snapshot,
            node=chain is not None,
        )
        return words if chain is None else [*words, b"chain", chain]

    # replies

    def _answered(self, link: NodeLink, reply: Any) -> None:
        part = link.parts.popleft()
        self._bytes -= part.size
        if self.error is not None:
            return
        if isinstance(reply, list):
            if reply:
                self._partly(link, part, reply)
            self.settle(part.flight)
        else:
            text = str(reply)
            if link.held and text.startswith("MOVED_ON"):
                link.refused.append(part)
            elif "attempted to" in text or text.startswith(("MOVED ", "ASK ")):
                link.held = True  # the slot of its tag has left the node
                link.tag.chain = b""
                link.refused.append(part)
            else:
                self.fail(self._verdict(text))
                return
        self.bulk.release(link)
        if link.held and not link.parts:  # questions about slots that are moving may still be on their way
            self._spawn(self._again(link))

    def _partly(self, link: NodeLink, part: Part, reply: list[Any]) -> None:
        """Some commands failed, or some slots are not wholly here."""
        blocked: set[int] = set()
        for index, raw in zip(reply[::2], reply[1::2], strict=True):
            text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
            slot = part.lane.slots[index]
            if text == KEPT:
                part.flight.kept.append(part.lane.numbers[index])
            elif text.startswith("!"):
                blocked.add(slot)
                self.wait(part.flight, slot, of_slot(part.lane, slot, index))
            elif is_transient(text):
                self.fail(Unready(f"target: a command was refused: {text}"))
                return
            else:
                part.flight.fail(part.lane.numbers[index], text)
        if blocked:
            link.held = True
            link.tag.chain = part.chain + b"!"  # whatever was sent behind it is refused

    def _verdict(self, text: str) -> CanalError:
        if text.startswith("MOVED_ON"):
            return Unready(f"target: {text}: another writer was there, starting again from the records")
        if is_transient(text):
            return Unready(f"target refused a batch: {text}")
        return classify(text, "applying a batch by script")

    async def _again(self, link: NodeLink) -> None:
        """All replies of a node that left the chain are there: send what it refused, less the slots that wait."""
        if not link.tag.chain:
            await self.conn.refresh()
            slots = self.conn.slots_of(link.id)
            if not slots:
                for part in link.refused:
                    for slot in dict.fromkeys(part.lane.slots):
                        self.wait(part.flight, slot, of_slot(part.lane, slot, 0))
                    self.settle(part.flight)
                link.refused = []
                link.held = False
                self.bulk.release(link)
                return
            side = await self.moving.side()
            link.tag = await open_node(await side.node(link.id), self.task, self.shard, self.epoch, slots, self.scripts)
        index = self.links.index(link) + 1
        refused, link.refused = link.refused, []
        link.held = False
        for part in refused:
            gone = {slot for slot in part.lane.slots if self.lanes.owners[slot] != index}
            for slot in gone:
                self.wait(part.flight, slot, of_slot(part.lane, slot, 0))
            part.lane = without(part.lane, gone) if gone else part.lane
            if part.lane.slots:
                self.send_part(link, part)
            else:
                self.settle(part.flight)
        self.bulk.release(link)
        self.wake()

    def settle(self, flight: Flight) -> None:
        """One of the things that a batch waited for has happened; commit what is complete, in order."""
        flight.pending -= 1
        while self.in_flight and self.in_flight[0].pending == 0 and self.error is None:
            done = self.in_flight.popleft()
            now = time.monotonic()
            if not done.bulk:
                self._window.committed(now - done.batch.sent, now)
            if not done.batch.snapshot:
                self.frontier = (done.batch.end, done.batch.db)
            if done.kept and self._judge is not None:
                self._judge(done.batch, sorted(done.kept))
            self._on_commit(done.batch, sorted(done.failures or []))
            self.save(done.batch)
        self.wake()

    def save(self, batch: Batch, *, now: bool = False, nodes: bool = False) -> None:
        """The link's checkpoint, now and then; a snapshot's progress depends on it."""
        moment = time.monotonic()
        if not now and batch.units and moment - self._saved_at < _SAVE_S:
            if self._unsaved is None:  # nothing may come after it
                asyncio.get_running_loop().call_later(_SAVE_S, self._save_late)
            self._unsaved = batch
            return
        self._saved_at, self._unsaved = moment, None
        argv = self._tagger.make(
            Position(self.replid_at(batch.end), batch.end),
            batch.db,
            snapshot=batch.snapshot,
            first=batch.first,
            again=batch.again,
            progress=batch.progress,
            full=True,
        )
        if nodes:
            argv += [NODES, self._run_ids.encode()]
        index = self.lanes.owners[slot_of(self._tagger.key)]
        if index:
            self.links[index - 1].send(encode(argv), 1, self._saved)

    def _save_late(self) -> None:
        batch, self._unsaved = self._unsaved, None
        if batch is not None and self.error is None:
            self.save(batch, now=True)

    def _saved(self, replies: list[Any]) -> None:
        if isinstance(replies[0], hiredis.ReplyError) and not str(replies[0]).startswith(("MOVED", "ASK", "TRYAGAIN")):
            self.fail(classify(str(replies[0]), "writing the checkpoint"))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(self._watched(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watched(self, work: Any) -> None:
        try:
            await work
        except CanalError as error:
            self.fail(error)

    # one at a time

    async def quiet(self, but: int = 0) -> None:
        """Until nothing but the newest ``but`` batches is on its way."""
        await self._until(lambda: len(self.in_flight) <= but and all(link.idle for link in self.links))

    async def _apply_alone(self, flight: Flight) -> None:
        """A batch before and after which nothing else is on its way: commands for all nodes, or not for scripts."""
        try:
            await self.quiet(but=1)
            batch = flight.batch
            if self.phase != wanted_phase(batch):
                await (no_records if batch.snapshot else initial_records)(self, batch)
                self.phase = wanted_phase(batch)
            if batch.solo:
                await flush_everywhere(self, batch)
            lanes, everywhere = self.lanes.split(batch, len(self.links) + 1)
            for number, argv in everywhere:
                if not batch.solo:
                    await self._on_all(flight, number, argv)
            if batch.noscript:
                for link, lane in zip(self.links, lanes[1:], strict=True):
                    if lane.slots:
                        flight.pending += 1
                        self._send_transactions(link, Part(flight, lane))
                self.wait_slots(flight, lanes[0])
            else:
                self._send(flight, lanes)
            self._alone = None
            self.settle(flight)
            if batch.solo:
                self._alone = asyncio.current_task()
                await self.quiet()
                await initial_records(self, batch)  # all nodes are beyond the flush before anything follows it
                self._alone = None
                self.wake()
        except CanalError as error:
            self._alone = None
            self.fail(error)

    async def _apply_cut(self, batch: Batch) -> None:
        """A large batch that has to go by scripts: in parts, once nothing of large ones is on its way."""
        await self._until(lambda: not self.bulk.busy)
        for part in cut(batch, MOST_BY_SCRIPT):
            await self._until(lambda: self._window.admits(self._bytes) and not any(link.held for link in self.links))
            self._submit(part, alone=False)
            await self._until(lambda: self._alone is None)  # of one with a command for all nodes
        self._cutting = False
        self.wake()

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait for something that replies bring about. Raises what has ended this writer."""
        while not ready():
            if self.error is not None:
                raise self.error
            await asyncio.sleep(0.001)

    async def _on_all(self, flight: Flight, number: int, argv: list[bytes]) -> None:
        """A command without a key: to every node, in a transaction of its own with the node's tag."""
        done: list[asyncio.Future[list[Any]]] = []
        for link in self.links:
            future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            done.append(future)
            tag = encode(self.tag_words(flight.batch, link.tag.key))
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

    def _send_transactions(self, link: NodeLink, part: Part) -> None:
        """The other way of sending: MULTI, the slot's record as tag, its commands, EXEC, for each slot."""
        lane = part.lane
        for slot in dict.fromkeys(lane.slots):
            part.flight.pending += 1
            self.moving.transact(link, Waiting(part.flight, slot, of_slot(lane, slot, 0)), 1 << 30)
        self.settle(part.flight)


def wanted_phase(batch: Batch) -> str:
    """What the slots' records have to speak of for this batch."""
    return "snapshot" if batch.snapshot else "stream"


async def open_writer(writer: ClusterWriter) -> None:
    """Give the writer its nodes: the scripts loaded, a chain begun on each. Raises Unready when slots move then."""
    conn = writer.conn
    opened: list[tuple[str, NodeTag]] = []
    for node_id, node in list(conn.nodes.items()):
        slots = conn.slots_of(node_id)
        if slots:
            tag = await open_node(node, writer.task, writer.shard, writer.epoch, slots, writer.scripts)
            opened.append((node_id, tag))
    if writer.bulk.least and not all([await may_join(conn.nodes[node_id], tag.key) for node_id, tag in opened]):
        writer.bulk.least = 0
    for node_id, tag in opened:
        index = add_link(writer, node_id, tag)
        for slot in conn.slots_of(node_id):
            writer.lanes.owners[slot] = index


def add_link(writer: ClusterWriter, node_id: str, tag: NodeTag) -> int:
    """A node more; the index of its lane."""
    writer.links.append(NodeLink(node_id, writer.conn.nodes[node_id], tag, writer.fail, writer.wake))
    return len(writer.links)


async def new_node(writer: ClusterWriter, node_id: str) -> int:
    """Fence a node that was not there at the start, and use it; its index among the links."""
    node = await writer.conn.node(node_id)
    await fence_node(node, writer.task, writer.shard, writer.epoch)
    slots = writer.conn.slots_of(node_id)
    if not slots:
        await writer.conn.refresh()
        slots = writer.conn.slots_of(node_id)
    if not slots:
        raise Unready(f"node {node_id} serves no slot yet")
    tag = await open_node(node, writer.task, writer.shard, writer.epoch, slots, writer.scripts)
    return add_link(writer, node_id, tag) - 1
