"""Two ways: keys of which it is not known whether both sides hold the same, since replies were lost.

They are compared, with what is on its way applied in between, and only those that differ again and again are in
dispute. To have each of them echoed would be as right in the end, but would write older values over newer ones on the
side that is ahead, each time a connection breaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from canal.errors import CanalError
from sync.config import LinkConfig
from sync.homes import Place
from sync.status import LinkStatus
from sync.verify.flow import Flow
from sync.verify.look import Looks, Suspect
from sync.verify.mapping import Mapping
from sync.verify.report import Options
from sync.verify.side import Pair

log = logging.getLogger(__name__)

_ALIKE: Final = 3  # looks that saw the same difference, until the key is in dispute
_PATIENCE: Final = 12  # looks in all: a key that never rests is taken for one in dispute
_AT_ONCE: Final = 500
_PAUSE_S: Final = 0.3
_REST_S: Final = 2.0


class Doubts:
    """``await run()`` beside a link. ``differs`` is told of keys that are in dispute."""

    def __init__(
        self, config: LinkConfig, status: LinkStatus, mapping: Mapping, differs: Callable[[list[Place]], None]
    ) -> None:
        self._config, self._status, self._mapping, self._differs = config, status, mapping, differs
        self._keys: dict[Place, tuple[Suspect | None, int, int]] = {}  # as last seen, looks alike, looks
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, places: Iterable[Place]) -> None:
        """Compare these keys once the link streams."""
        for place in places:
            self._keys.setdefault(place, (None, 0, 0))
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
                await asyncio.sleep(_PAUSE_S)
                if self._status.state != "streaming" or self._status.paused:
                    continue
                try:
                    pair = pair or await Pair.open(self._config.source, self._config.target)
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
        goal = self._status.source_offset
        await Flow(pair).settle(_PAUSE_S)
        if self._status.applied_offset < goal or self._status.state != "streaming":
            return
        places = list(islice(self._keys, _AT_ONCE))
        found = {(one.db, one.key): one for one in await Looks(pair, Options(), self._mapping).at(places)}
        disputed = []
        for place in places:
            before, alike, times = self._keys.pop(place)
            one = found.get(place)
            if one is None:
                continue
            same = before is not None and (one.kind, one.mark) == (before.kind, before.mark)
            alike, times = alike + 1 if same else 1, times + 1
            if alike >= _ALIKE or times >= _PATIENCE:
                disputed.append(place)
            else:
                self._keys[place] = (one, alike, times)
        if disputed:
            log.info("%d keys whose replies were lost differ: their homes write them again", len(disputed))
            self._differs(disputed)


__all__ = ["Doubts"]
