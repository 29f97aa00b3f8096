"""Capture: what the source sends, kept for replay, whatever replay does meanwhile.

Ties together the `Replica` (the connection), the `Spool` (a snapshot on disk), the `Journal` (the stream on disk) and
the `Tail` (its newest part in memory), and makes the decisions of PSYNC: where to go on, and when only a full resync
is left. Capture never waits for replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.journal.journal import Journal
from canal.journal.reader import StreamReader
from canal.journal.spool import Spool
from canal.journal.tail import Tail
from canal.position import Position
from canal.replica import Replica, Timing

log = logging.getLogger(__name__)

_SPOOL_HIGH = 32 << 20
_NO_ROOM_RETRY_S = 30.0
_PLAN_S = 5.0

Plan = Literal["stream", "snapshot", "wait"]


@dataclass(slots=True)
class CaptureOptions:
    """Sizes in bytes, times in seconds; see `sync.config.JournalOptions`."""

    segment_bytes: int
    fsync: Literal["always", "everysec", "no"]
    max_bytes: int
    retain_bytes: int
    retain_seconds: float
    tail_bytes: int


@dataclass(slots=True)
class CaptureStatus:
    """What capture counted and last heard; read by the link's status."""

    connected: bool = False
    offset: int = 0  # newest byte received
    received_ms: int = 0
    last_heard: float = 0.0
    full_resyncs: int = 0
    partial_resyncs: int = 0
    reconnects: int = 0
    rdb_received: int = 0
    rdb_total: int = 0
    error: str | None = None
    errors: int = 0
    full: str | None = None  # why the journal cannot take more


class Capture:
    """One source's snapshot and stream. ``changed`` is called whenever there may be something new for replay."""

    def __init__(
        self,
        endpoint: Endpoint,
        directory: Path,
        options: CaptureOptions,
        changed: Callable[[], None],
        *,
        fail_fast: bool = False,
        locate: Callable[[], Awaitable[Endpoint]] | None = None,
        on_full_resync: Callable[[str], None] | None = None,
    ) -> None:
        self.status = CaptureStatus()
        self.generation = 0  # grows with every new beginning: readers of older ones are of no use
        self.tail = Tail(options.tail_bytes, 0)
        self.journal = Journal(
            directory / "journal",
            segment_bytes=options.segment_bytes,
            fsync=options.fsync,
            max_bytes=options.max_bytes,
            retain_bytes=options.retain_bytes,
            retain_seconds=options.retain_seconds,
            call_soon=asyncio.get_running_loop().call_soon_threadsafe,
            on_full=self._journal_full,
            on_room=self._journal_room,
            on_pressure=self._pressure,
            on_failed=self._failed,
        )
        self.spool = Spool(
            directory / "snapshot",
            call_soon=asyncio.get_running_loop().call_soon_threadsafe,
            on_full=self._no_room,
            on_complete=changed,
        )
        self._receiving = False  # an RDB is on its way
        self._held = False
        self._torn = False  # an RDB was on its way when an earlier process ended
        self._changed = changed
        self._on_full_resync = on_full_resync
        self._replica = Replica(endpoint, self, fail_fast=fail_fast, timing=Timing(), locate=locate)
        self.begun = asyncio.Event()  # a position to ask for is known
        self._asked: Position | None = None  # what an open PSYNC question asks for
        self._open_question = False
        self._reason = "first contact"
        self._joining = False
        self.joined: Position | None = None  # where `join` has begun
        self._planned = asyncio.Event()  # the target's checkpoint is known

    # --- set-up and end ---

    def open(self) -> list[str]:
        """Recover what is on disk; returns what people should hear of. Raises StateError."""
        recovery = self.journal.open()
        notes = list(recovery.damages)
        trouble = self.spool.open()
        if trouble is not None:
            notes.append(trouble)
            self._torn = True
        position = self.spool.position
        if position is not None and not self.journal.covers(position):
            notes.append(f"the snapshot at {position} is of no use without the stream after it, which is not on disk")
            self.spool.delete()
            self._torn = not self.journal.positioned  # else the checkpoint tells whether the journal is of use
        if self.journal.positioned:
            self.tail.restart(self.journal.end)
            self.status.offset = self.journal.end
        return notes

    async def run(self) -> None:
        """Follow the source until `stop`; raises what cannot be retried."""
        await self._replica.run()

    @property
    def can_begin(self) -> bool:
        """The journal alone tells where to go on, so that capture need not wait for the target."""
        return self.journal.positioned and not self._torn

    def begin(self) -> None:
        """Let `run` ask the source; from the journal's end, or from what `plan` decided."""
        self.begun.set()

    def stop(self) -> None:
        """Leave the source; what has been received stays."""
        self._replica.stop()
        self.status.connected = False

    async def close(self) -> None:
        """Bring everything to disk and close it."""
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.spool.close)

    def reader(self, offset: int, on_readable: Callable[[], None]) -> StreamReader:
        """The stream from ``offset`` on; one reader at a time. ``on_readable`` is called when disk had more."""
        return StreamReader(self.journal, self.tail, offset, on_readable=on_readable)

    # --- decisions ---

    def plan(self, position: Position | None, mid_snapshot: bool, earlier: Position | None = None) -> Plan:
        """What replay can do next, given its checkpoint; asks the source for what is missing.

        ``mid_snapshot``: the checkpoint stands within the snapshot taken at ``position``. ``earlier``: a place
        before it from which the source still has the stream, wanted in the journal as well.
        """
        if position is not None and not mid_snapshot and not self._planned.is_set():
            self._adopt(position)
        self._planned.set()
        if position is not None and not mid_snapshot and self.journal.covers(position):
            if self.spool.complete:
                self.spool.delete()  # applied, and the process ended or the target was lost before it could go
            if not self._receiving:
                self._torn = False  # whatever was lost, the journal does without it
                self.begun.set()
            return "stream"
        if self.spool.position is not None:
            return "snapshot"
        if self._open_question:
            return "wait"
        if position is None or mid_snapshot:
            self._ask(None, "first contact" if position is None else "the snapshot being applied is no longer on disk")
        elif self._will_arrive(position):
            return "wait"
        else:
            self._ask(earlier or position, f"the journal does not reach the target's checkpoint {position}")
        return "wait"

    def _adopt(self, position: Position) -> None:
        """Bytes are missing in the journal: go on from the stretch that holds the checkpoint, if there is one."""
        if self.journal.runs < 2 or self.journal.covers(position) or not self.journal.adopt(position):
            return
        log.info("the checkpoint %s is in an older stretch of the journal: going on from its end", position)
        self.tail.restart(self.journal.end)
        self.status.offset = self.journal.end
        self.generation += 1

    async def before_asking(self, known: set[str], first: int = 0) -> None:
        """Before the source is asked to go on where the journal ends. ``known``: its replication ids; empty: not known.
        ``first``: offset of the oldest byte in its backlog; 0: not known.

        Where the journal has a gap, is of another source, or ends before the backlog begins (another node has gone on
        with the shard since), the target's checkpoint tells better what to ask for, so
        it is waited for, though not for long: a target that is away must not keep the stream from being taken.
        """
        ours = self.journal.position
        if ours is None or self._planned.is_set():
            return
        foreign = bool(known) and ours.replid not in known
        if foreign:
            log.warning(
                "the journal holds offsets %d to %d of replication id %s, which the source does not know (it is %s): "
                "the target's checkpoint decides what is asked for",
                self.journal.start,
                self.journal.end,
                ours.replid,
                " and ".join(sorted(known)),
            )
        if foreign or self.journal.runs > 1 or ours.offset + 1 < first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PLAN_S):
                    await self._planned.wait()

    def moved(self, to: Endpoint) -> None:
        """The source is another server now: leave the old one, whatever its connection does."""
        if self.status.full is None and not (self.status.connected and self._replica.endpoint == to):
            self._replica.pause(f"the source is {to.label} now")
            self._replica.resume()

    def full_resync(self, reason: str) -> None:
        """Ask the source for a snapshot, whatever is there."""
        self._ask(None, reason)

    def join(self) -> None:
        """Begin where the source is now, without its snapshot: the caller knows both sides equal.

        A snapshot is asked for and left at once, since only after one begins it is sure that the stream tells the
        database of its first command; then the stream is asked for from the same position. ``joined`` says where.
        """
        if not self._joining:
            self._joining, self.joined = True, None
            self._ask(None, "to join the stream, without the snapshot")

    def _will_arrive(self, position: Position) -> bool:
        """The checkpoint is a little ahead of a journal that lost its newest bytes, and the stream is coming."""
        ours = self.journal.position
        return (
            self.status.connected
            and ours is not None
            and ours.replid == position.replid
            and position.offset > ours.offset
        )

    def _ask(self, position: Position | None, reason: str) -> None:
        log.info("asking the source for %s: %s", position or "a full resync", reason)
        self._asked, self._open_question, self._reason = position, True, reason
        if self.begun.is_set():
            self._replica.pause(reason)
            self._replica.resume()
        self.begun.set()
        self._changed()

    # --- ReplicaSink ---

    def resume_position(self) -> Position | None:
        if self._open_question:
            return self._asked
        if self._receiving or self._torn:
            return None
        return self.journal.position

    def on_full_resync(self, position: Position, length: int | None) -> None:
        if self._joining:
            self._leave_snapshot(position)
            return
        trouble = self.spool.begin(position, length)
        if trouble is not None:
            self._no_room(trouble)
            return
        reason = self._why()
        log.info("full resync at %s: %s", position, reason)
        self._open_question, self._asked, self._torn, self._receiving = False, None, False, True
        self.journal.reset(position)
        self.tail.restart(position.offset)
        self.status.full_resyncs += 1
        self.status.rdb_received, self.status.rdb_total = 0, length or 0
        self._online(position)
        self.generation += 1
        if self._on_full_resync is not None:
            self._on_full_resync(reason)
        self._changed()

    def _leave_snapshot(self, position: Position) -> None:
        self._open_question, self._asked, self._torn, self._receiving = False, None, False, False
        self.spool.delete()
        self.journal.reset(position)
        self.tail.restart(position.offset)
        self.generation += 1
        self._online(position)
        self._replica.pause("joining the stream")
        self._replica.resume()

    def _why(self) -> str:
        """The reason of a full resync that the source has just begun."""
        if self._receiving or self._torn:
            return "the connection broke within the snapshot"
        if not self._open_question:
            return "the source no longer has the stream from where the journal ends"
        return "the source no longer has the stream from the target's checkpoint" if self._asked else self._reason

    def on_rdb(self, data: memoryview) -> None:
        if self._joining:
            return
        self.status.rdb_received += len(data)
        self.status.last_heard = time.time()
        self.spool.write(data)
        if self.spool.pending_bytes > _SPOOL_HIGH and not self._held:
            self._held = True
            self._replica.hold()
            self._look_at_spool()

    def _look_at_spool(self) -> None:
        """Read on from the source once the disk has taken most of what waits."""
        if self.spool.pending_bytes > _SPOOL_HIGH // 4:
            asyncio.get_running_loop().call_later(0.02, self._look_at_spool)
            return
        self._held = False
        self._replica.release()

    def on_rdb_end(self) -> None:
        if self._joining:
            return
        self._receiving = False
        self.spool.finish()
        self._changed()

    def on_continue(self, position: Position) -> None:
        journal = self.journal
        if self._open_question or not journal.positioned:
            asked = self._asked
            if not journal.covers(position) or position.offset != journal.end:
                if asked is not None and asked.offset == position.offset and asked.replid != position.replid:
                    journal.reset(asked)  # the checkpoint's id, which a source that failed over knows as its second
                    journal.continue_as(position.replid)
                else:
                    journal.reset(position)
                self.tail.restart(position.offset)
                self.generation += 1
            self._open_question, self._asked, self._torn = False, None, False
        elif journal.position != position:
            log.info("the source goes on under the replication id %s from offset %d", position.replid, position.offset)
            journal.continue_as(position.replid)
        if self._joining:
            log.info("joined the source's stream at %s", position)
            self._joining, self.joined = False, position
        self.status.partial_resyncs += 1
        self._online(position)
        self._changed()

    def on_stream(self, data: memoryview) -> None:
        now = time.time()
        now_ms = int(now * 1000)
        status = self.status
        self.tail.append(self.journal.append(data, now_ms))
        status.offset += len(data)
        status.received_ms = now_ms
        status.last_heard = now
        self._changed()

    def on_disconnect(self, error: CanalError, retry_in_s: float) -> None:
        status = self.status
        status.connected = False
        status.error = str(error)
        if not math.isinf(retry_in_s):
            status.errors += 1
            status.reconnects += 1
        if self._receiving:
            self.spool.abort()
        self._changed()

    def ack_offset(self) -> int:
        return self.journal.durable_end

    # --- the journal's side ---

    def _online(self, position: Position) -> None:
        self.status.connected = True
        self.status.error = None
        self.status.offset = position.offset
        self.status.last_heard = time.time()

    def _pressure(self, high: bool) -> None:
        """The disk is slower than the network: let the source wait a little rather than fill memory."""
        if high:
            self._replica.hold()
        else:
            self._replica.release()

    def _failed(self, error: CanalError) -> None:
        self.status.error = str(error)
        self._replica.pause(str(error))

    def cut(self, offset: int) -> None:
        """Forget the stream from ``offset`` on: the source's history is another one there."""
        self.journal.truncate(offset)
        self.tail.restart(offset)
        self.status.offset = offset
        self.generation += 1
        self._changed()

    def damaged(self, start: int) -> None:
        """The journal's bytes from ``start`` on cannot be read: ask the source for them again."""
        log.error("the journal is damaged from offset %d on: asking the source for the stream from there", start)
        self.cut(max(start, self.journal.start))
        self._ask(self.journal.position, f"the journal is damaged from offset {start} on")

    def _no_room(self, reason: str) -> None:
        """A snapshot does not fit on the disk: leave the source, and try again later."""
        self._receiving = False
        self.status.full = reason
        self.status.error = reason
        log.error("the snapshot cannot be kept: %s; trying again in %.0f s", reason, _NO_ROOM_RETRY_S)
        self._replica.pause(reason)
        asyncio.get_running_loop().call_later(_NO_ROOM_RETRY_S, self._journal_room)
        self._changed()

    def _journal_full(self, reason: str) -> None:
        self.status.full = reason
        self.status.error = reason
        log.error("the journal cannot take more: %s", reason)
        self._replica.pause(reason)
        self._changed()

    def _journal_room(self) -> None:
        self.status.full = None
        log.info("the journal has room again")
        self._replica.resume()
        self._changed()
