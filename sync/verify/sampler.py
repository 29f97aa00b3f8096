"""Comparison as a habit: while a link streams, a few keys a second are looked at again on both sides.

Keys that the stream wrote just now, and keys chosen at random on either side. What differs is looked at until it is
known (`sync.verify.comparison` has the rule); what is known to differ is looked at again now and then, so that the
figure falls when it was repaired. Off unless a rate is given: it reads from both servers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from canal.cluster import slot_of
from canal.commands import written_in
from canal.errors import CanalError
from sync.config import LinkConfig
from sync.status import LinkStatus
from sync.tag import is_reserved
from sync.verify.flow import Flow
from sync.verify.glance import Place
from sync.verify.look import Looks, Suspect
from sync.verify.mapping import Mapping
from sync.verify.report import Options
from sync.verify.side import Pair

log = logging.getLogger(__name__)

LOOKS: Final = 3  # that saw the same, until a key is known to differ
_PATIENCE: Final = 10  # looks in all
_AGAIN_S: Final = 30.0
_KNOWN: Final = 1000
_EXAMPLES: Final = 5
_REST_S: Final = 5.0
_PAUSE_S: Final = 1.0


class Sampler:
    """``await run()`` beside a link. ``rate``: keys a second. ``slots``: of a cluster's shard those that are its own;
    keys of others come by other links, of whose lag this one knows nothing.
    """

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        mapping: Mapping,
        slots: Callable[[], frozenset[int]] | None = None,
    ) -> None:
        self.wants = False  # keys of the stream; asked for by every chunk that is read, so no more than a flag
        self.rate = config.verify_rate
        self._config, self._status, self._mapping = config, status, mapping
        self._written: dict[Place, None] = {}
        self._suspects: dict[Place, tuple[Suspect, int, int]] = {}  # place -> (as last seen, looks alike, looks)
        self._known: dict[Place, Suspect] = {}
        self._again_at = 0.0
        self._chance = random.Random()
        self._slots = slots

    def take(self, commands: Iterable[tuple[int, list[bytes]]]) -> None:
        """Keys of the stream, since some are wanted."""
        most = max(1, int(self.rate))
        for db, argv in islice(commands, 2 * most):
            for place in written_in(db, argv):
                if not is_reserved(place[1]):
                    self._written[place] = None
        self.wants = False

    async def run(self) -> None:
        """Until cancelled. What cannot be read is told in the status and tried again."""
        pair: Pair | None = None
        try:
            while True:
                await asyncio.sleep(max(1.0, 1.0 / self.rate))
                if self._status.state != "streaming" or self._status.paused:
                    continue
                try:
                    pair = pair or await Pair.open(self._config.source.whole, self._config.target)
                    await self._round(pair)
                    self._status.verify_error = ""
                except CanalError as error:
                    if pair is not None:
                        pair.close()
                    pair = None
                    if str(error) != self._status.verify_error:
                        log.warning("keys are not compared: %s", error)
                    self._status.verify_error = str(error)
                    await asyncio.sleep(_REST_S)
        finally:
            if pair is not None:
                pair.close()

    async def _round(self, pair: Pair) -> None:
        """One second's worth of keys, and those under suspicion."""
        looks = Looks(pair, Options(), self._mapping)
        places = [place for place in await self._chosen(pair) if place not in self._suspects]
        for one in await looks.at(places):
            if (one.db, one.key) not in self._known:
                self._suspects[(one.db, one.key)] = (one, 1, 1)
        status = self._status
        status.verify_keys += len(places)
        status.verify_at = time.time()
        if self._suspects:
            goal = status.source_offset
            await Flow(pair).settle(_PAUSE_S)
            if status.applied_offset >= goal and status.state == "streaming":
                await self._judge(looks)
        if self._known and time.monotonic() >= self._again_at:
            await self._look_again(looks)
        status.verify_differing = len(self._known)
        status.verify_examples = [
            f"db {one.db} key {one.key[:80]!r}: {one.kind}" for one in islice(self._known.values(), _EXAMPLES)
        ]

    async def _chosen(self, pair: Pair) -> list[Place]:
        """Half of them from the stream; of the others one in four from the target, for what only that has."""
        most = max(1, int(self.rate))
        written = list(self._written)
        self._written = {}
        self.wants = True
        places = written if len(written) <= most // 2 else self._chance.sample(written, max(1, most // 2))
        rest = most - len(places)
        there = rest // 4 if rest >= 4 else self._chance.random() < 0.25
        places += await self._random(pair, rest - int(there), second=False)
        places += await self._random(pair, int(there), second=True)
        own = None if self._slots is None else self._slots()
        return [place for place in dict.fromkeys(places) if own is None or slot_of(place[1]) in own]

    async def _random(self, pair: Pair, count: int, *, second: bool) -> list[Place]:
        side = pair.second if second else pair.first
        counts = await side.databases() if count else {}
        if not counts:
            return []
        (db,) = self._chance.choices(list(counts), list(counts.values()))
        keys = await side.random(db, count)
        if not second:
            return [(db, key) for key in keys]
        kinds = await side.ask(db, [[b"TYPE", key] for key in keys]) if self._mapping.typed else [b""] * len(keys)
        found = [self._mapping.back((db, key), kind.decode()) for key, kind in zip(keys, kinds, strict=True)]
        return [place for place in found if place is not None]

    async def _judge(self, looks: Looks) -> None:
        """Another look at those under suspicion, with what was on its way applied."""
        now = {(one.db, one.key): one for one in await looks.at(list(self._suspects))}
        status, left = self._status, {}
        for place, (before, alike, times) in self._suspects.items():
            found = now.get(place)
            if found is None:
                continue
            alike = alike + 1 if (found.kind, found.mark) == (before.kind, before.mark) else 1
            if alike >= LOOKS:
                status.verify_differences[found.kind] = status.verify_differences.get(found.kind, 0) + 1
                log.warning("the sides differ in db %d key %r: %s %s", *place, found.kind, found.detail)
                if len(self._known) < _KNOWN:
                    self._known[place] = found
            elif times + 1 >= _PATIENCE:
                status.verify_unsettled += 1
            else:
                left[place] = (found, alike, times + 1)
        self._suspects = left

    async def _look_again(self, looks: Looks) -> None:
        """Were some of those that are known to differ repaired?"""
        self._again_at = time.monotonic() + _AGAIN_S
        still = {(one.db, one.key) for one in await looks.at(list(self._known))}
        self._known = {place: one for place, one in self._known.items() if place in still}
