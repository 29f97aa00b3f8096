"""A look at the source before each PSYNC: what it is, how large its backlog, and whether it has failed over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from canal.capture import Capture
from canal.commands import ServerKind
from canal.endpoint import Endpoint
from canal.located import source_of
from canal.position import Position
from sync.config import LinkConfig
from sync.failover import Fork, Unknowable, written_beyond
from sync.preflight import kind, source_info
from sync.target.fence import ServerInfo

log = logging.getLogger(__name__)

_BOUNDARY_BYTES = 64 * 1024
_BOUNDARIES = 16384


class SourceWatch:
    """What is known of the source. ``sent_to()``: the newest offset that may have been applied at the target."""

    def __init__(self, config: LinkConfig, sent_to: Callable[[], int]) -> None:
        self.kind: ServerKind | None = None
        self.source: ServerInfo | None = None  # as it said of itself last
        self.backlog_bytes = 1 << 20
        self.clock_offset_ms = 0  # the source's clock minus ours
        self._config = config
        self._sent_to = sent_to
        self._boundaries: deque[tuple[int, int]] = deque(maxlen=_BOUNDARIES)
        self.capture: Capture | None = None

    def learn(self, info: ServerInfo) -> None:
        """Take up what the source said of itself."""
        self.kind, self.source = kind(info), info
        self.backlog_bytes = info.backlog_bytes or self.backlog_bytes
        if info.clock_ms:
            self.clock_offset_ms = info.clock_ms - time.time_ns() // 1_000_000

    def note_boundary(self, offset: int, db: int) -> None:
        """Remember (offset, database) of unit boundaries, sparsely: a fork needs one at or before it."""
        known = self._boundaries
        if not known or offset - known[-1][0] >= _BOUNDARY_BYTES or offset < known[-1][0]:
            known.append((offset, db))

    def boundary_before(self, offset: int) -> tuple[int, int] | None:
        """The newest known unit boundary at or before ``offset``, with its database."""
        return next((known for known in reversed(self._boundaries) if known[0] <= offset), None)

    async def before_psync(self) -> Endpoint:
        """Called before each attempt to connect; where to connect to."""
        found = await source_info(self._config)
        if found is not None:
            self.learn(found)
            await self._look_for_fork(found)
        if self.capture is not None:
            known = set() if found is None else {found.replid, found.replid2} - {"", "0" * 40}
            await self.capture.before_asking(known, 0 if found is None else found.backlog_first)
        return await source_of(self._config.source)

    async def _look_for_fork(self, source: ServerInfo) -> None:
        """Cut the journal where the history of a promoted source parts from what was received; see `sync.failover`."""
        assert self.capture is not None
        journal = self.capture.journal
        ours = journal.position
        fork = source.second_offset - 1
        if ours is None or source.replid2 != ours.replid or not journal.start <= fork < ours.offset:
            return
        at = Position(ours.replid, fork)
        log.warning("the source failed over: its history parts from ours at %s, %d bytes back", at, ours.offset - fork)
        if self._sent_to() > fork and Fork.load(self._config.state_dir) is None:
            known = [boundary for boundary in self._boundaries if boundary[0] <= fork]
            if not known:
                log.warning("what was replayed beyond the fork is not known any more: a full resync is needed")
                return
            try:
                db, places = await asyncio.to_thread(written_beyond, journal, max(known), fork)
            except Unknowable as error:
                log.warning("%s: a full resync is needed", error)
                return
            Fork(at, db, places).save(self._config.state_dir)
            log.info("fetching %d keys again that were written beyond the fork", len(places))
        self.capture.cut(fork)
