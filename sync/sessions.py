"""The making of a link's sessions, and what they have in common: it outlives each of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from canal.capture import Capture
from canal.errors import AuthError, StateError
from canal.position import Position
from sync.config import LinkConfig
from sync.converge import Converge
from sync.deadletter import DeadLetters
from sync.deadline_rules import DeadlineRules
from sync.heartbeat import Heartbeat
from sync.held import held_key, read_held
from sync.kept import Kept
from sync.linkstate import LinkState
from sync.order import Order
from sync.refetch import Place
from sync.render import Form
from sync.rules import Dropped
from sync.session import Session
from sync.slots import SlotKeeper
from sync.status import LinkStatus
from sync.tag import Tagger, checkpoint_key
from sync.target.cluster.opening import open_writer
from sync.target.cluster.parts import ClusterParts
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import Connection
from sync.target.fence import Fence, databases, may_join
from sync.target.script import guard
from sync.throttle import Throttle
from sync.transform import Transform
from sync.troubles import Troubles
from sync.ttl import TtlMemory
from sync.verify.sampler import Sampler
from sync.watch import SourceWatch

log = logging.getLogger(__name__)

_NEAR_S: Final = 0.002
"""Round trips up to this let gated writing keep a target busy; above it guarded batches are pipelined."""


class Sessions:
    """``open`` makes one. Whatever a session is to remember for the next one is an attribute here."""

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        state: LinkState,
        watch: SourceWatch,
        wake: asyncio.Event,
    ) -> None:
        self.transform = Transform(config.transform, status.filtered)
        self.troubles = Troubles()
        self.throttle = Throttle(status, config.throttle)
        self.sampler: Sampler | None = None
        self.heartbeat: Heartbeat | None = None
        self._config = config
        self._status = status
        self._capture = capture
        self._state = state
        self._watch = watch
        self._wake = wake
        self._dead = DeadLetters(config.state_dir)
        self._key = checkpoint_key(config.task, config.shard)
        self._held_key = held_key(config.task, config.shard) if config.two_way else b""
        self._ttl_memory = TtlMemory(seen=state.ttl_seen, note=self._note_ttl)
        group = config.source.group
        shard = group is not None and group.kind == "shard"
        self.slots = SlotKeeper(config, status, self.transform, wake.set) if shard else None
        settles = config.two_way and config.conflicts == "settle"
        owned = None if self.slots is None else self.slots.owns
        self.deadlines = DeadlineRules(config.expiry_max_keys, self._held_key) if config.two_way else None
        self.converge = Converge(config, status, owned) if settles else None
        self.kept = Kept(config, status) if config.two_way and not settles else None
        if self.converge is not None and self.deadlines is not None:
            self.converge.expiry, self.converge.fields = self.deadlines.keys, self.deadlines.fields

    def _note_ttl(self) -> None:
        """Keys with a TTL were met for the first time: a late link of this directory looks at keys from now on."""
        self._state.ttl_seen = True
        try:
            self._state.save(self._config.state_dir)
        except StateError as error:
            log.warning("%s", error)

    def at_target(self, place: Place) -> Place | None:
        """Where a key of the source stands at the target; None: nowhere."""
        placed = self.transform.key(*place)
        return None if isinstance(placed, Dropped) else placed

    async def open(self, conn: Connection, fenced: Fence, start: Position, generation: int) -> Session:
        """A session on a fenced connection, which goes on at ``start`` as was decided in ``generation`` of the capture.
        The connection's replies belong to its writer from then on.
        """
        config = self._config
        cluster = ClusterParts.of(config, conn, fenced, start, self.at_target)
        guarded = cluster is not None or self._guarded(fenced)
        self._status.writer = "guarded" if guarded else "gated"
        if cluster is None and guarded:
            await conn.call(b"SCRIPT", b"LOAD", guard(config.two_way)[0])
        count = await databases(conn)
        if self._held_key and cluster is None and not self._ttl_memory.remembers:
            self._ttl_memory.held = await read_held(conn, self._held_key)
            self._ttl_memory.remembers = True
        elif cluster is not None and self.deadlines is not None:
            self.deadlines.keys.held = b""
        # one way only: two ways, the other link looks at every command here for what it does to its key
        join = cluster is None and not config.two_way and await may_join(conn, self._key)
        form = Form(join=join, compact=config.compact)
        homes = "" if self.converge is None else self.converge.homes.fingerprint
        tagger = Tagger(self._key, self._state.uid, config.source_dc, fenced.checkpoint, homes)
        tagger.slots = None if self.slots is None else self.slots.said
        session = Session(
            config,
            self._status,
            self._capture,
            conn,
            fenced,
            tagger,
            self._wake,
            self.troubles,
            self._watch,
            self._dead,
            guarded,
            start,
            generation,
            self.throttle,
            form=form,
            cluster=cluster,
            converge=self.converge,
            kept=None if self.kept is None else self.kept.echoer,
            slots=self.slots,
        )
        if isinstance(session.writer, ClusterWriter):
            await open_writer(session.writer)
        session.databases = count
        session.ttl_memory = self._ttl_memory
        session.sampler, session.heartbeat = self.sampler, self.heartbeat
        if self.converge is not None and config.direct:
            wait_s, waits = config.causal_wait_s, self._status.waits_for_others
            session.order = Order(config.target, config.direct, wait_s, self._wake.set, waits)
        return session

    def _guarded(self, fenced: Fence) -> bool:
        """Which of the two writer modes a session uses."""
        mode = self._config.writer
        if not fenced.can_kill and mode == "gated":
            raise AuthError(
                f"target {self._config.target.label}: the user may not CLIENT LIST and CLIENT KILL, which gated "
                "writing needs to be safe: grant +client|list +client|kill +client|setname, or use the guarded writer"
            )
        if mode != "auto":
            return mode == "guarded"
        old = fenced.info.flavor == "redis" and fenced.info.numbers < (6, 2, 0)
        return old or not fenced.can_kill or fenced.rtt > _NEAR_S
