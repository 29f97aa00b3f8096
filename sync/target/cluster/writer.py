"""The writer of a cluster target: batches in, commits out, the nodes side by side, in order for each slot.

It has the face of the standalone `Writer`. A batch is split into one call for each node; it is committed when all of
them are answered and nothing of it waits in a slot that is moving. Batches commit in order, and the newest one below
which everything is committed is the frontier that the slots' records carry.

There are two ways of sending: a script for each node (`calls`), and where there is much at once a transaction for each
slot (`bulk`). Here is what both have in common: what comes next, what goes alone, and what is settled.

Whatever breaks a connection ends the writer, and everything starts again from the records. What does not break one is
dealt with: a slot that has moved or is moving waits alone (`moving`), the rest of its node's calls is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from canal.cluster import slot_of
from canal.errors import CanalError, Unreachable
from canal.position import Position
from canal.routing import Lane
from sync.batch import Batch
from sync.render import Failures
from sync.sendwindow import SendWindow
from sync.status import LinkStatus
from sync.tag import Tagger
from sync.target.cluster.bulk import MOST_BY_SCRIPT, MOST_BYTES, Bulk, cut
from sync.target.cluster.calls import Calls
from sync.target.cluster.checkpoint import LinkCheckpoint
from sync.target.cluster.connection import ClusterConnection
from sync.target.cluster.fencing import ClusterFence
from sync.target.cluster.lanes import Lanes, of_slot
from sync.target.cluster.moving import MovingSlots, Waiting
from sync.target.cluster.node import Flight, NodeLink, Part
from sync.target.cluster.records import record_prefix
from sync.target.cluster.script import Scripts
from sync.target.cluster.sweeping import command_everywhere, flush_everywhere, initial_records, no_records

_MARK_S: Final = 1.0
"""How long a node may go without a record that carries the frontier while others get some."""
_PER_NODE: Final = 2
"""Parts of a batch may have so many times the configured commands: a node is held up by one for some 5 ms."""


class ClusterWriter:
    """Has no nodes before `opening.open_writer`. ``on_commit(batch, failures)`` is called in order; ``error`` is set
    when it ended.
    """

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
        self.gated = False  # a transaction for each slot in the place of the script; for measuring
        self.task, self.shard = task, shard
        self.prefix = record_prefix(task, shard)
        self.replid_at = replid_at
        self.frontier = (start, fence.checkpoint.db)
        self.phase = "none" if fence.records.missing else "stream"  # what the slots' records speak of
        self.moving = MovingSlots(self)
        self.calls = Calls(self)
        self.bulk = Bulk(self)
        self.checkpoint = LinkCheckpoint(tagger, fence.info.run_id, replid_at, self._of_checkpoint, self.fail)
        self.wake = wake
        self._tagger = tagger
        self._on_commit = on_commit
        self._judge = judge
        self._begin = self.frontier[0]
        self._window = SendWindow(fence.rtt)
        self._alone: asyncio.Task[None] | None = None
        self._cutting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = (-1, -1)
        self._moved_at = 0.0

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
        return self.bulk.busy or (not held and self._window.admits(self.calls.bytes))

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
        self.spawn(self._apply_cut(batch))

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
        self.checkpoint.close()
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
                self.calls.send(link, Part(flight, lane))
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

    # commits

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
            self.checkpoint.save(done.batch)
        self.wake()

    def _of_checkpoint(self) -> NodeLink | None:
        """The node that has the checkpoint's slot."""
        index = self.lanes.owners[slot_of(self._tagger.key)]
        return self.links[index - 1] if index else None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work beside the sending; an error of it ends this writer."""
        task = asyncio.create_task(self._watched(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
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
                    await command_everywhere(self, flight, number, argv)
            if batch.noscript:
                for link, lane in zip(self.links, lanes[1:], strict=True):
                    if lane.slots:
                        flight.pending += 1
                        self.calls.send_transactions(link, Part(flight, lane))
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
            await self._until(
                lambda: self._window.admits(self.calls.bytes) and not any(link.held for link in self.links)
            )
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


def wanted_phase(batch: Batch) -> str:
    """What the slots' records have to speak of for this batch."""
    return "snapshot" if batch.snapshot else "stream"
