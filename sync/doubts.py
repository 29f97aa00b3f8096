"""Two ways: keys of which it is not known whether both sides hold the same, since replies were lost.

They are compared, with what is on its way applied in between, and only those that differ again and again are in
dispute. To have each of them echoed would be as right in the end, but would write older values over newer ones on the
side that is ahead, each time a connection breaks. For the same reason nothing is said while a link between the two is
behind, and a key that is written all the time is looked at for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from canal.errors import CanalError
from sync.config import LinkConfig
from sync.homes import Place
from sync.reunion import reunion_due_into
from sync.status import LinkStatus
from sync.verify.flow import Flow
from sync.verify.look import Looks, Suspect
from sync.verify.mapping import Mapping
from sync.verify.report import Options
from sync.verify.side import Pair

log = logging.getLogger(__name__)

_ALIKE: Final = 3  # looks that saw the same difference, until the key is in dispute
_ALIKE_OF_THIRD: Final = 30  # likewise, where a third datacenter's writes may be on their way to one of the two
_PATIENCE_S: Final = 60.0  # what changes from look to look for so long counts as restless
_AT_ONCE: Final = 500
_PAUSE_S: Final = 0.3
_REST_S: Final = 2.0
_REST_MOST_S: Final = 5.0  # between looks at what never rests


@dataclass(slots=True)
class _Doubt:
    """A key, since when it is looked at, and what was seen last."""

    since: float
    seen: Suspect | None = None
    alike: int = 0

    def differs_again(self, found: Suspect) -> int:
        """How many looks in a row have seen the same."""
        before = self.seen
        same = before is not None and (found.kind, found.mark) == (before.kind, before.mark)
        self.seen, self.alike = found, self.alike + 1 if same else 1
        return self.alike


class Doubts:
    """``await run()`` beside a link. ``differs`` is told of keys that are in dispute, ``restless`` of those that change
    from look to look, so that it cannot be said. ``of_third``: keys on which another datacenter decides, whose writes
    one of these two may get later than the other. ``wait``: is there a reunion of this link still to come? Until then,
    and while one of the link back is due, nothing is said: what differs was not written twice, one side lacks it, and
    the reunion knows which (`sync.reunion`).
    """

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        mapping: Mapping,
        differs: Callable[[list[Place]], None],
        restless: Callable[[list[Place]], None],
        of_third: Callable[[Place], bool] = lambda place: False,
        wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._status, self._mapping = config, status, mapping
        self._wait = wait
        self._differs, self._restless, self._of_third = differs, restless, of_third
        self._keys: dict[Place, _Doubt] = {}
        self._pause_s = _PAUSE_S
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, places: Iterable[Place]) -> None:
        """Compare these keys once the link streams."""
        for place in places:
            self._keys.setdefault(place, _Doubt(time.monotonic()))
        self._pause_s = _PAUSE_S
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A side that cannot be read is tried again; nothing is forgotten meanwhile."""
        pair: Pair | None = None
        try:
            while True:
                if not self._keys:
                    if pair is not None:
                        pair.close()
                        pair = None
                    self._wake.clear()
                    await self._wake.wait()
                await asyncio.sleep(self._pause_s)
                if self._status.state != "streaming" or self._status.paused:
                    continue
                try:
                    pair = pair or await Pair.open(self._config.source.whole, self._config.target)
                    await self._look(pair)
                except CanalError as error:
                    log.info("keys whose replies were lost are not compared yet: %s", error)
                    if pair is not None:
                        pair.close()
                    pair = None
                    await asyncio.sleep(_REST_S)
        finally:
            if pair is not None:
                pair.close()

    async def _look(self, pair: Pair) -> None:
        """One look at some of them, after what was on its way is applied."""
        if self._wait() or await reunion_due_into(pair.first):
            return
        goal = self._status.source_offset
        settled = await Flow(pair).settle(_PAUSE_S)
        if not settled or self._status.applied_offset < goal or self._status.state != "streaming":
            return
        places = list(islice(self._keys, _AT_ONCE))
        found = {(one.db, one.key): one for one in await Looks(pair, Options(), self._mapping).at(places)}
        if self._wait() or await reunion_due_into(pair.first):  # it began meanwhile, so what was found is of its making
            return
        disputed, restless, now = [], [], time.monotonic()
        for place in places:
            doubt = self._keys.pop(place)
            one = found.get(place)
            if one is None:
                continue
            if doubt.differs_again(one) >= (_ALIKE_OF_THIRD if self._of_third(place) else _ALIKE):
                disputed.append(place)
            elif now - doubt.since > _PATIENCE_S:
                restless.append(place)
            else:
                self._keys[place] = doubt
        self._pause_s = min(_REST_MOST_S, self._pause_s * 1.05)
        if disputed:
            log.info("%d keys whose replies were lost differ: their homes write them again", len(disputed))
            self._differs(disputed)
        if restless:
            log.info("%d keys whose replies were lost never rest: who writes them writes them again", len(restless))
            self._restless(restless)


__all__ = ["Doubts"]
