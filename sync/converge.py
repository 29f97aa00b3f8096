"""A two-way link's part in making datacenters converge: conflicts in its stream, echoes asked for, figures shown.

`Converge` lives as long as the link; `open` makes the `Conflicts` of one session, which begins by reading again from
the journal what some other datacenter has not yet seen (`sync.past`). Nothing is remembered that the journal, the
checkpoint and ``window.json`` do not say, so that a crash anywhere is a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable
from functools import partial
from typing import Final

from canal.capture import Capture
from canal.errors import CanalError
from canal.position import Position
from canal.rdb.elements import whole_hash
from canal.rdb.events import Key
from canal.resp import parse
from sync.abreast import Abreast, OwnLag
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.conflictlog import ConflictLog
from sync.doubts import Doubts
from sync.echo import Echoed
from sync.echoes import Echoes
from sync.expiry import ExpiryRule
from sync.fieldexpiry import FieldRule
from sync.homes import Homes, Place
from sync.past import Past, read_again
from sync.replies import Replies
from sync.reunion import reunion_due_at
from sync.rules import Rules
from sync.seen import format_seen, parse_position, parse_seen
from sync.status import LinkStatus
from sync.streams import stream_name, writer_of
from sync.tag import PREFIX
from sync.target.connection import Connection
from sync.transform import Transform
from sync.unit import Piece
from sync.unjudged import Unjudged
from sync.verify.mapping import TaskMapping
from sync.watch import SourceWatch
from sync.window import places_written

log = logging.getLogger(__name__)

_TICK_S: Final = 0.02
_SAVE_S: Final = 1.0
_DELAY_S: Final = 1.5
_MOST_LATE: Final = 100_000


def datacenters_of(config: LinkConfig) -> tuple[str, ...]:
    """All that write, as far as the link was told."""
    return tuple(sorted({config.source_dc, config.target_dc, *config.direct, *config.datacenters}))


class Converge:
    """See the module's text. ``run`` is a task beside the link's; everything else is called by its session."""

    def __init__(
        self, config: LinkConfig, status: LinkStatus, slots: Callable[[], frozenset[int]] | None = None
    ) -> None:
        self._slots = slots
        self.homes = Homes(config.home, datacenters_of(config))
        self.conflicts: Conflicts | None = None
        self.expiry: ExpiryRule | None = None  # whose figures are shown
        self.fields: FieldRule | None = None  # likewise
        self.past = Past(config)
        self.snapshot_seen = ""  # what the RDB's own tags say, once they were met
        self.lacking: Callable[[], bool] = lambda: False  # does the target lack writes that a reunion will bring?
        self._config = config
        self._status = status
        self._log = ConflictLog(config.state_dir)
        self.echoes = Echoes(config, status, self._echoed)
        self._stands: Position | None = None  # the newest byte of the source's stream, while it is connected
        self._behind = OwnLag(lambda: self._stands, lambda: status.applied_offset)
        self._abreast = Abreast(config.target, config.target_dc)
        self.echoes.target.lacks = lambda: self._lacks() or self._behind.late()
        self.echoes.source.says_lacks = self._source_lacks
        mapping = TaskMapping(Transform(config.transform))
        replies = self.replies = Replies(config, status, self.homes, self.echoes, lambda: self.conflicts)
        differs = partial(replies.differs, reason="reply lost")
        self._doubts = Doubts(config, status, mapping, differs, replies.never_rests, replies.of_third, self._lacks)
        self._next_tick = 0.0
        self._next_save = 0.0
        self._late: dict[Place, tuple[str, int]] = {}
        status.home, status.homes_fingerprint = str(self.homes), self.homes.fingerprint

    def _lacks(self) -> bool:
        return self.lacking()

    async def _source_lacks(self, conn: Connection) -> bool:
        """Does the source lack writes of the target? A link back that was lost: its own node knows, and marks the
        server. Or one that is late.
        """
        return await reunion_due_at(conn) or await self._abreast.late(conn)

    async def run(self) -> None:
        """Carry out echoes until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.echoes.run())
                group.create_task(self._doubts.run())
        finally:
            self._abreast.close()

    # --- one session ---

    def met_in_snapshot(self, key: Key, flavor: str) -> None:
        """A checkpoint in the RDB: how far another datacenter's stream had been applied when it was made."""
        try:
            fields = {field: value for field, value, _ in whole_hash(key.type, flavor, key.value)}
        except (CanalError, ValueError, IndexError):
            return  # nothing seen: every write of that datacenter counts as concurrent for a while
        position = parse_position(fields.get(b"pos", b""))
        name = fields.get(b"via", fields.get(b"origin", b"")).decode("utf-8", "replace")
        if position is None or fields.get(b"phase") != b"stream" or name == self._config.source_dc:
            return
        shard, scope = writer_of(key.key[len(PREFIX) :].decode("utf-8", "replace"))
        if scope != "link":
            return  # of a cluster's node, and nobody knows of which slots it spoke then
        vector = parse_seen(self.snapshot_seen)
        vector[name if b"via" in fields else stream_name(name, shard)] = position
        self.snapshot_seen = format_seen(vector)

    async def open(
        self,
        capture: Capture,
        rules: Rules,
        start: Position,
        db: int,
        seen: str,
        snapshot: bool,
        wake: asyncio.Event,
        stored: str = "",
        had: Container[Place] | None = None,
        reached: int = 0,
    ) -> Conflicts:
        """Conflicts as they stand where the session begins: after a snapshot, or from the journal's own past.

        ``stored``: the checkpoint's field ``past``, for a node whose own directory says nothing of use. ``had``: the
        keys of that snapshot, where they are known. ``reached``: up to there some slots of the target are applied.
        """
        config, journal = self._config, capture.journal
        past = self.past.boundary(capture, start, db, seen, snapshot, stored)
        judged = None if snapshot else self.past.unjudged_from(past)
        others = [name for name in self.homes.datacenters if name != config.source_dc]
        disputed = [] if self.conflicts is None or snapshot else list(self.conflicts.pending)
        lapsed = None if self.conflicts is None or snapshot else self.conflicts.lapsed
        if not snapshot and self.conflicts is not None and self.conflicts.had_to == past.floor:
            had = self.conflicts.had
        found = self.conflicts = Conflicts(
            config.source_dc,
            self.homes,
            floor=past.floor,
            max_keys=config.window_max_keys,
            commutative=config.commutative,
            delay_s=others.index(config.target_dc) * _DELAY_S,
            there=config.target_dc,
            shard=config.shard,
            slots=self._slots,
            on_conflict=self._log.add,
        )
        found.had, found.had_to = had, past.floor
        found.doubted = lambda place: self._doubts.add([place])
        found.start(past.seen, journal.replids)
        if lapsed is not None:
            found.expired = lambda place, end: lapsed.was(end)
        if past.place.offset < start.offset:
            found.quiet = True  # applied, and not yet seen by everybody
            await read_again(capture, rules, found, past.place.offset, past.db, start.offset, wake)
            found.quiet = False
            found.progress()
        upto = max(start.offset, min(reached, journal.end))
        if judged is not None and judged.position.offset < upto and journal.covers(judged.position):
            lost = Unjudged(rules.drop)
            await read_again(capture, rules, lost, judged.position.offset, judged.db, upto, wake)
            if lost.places:
                log.info("replies about %d keys were lost: they are compared", len(lost.places))
            self._doubts.add(lost.places)
        found.quiet = True
        of_third = self.replies.of_third
        self.replies.differs((place for place in disputed if not of_third(place)), "not settled")
        found.quiet = False
        self._doubts.add(filter(of_third, disputed))  # not echoed from here: its home may have newer ones
        self.past.judged(start, db)
        return found

    def not_compared(self) -> None:
        """A snapshot is applied of a task that had run before, and both sides will not be compared (`sync.reunion`)."""
        said = "keys that were deleted while the link was lost may stand on one side: redis-canal task verify --repair"
        self._status.reunion = said
        log.error("a resync of two live sides that are not compared after it: %s", said)

    # --- while the session runs ---

    def tick(self, capture: Capture, watch: SourceWatch) -> None:
        """What others have seen, what is to be echoed, and the figures. Cheap to call often."""
        now = time.monotonic()
        found = self.conflicts
        if found is None or now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        self._stands = capture.journal.position if capture.status.connected else None
        self.echoes.trust_source(self._stands, watch.source)
        found.applied = self._status.applied_offset
        found.progress()
        asks = found.take_asks()
        if asks:
            self.echoes.source.ask(asks)
        if found.prompts:
            self.echoes.target.ask(found.prompts)
            found.prompts.clear()
        self._mind_late(found)
        self._suspend(found)
        if now >= self._next_save:
            self._next_save = now + _SAVE_S
            found.learn(capture.journal.replids)
            self._log.flush()
            self.past.save(capture, watch, found)
            self._save_judged()
        self._show(found)

    def keep_from(self, applied: int) -> int:
        """From where on the journal is needed, when all up to ``applied`` is applied.

        No later than what the next session reads again, which can come at any time.
        """
        found = self.conflicts
        return applied if found is None else self.past.keep_from(applied, found.settled_to)

    def _suspend(self, found: Conflicts) -> None:
        others = ", ".join(f"{name} ({fingerprint})" for name, fingerprint in sorted(found.strangers.items()))
        said = ""
        if others:
            said = (
                f"the home of keys is {self.homes} here ({self.homes.fingerprint}) and another at {others}: give both "
                "sides the same --home and datacenters (two_way.home, two_way.datacenters)"
            )
        self.echoes.suspend(said)

    def _show(self, found: Conflicts) -> None:
        status = self._status
        status.conflicts += found.figures.conflicts - self._counted_of(found)
        status.conflicts_waiting = len(found.pending)
        status.window_keys = sum(map(len, found.windows.values()))
        if self.expiry is not None:
            deadlines = self.expiry.deadlines
            status.expiry_keys, status.expiry_untracked = len(deadlines), deadlines.untracked
            status.expiry_deletes = self.expiry.conditional
        if self.fields is not None:
            status.expiry_fields = len(self.fields.deadlines)
            status.expiry_untracked += self.fields.deadlines.untracked
            status.expiry_deletes += self.fields.conditional
        self.echoes.show()

    def _counted_of(self, found: Conflicts) -> int:
        before = found.figures.shown
        found.figures.shown = found.figures.conflicts
        return before

    def _echoed(self, echoed: Echoed) -> None:
        if echoed.outcome in ("big", "failed") and self.conflicts is not None:
            self.conflicts.drop(echoed.place)

    def judged(self, position: Position, db: int) -> None:
        """Replies to all writes up to there were looked at."""
        self.past.judged(position, db)

    def _save_judged(self) -> None:
        """Not while there is a conflict that reading the stream again would not find."""
        marked = self.conflicts is not None and any(entry.marked for entry in self.conflicts.pending.values())
        if not marked and not self._doubts:
            self.past.save_judged()

    # --- a mesh ---

    def broke_order(self, pieces: Iterable[Piece], name: str, offset: int) -> None:
        """A batch goes before what it builds on: its keys are echoed from here once the target has that."""
        for piece in pieces:
            at = 0
            while at < len(piece.raw) and len(self._late) < _MOST_LATE:
                parsed = parse(piece.raw, at, len(piece.raw))
                assert parsed is not None
                argv, at = parsed
                for place in places_written(piece.db, argv):
                    self._late[place] = (name, offset)

    def _mind_late(self, found: Conflicts) -> None:
        target = self._config.target_dc
        ready = [place for place, (name, offset) in self._late.items() if found.seen_by(target, name) >= offset]
        for place in ready:
            del self._late[place]
        if ready:
            self.echoes.source.ask(ready)

    def close(self) -> None:
        """The link ends."""
        self._log.flush()
        self._save_judged()
