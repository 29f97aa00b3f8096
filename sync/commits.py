"""What a committed batch means: for the figures, the journal, the pace, and for what judges the target's replies.

A command that failed is a dead letter, or tells that both sides differ, or is of no importance; which of them is
decided here. What ends the link by policy is kept until the session may raise it.
"""

from __future__ import annotations

import time

from canal.capture import Capture
from canal.errors import CanalError
from canal.position import Position
from sync.batch import Batch, command_at
from sync.conditional import is_conditional
from sync.config import LinkConfig
from sync.converge import Converge
from sync.echo import Echoer
from sync.effects import without_effect
from sync.pacing import Pacing
from sync.refusals import Refusals
from sync.render import Failures
from sync.slots import SlotKeeper
from sync.status import LinkStatus
from sync.target.cluster.writer import ClusterWriter
from sync.target.standalone import Writer
from sync.throttle import Throttle
from sync.troubles import Troubles
from sync.ttl import TtlGuard
from sync.watch import SourceWatch

_FAILING_ON_PURPOSE = (b"EVAL", b"EVALSHA", b"FCALL")
"""Scripts that servers before 5.0 replicate as they are: one that failed at the source fails again here."""


class Commits:
    """Of one session, whose writer calls `commit` and `without_effect`; ``writer`` is to be set before it does.

    ``begin``, ``replid``: where the session begins; ``generation``: of the capture when that was decided. ``kept``: two
    ways without ``converge``, asks for expired keys that live on at the target.
    """

    writer: Writer | ClusterWriter

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        capture: Capture,
        troubles: Troubles,
        watch: SourceWatch,
        refusals: Refusals,
        throttle: Throttle,
        pacing: Pacing | None,
        converge: Converge | None,
        kept: Echoer | None,
        slots: SlotKeeper | None,
        *,
        begin: int,
        replid: str,
        generation: int,
    ) -> None:
        self.batches = 0
        self.committed = begin  # all up to there is at the target
        self.last_replid = replid  # under which the stream stood there
        self.fatal: CanalError | None = None  # nothing more is to be sent; what is on its way may hold failures too
        self.guard: TtlGuard | None = None
        self._config = config
        self._status = status
        self._capture = capture
        self._troubles = troubles
        self._watch = watch
        self._refusals = refusals
        self._throttle = throttle
        self._pacing = pacing
        self._converge = converge
        self._kept = kept
        self._slots = slots
        self._generation = generation

    def replid_at(self, offset: int) -> str:
        """The replication id under which the source's stream stood at ``offset``."""
        return self._capture.journal.replid_at(offset) or self.last_replid

    def commit(self, batch: Batch, failures: Failures) -> None:
        """A batch is at the target; its commands with errors are dead letters."""
        if self._capture.generation != self._generation:
            return  # of a stream that is over: its offsets mean nothing in the new one
        status = self._status
        now = time.time()
        self.batches += 1
        self.committed = batch.end
        self.last_replid = self.replid_at(batch.end)
        self._troubles.progressed()
        status.batches += 1
        if isinstance(self.writer, ClusterWriter):
            self.writer.count(status)
        status.commands_applied += batch.count - len(failures)
        status.commands_left_out += batch.void
        status.bytes_applied += batch.size
        status.last_applied = now
        if failures:
            self._failed(batch, failures)
        if batch.snapshot:
            return
        status.applied_offset = batch.end
        status.applied_received_ms = batch.last_received_ms
        if batch.count:
            status.observe_latency(max(0.0, now - batch.received_ms / 1000))
        monotonic = time.monotonic()
        latency_s = monotonic - batch.sent
        if self._pacing is not None:
            self._pacing.committed(batch.count, batch.size, not self.writer.idle, monotonic)
        if self.guard is not None:
            self.guard.latency_s = latency_s
            self.guard.committed(batch.end)
        if self._throttle.on:
            self._throttle.committed(latency_s)
        converge, journal = self._converge, self._capture.journal
        if converge is not None:
            converge.judged(Position(self.last_replid, batch.end), batch.db)
        self._watch.note_boundary(batch.end, batch.db)
        journal.release(batch.end if converge is None else converge.keep_from(batch.end))
        journal.mark(batch.end, batch.db)

    def without_effect(self, batch: Batch, numbers: list[int]) -> None:
        """Two ways: these commands were answered by 0 or nil. Where they had to do something, their keys differ."""
        if batch.snapshot or self._capture.generation != self._generation:
            return
        for db, argv in without_effect(batch, numbers):
            if self._converge is not None:
                self._converge.replies.unlike(db, argv)
            elif self._kept is not None and is_conditional(argv):
                self._kept.ask([(db, argv[3])])

    def _failed(self, batch: Batch, failures: Failures) -> None:
        for number, text in failures:
            found = command_at(batch, number)
            if found is None:
                continue
            db, argv, end = found
            if batch.snapshot and text.startswith(("BUSYKEY", "ERR Library")):
                self._status.snapshot.keys_kept += 1
                continue
            if argv[0].upper() in _FAILING_ON_PURPOSE and not batch.solo:
                self._status.filtered("script-error")
                continue
            if self._slots is not None and not self._slots.settled(argv, db):
                self._status.filtered("slot-moved")
                continue
            if self._converge is not None and not batch.snapshot and self._converge.replies.refused(db, argv, text):
                self._status.conflicts_marked += 1
                continue
            error = self._refusals.give_up(end, db, argv, text)
            if self._config.on_error == "stop" and self.fatal is None:
                self.fatal = error
