"""One fenced connection's life: a writer, what its commits mean, and when it has to be given up.

A snapshot (`sync.snapshot`) and then the stream (`sync.streaming`) are written through it. A session never repairs
anything: whatever goes wrong ends it, and the link starts the next one from the checkpoint.
"""

from __future__ import annotations

import asyncio
import time

from canal.capture import Capture
from canal.errors import CanalError, Unready
from canal.position import Position
from sync.batch import Batch
from sync.commits import Commits
from sync.config import LinkConfig
from sync.converge import Converge
from sync.deadletter import DeadLetters
from sync.echo import Echoer
from sync.expiry import Deadlines
from sync.fieldexpiry import FieldRule
from sync.heartbeat import Heartbeat
from sync.letters import Requests
from sync.order import Order
from sync.pacing import Pacing
from sync.refetch import Refetch
from sync.refusals import Refusals
from sync.render import RAW, Form
from sync.slotgate import SlotGate
from sync.slots import SlotKeeper
from sync.status import LinkStatus
from sync.tag import Tagger
from sync.target.cluster.parts import ClusterParts
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import Connection
from sync.target.fence import Fence
from sync.target.standalone import Writer
from sync.throttle import Throttle
from sync.troubles import Troubles
from sync.ttl import TtlMemory
from sync.verify.sampler import Sampler
from sync.watch import SourceWatch

REPLY_TIMEOUT_S = 60.0
"""A connection on which nothing moves for so long, though work is on its way, is given up."""
_LOOK_S = 0.05
"""How often it is looked whether anything moves: that asks the kernel."""


class Superseded(CanalError):
    """Capture began anew while this session was at work: the next session starts from what there is then."""


class Session:
    """Writes to one connection. ``wake`` is set by capture, the writer and the ticker.

    ``converge``: two ways. ``kept``: two ways without conflicts, asks for expired keys that live on at the target.
    ``slots``: of a shard of a source cluster.
    """

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        conn: Connection,
        fence: Fence,
        tagger: Tagger,
        wake: asyncio.Event,
        troubles: Troubles,
        watch: SourceWatch,
        dead: DeadLetters,
        guarded: bool,
        start: Position,
        generation: int,
        throttle: Throttle,
        form: Form = RAW,
        cluster: ClusterParts | None = None,
        converge: Converge | None = None,
        kept: Echoer | None = None,
        slots: SlotKeeper | None = None,
    ) -> None:
        self.config = config
        self.status = status
        self.capture = capture
        self.wake = wake
        self.troubles = troubles
        self.watch = watch
        self.generation = generation  # of the capture, when it was decided to go on at ``start``
        self.throttle = throttle
        self.converge = converge
        self.slots = slots
        self.databases = 16  # of the target
        self.paused = False  # nothing new is taken from the journal; what was sent is finished
        at = fence.checkpoint.position
        self.tagger = tagger
        self.pacing = None if guarded else Pacing(config.batch_commands, config.batch_bytes, fence.rtt)
        self.refusals = Refusals(config, status, dead, troubles, lambda: self.last_replid)
        commits = self.commits = Commits(
            config,
            status,
            capture,
            troubles,
            watch,
            self.refusals,
            throttle,
            self.pacing,
            converge,
            kept,
            slots,
            begin=at.offset if at else 0,
            replid=start.replid,
            generation=generation,
        )
        self.writer: Writer | ClusterWriter = (
            cluster.writer(tagger, commits.replid_at, commits.commit, wake.set, commits.without_effect)
            if cluster is not None
            else Writer(
                conn,
                tagger,
                commits.replid_at,
                guarded=guarded,
                epoch=fence.checkpoint.epoch,
                stands=(str(at) if at else "", fence.checkpoint.progress),
                pipelined_multi=fence.info.flavor == "valkey" or fence.info.numbers >= (6, 2, 0),
                on_commit=commits.commit,
                wake=wake.set,
                rtt_s=fence.rtt,
                form=form,
                judge=commits.without_effect if config.two_way else None,
            )
        )
        commits.writer = self.writer
        self._looked = 0.0
        self.requests = Requests(config.state_dir)
        self.refetch: Refetch | None = None
        self.sampler: Sampler | None = None
        self.heartbeat: Heartbeat | None = None
        self.ttl_memory: TtlMemory | None = None  # what guards of earlier sessions left to do
        self.fields: FieldRule | None = None  # and those of hash fields
        self.deadlines: Deadlines | None = None  # two ways: those of the snapshot are learned
        self.order: Order | None = None  # in a mesh
        self.gate: SlotGate | None = None  # of a shard's stream, two ways

    @property
    def batches(self) -> int:
        """How many this session has committed."""
        return self.commits.batches

    @property
    def committed(self) -> int:
        """The offset up to which all is at the target."""
        return self.commits.committed

    @property
    def last_replid(self) -> str:
        """The replication id under which the source's stream stood at ``committed``."""
        return self.commits.last_replid

    def check(self) -> None:
        """Raise what ends the session, `Superseded` among it. Cheap to call often."""
        fatal, error = self.commits.fatal, self.writer.error
        if fatal is not None and (self.writer.idle or error is not None):
            raise fatal
        if error is None and self.gate is not None and self.writer.idle:
            error = self.gate.error
        if error is not None:
            raise error
        if self.capture.generation != self.generation:
            raise Superseded("the source began a new snapshot")
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if self.writer.stuck_for(now) > REPLY_TIMEOUT_S:
            raise Unready(
                f"target {self.config.target.label} has neither taken nor answered anything for {REPLY_TIMEOUT_S:g} s "
                "though a transaction is on its way: connecting anew"
            )

    async def drain(self) -> None:
        """Wait until everything submitted is committed."""
        while not self.writer.idle:
            self.check()
            self.wake.clear()
            await self.wake.wait()
        self.check()

    async def submit(self, batch: Batch) -> None:
        """Submit when there is room (for the snapshot, which has no other work meanwhile)."""
        if self.converge is not None and not batch.seen:
            batch.seen = self.converge.snapshot_seen
        self.check()
        throttle = self.throttle
        while (
            not self.writer.room
            or self.paused
            or self.commits.fatal is not None
            or (self.troubles.snapshot_single and not self.writer.idle)
            or (throttle.on and throttle.holds(self.wake.set))
        ):
            self.wake.clear()
            await self.wake.wait()
            self.check()
        if throttle.on:
            throttle.spend(batch.count, batch.size)
        self.writer.submit(batch)
