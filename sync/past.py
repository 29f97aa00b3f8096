"""How much of its past a two-way link reads again from the journal when a session begins.

That is what some other datacenter has not yet seen (``window.json``, or the checkpoint's field ``past``), and the
stretch whose replies nobody looked at (`sync.unjudged`). Until then the journal is kept from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from canal.capture import Capture
from canal.position import Position
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.rules import Dropped, Rules, Watch
from sync.unit import UnitReader
from sync.unjudged import Judged
from sync.watch import SourceWatch
from sync.windowfile import Boundary

log = logging.getLogger(__name__)

_SLICE_BYTES: Final = 4 << 20
_KEEP_BYTES: Final = 256 << 20
"""The journal is kept from what the oldest peer has seen, but no further back than this: a datacenter that is away for
long must not fill the disk of the others. What it then writes without having seen more counts as conflicting."""


class Past:
    """Of one link. ``said``: for the tags, where another node would have to read from."""

    def __init__(self, config: LinkConfig) -> None:
        self.said = ""
        self._config = config
        self._saved: tuple[int, int] | None = None
        self._floor = -1  # where the session's window began; -1 once everybody has seen that
        self._kept_at = -1  # the next session reads again from there, so the journal is needed from there
        self._judged: Judged | None = None  # as far as replies were looked at
        self._judged_saved: Judged | None = None

    # --- a session begins ---

    def boundary(self, capture: Capture, start: Position, db: int, seen: str, snapshot: bool, stored: str) -> Boundary:
        """Where the window of a session begins that starts at ``start``: there, after a snapshot, or where the journal
        does not have what stands before. ``stored``: as `Converge.open` has it.
        """
        config, journal = self._config, capture.journal
        past = None
        if snapshot:
            Boundary.forget(config.state_dir)
            Judged.forget(config.state_dir)
        for known in () if snapshot else (Boundary.load(config.state_dir), Boundary.parse(stored)):
            if past is None and known is not None and known.place.offset <= start.offset:
                past = known if journal.covers(known.place) else None
        if past is None:
            if not snapshot:
                log.info("what was written before offset %d is not in the journal: it counts as written", start.offset)
            past = Boundary(str(start), db, seen, start.offset)
            self.keep(past)
        else:
            self._kept_at = past.place.offset
        self._saved, self._floor = None, past.floor
        return past

    def unjudged_from(self, past: Boundary) -> Judged:
        """From where on replies may have been lost, for a session without a snapshot that begins with ``past``."""
        return self._judged or Judged.load(self._config.state_dir) or Judged(past.place, past.db)

    # --- while it runs ---

    def keep(self, boundary: Boundary) -> None:
        """For the next session, here or on another node."""
        self.said = str(boundary)
        with contextlib.suppress(OSError):
            boundary.save(self._config.state_dir)
            self._kept_at = boundary.place.offset

    def keep_from(self, applied: int, settled_to: int) -> int:
        """From where on the journal is needed, when all up to ``applied`` is applied.

        No later than what ``window.json`` names: it is written now and then, and the next session can come at any time.
        """
        bound = self._config.journal.max_bytes // 2 or _KEEP_BYTES
        return max(min(applied, settled_to, self._kept_at), applied - min(bound, _KEEP_BYTES))

    def save(self, capture: Capture, watch: SourceWatch, found: Conflicts) -> None:
        """Move the boundary to what has not been settled yet."""
        oldest = found.settled_to
        at = watch.boundary_before(oldest)
        if at is None or at == self._saved:
            return
        replid = capture.journal.replid_at(at[0])
        if replid is None:
            return
        if oldest >= self._floor:
            self._floor = -1
        self.keep(Boundary(f"{replid}:{at[0]}", at[1], found.seen_at(at[0]), self._floor))
        found.lapsed.forget_before(self._kept_at)
        self._saved = at

    def judged(self, position: Position, db: int) -> None:
        """Replies to all writes up to there were looked at."""
        self._judged = Judged(position, db)

    def save_judged(self) -> None:
        """To be called only where nothing is in doubt that reading the stream again would not find."""
        if self._judged is not None and self._judged != self._judged_saved:
            with contextlib.suppress(OSError):
                self._judged.save(self._config.state_dir)
                self._judged_saved = self._judged


async def read_again(
    capture: Capture, rules: Rules, watch: Watch, begin: int, db: int, end: int, wake: asyncio.Event
) -> None:
    """Show ``watch`` a stretch of the stream that is applied."""
    past = Rules(
        rules.source_dc, rules.drop, dict(rules.plain), lambda *_: Dropped("known"), flush="replay", watch=watch
    )
    units = UnitReader(begin, db, past)
    reader = capture.reader(begin, wake.set)
    try:
        offset, spent = begin, 0
        while offset < end:
            chunk = reader.read_nowait()
            if chunk is None:
                wake.clear()
                await wake.wait()
                continue
            data = chunk.data[: end - offset]
            units.feed(offset, data, chunk.received_ms)
            offset += len(data)
            spent += len(data)
            if spent > _SLICE_BYTES:
                spent = 0
                await asyncio.sleep(0)
                if isinstance(watch, Conflicts):
                    watch.progress()
    finally:
        reader.close()
