"""Resync between two live sides: after a snapshot of a task that had run before, both sides are made equal again.

The snapshot brings what the target lacks; what the target has stays, since it may have been written after the source
saw it. What the snapshot cannot tell is what either side deleted, or wrote, while the link was lost. So once the stream
flows again both sides are compared (`sync.verify`), and each key that still differs is echoed by the side whose state
wins:

- Where the link back was whole all the while, this source has seen every write of the target: its state wins, its
  absence too.
- Where the target was rolled back (`sync.rollback`) the source's state wins as well, once the link back flows.
- Where that link was lost as well, and both have noted which keys were written meanwhile (`sync.dirty`): of a key that
  one side alone wrote that side's state wins, its absence too; of one that both wrote the home's.
- Where that is not known, nobody knows who wrote last. Absence never deletes: a key that one side lacks is brought
  back. Of two states the home's wins.

``reunion.json`` in the state directory, and a reserved key at the target, say that a reunion is due, from before the
snapshot is applied until it is done: a crash in between is no loss, a node that takes the shard over goes on with it,
and the link back knows that this one was lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from canal.errors import CanalError
from canal.journal.disk import unwritable, write_atomically
from canal.position import Position
from sync.config import LinkConfig
from sync.dirty import DirtyKeys
from sync.dirtyset import DirtySet, Winner, winner
from sync.dirtyshare import HEAD, dirty_key, shared_between, shared_under, shown_between, unshare
from sync.homes import FUNCTIONS, Homes, Place
from sync.status import LinkStatus
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection, connect
from sync.transform import Transform
from sync.verify.comparison import Comparison
from sync.verify.flow import SLACK_BYTES, Flow
from sync.verify.mapping import TaskMapping
from sync.verify.repair import Remedy, repair
from sync.verify.report import Difference, Options
from sync.verify.side import Pair, Side

log = logging.getLogger(__name__)

_NAME: Final = "reunion.json"
_KEY: Final = RESERVED + b"reunion:"
_ROLLED_BACK: Final = RESERVED + b"rolled-back:"
_LIVES_MS: Final = 24 * 3_600_000  # a link that is gone hinders nobody for longer
_LOOK_S: Final = 0.2
_BACK_S: Final = 300.0  # the link back is waited for
_OTHERS_S: Final = 5.0  # and so long, before a snapshot is applied, what it has noted
_REST_S: Final = 5.0
_ROUNDS: Final = 5
Leaves = Callable[[Place, Place], bool]
_OPTIONS: Final = Options(rounds=2, pause_s=0.5, keep=5000, flowing=True)


def reunion_key(task: str, shard: str) -> bytes:
    """The reserved key at a link's target that says that a reunion is due."""
    return _KEY + f"{task}/{shard}".encode()


def rollback_key(datacenter: str) -> bytes:
    """The reserved key at a healthy side that says that ``datacenter`` was rolled back, and why (`sync.rollback`)."""
    return _ROLLED_BACK + datacenter.encode()


async def reunion_due_into(side: Side) -> bool:
    """Is a reunion due for a link into this side, which then lacks writes of the other? Raises Unreachable."""
    (links,) = await side.ask(0, [[b"SMEMBERS", INDEX]])
    marks = [name for name in links if name.startswith(_KEY)]
    return any(await side.ask(0, [[b"EXISTS", name] for name in marks])) if marks else False


async def reunion_due_at(conn: Connection) -> bool:
    """The same, of the server of a connection; False for a cluster, where there are none. Raises Unreachable."""
    if conn.several:
        return False
    links = await conn.call(b"SMEMBERS", INDEX)
    marks = [name for name in links if name.startswith(_KEY)]
    return bool(marks) and bool(await conn.call(b"EXISTS", *marks))


class _BackIsAway(CanalError):
    """Nothing can be decided while the link back does not flow."""


class Reunion:
    """One link's. ``begin`` before its snapshot is applied, ``run`` beside it.

    ``rolled_back``: why the target loses in this one; empty for one after a resync.
    """

    def __init__(self, config: LinkConfig, status: LinkStatus, homes: Homes) -> None:
        self._config, self._status, self._homes = config, status, homes
        self._file: Path = config.state_dir / _NAME
        self._due = asyncio.Event()
        self._rounds = 0
        self.rolled_back = ""
        self.dirty: DirtyKeys | None = None
        self._sets: tuple[DirtySet, DirtySet] | None = None  # what was written here and there
        if self._file.exists():
            self.rolled_back = _remembered(self._file)
            self._due.set()

    @property
    def due(self) -> bool:
        """Are both sides to be compared, or are they just now?"""
        return self._due.is_set()

    async def begin(self, conn: Connection, rolled_back: str = "", position: Position | None = None) -> Leaves | None:
        """A snapshot of a task that had run before, at ``position``, is about to be applied, or the target was rolled
        back. Raises StateError, Unreachable.

        Returns which keys (at the source, at the target) of the snapshot are not brought, since the target's state of
        them wins; None where that is not known.
        """
        rolled_back = rolled_back or self.rolled_back
        try:
            write_atomically(self._file, json.dumps({"rolled_back": rolled_back}).encode())
        except OSError as error:
            raise unwritable(error, self._file) from None
        self._sets, leaves = None, None
        if self.dirty is not None:
            ours = await self.dirty.upto(position) if position is not None and not rolled_back else "rolled back"
            await self.dirty.show(conn, ours if isinstance(ours, DirtySet) else None)
            if isinstance(ours, DirtySet):
                leaves = await self._left_out(ours)
            elif position is not None:
                log.info("which keys the source wrote while the link was lost is not known: %s", ours)
        key = reunion_key(self._config.task, self._config.shard)
        await conn.call(b"SADD", INDEX, key)
        await conn.call(b"SET", key, b"%d" % time.time_ns(), b"PX", b"%d" % _LIVES_MS)
        self._rounds = 0
        self.rolled_back = rolled_back
        self._due.set()
        return leaves

    async def _left_out(self, ours: DirtySet) -> Leaves | None:
        """By what the link back shows at the source, as soon as it does."""
        config, until = self._config, time.monotonic() + _OTHERS_S
        conn = await connect(config.source, who="source")
        try:
            between = config.target_dc, config.source_dc
            while (theirs := await shared_between(conn.calls, between, final=False)) is None:
                if time.monotonic() > until:
                    return None
                await asyncio.sleep(_LOOK_S)
        finally:
            conn.close()

        def leaves(here: Place, there: Place) -> bool:
            return there in theirs and (here not in ours or self._home(here) == "second")

        return leaves

    async def run(self) -> None:
        """Until cancelled: each reunion that becomes due, as soon as the stream flows."""
        await self._take_over()
        while True:
            await self._due.wait()
            await asyncio.sleep(_LOOK_S)
            if self._status.state != "streaming" or self._status.paused:
                continue
            try:
                left = await self._reunite()
            except CanalError as error:
                self._status.reunion = f"waits: {error}"
                log.warning("both sides are not compared yet: %s", error)
                await asyncio.sleep(_REST_S)
                continue
            self._rounds += 1
            if left and self._rounds < _ROUNDS:
                log.warning("%d keys differ still after the resync: looking again", left)
                continue
            await self._end(left)

    async def _take_over(self) -> None:
        """One that another node had begun: its directory is not ours, but the target knows."""
        while not self._due.is_set():
            await asyncio.sleep(_LOOK_S)
            if self._status.state != "streaming":
                continue
            try:
                conn = await connect(self._config.target)
                try:
                    if await conn.call(b"EXISTS", reunion_key(self._config.task, self._config.shard)):
                        self._due.set()
                    return
                finally:
                    conn.close()
            except CanalError as error:
                log.info("it is not known yet whether a reunion is due: %s", error)
                await asyncio.sleep(_REST_S)

    async def _end(self, left: int) -> None:
        """It is done, or given up for what cannot be brought together: values too large, keys that never rest."""
        try:
            if self.rolled_back:
                source = await connect(self._config.source, who="source")
                await _remove(source, rollback_key(self._config.target_dc))
            await _remove(await connect(self._config.target), reunion_key(self._config.task, self._config.shard))
            await self._forget_sets()
        except CanalError as error:
            log.warning("the end of the reunion could not be told: %s", error)
            return
        self._file.unlink(missing_ok=True)
        self._due.clear()
        self._rounds, self.rolled_back = 0, ""
        self._sets = None
        if self.dirty is not None:
            self.dirty.forget()
        self._status.reunion = f"{left} keys differ still: redis-canal task verify --repair" if left else ""
        words = "%d keys differ still after the resync" if left else "both sides are equal after the resync%.0s"
        log.log(logging.ERROR if left else logging.INFO, words, left)

    async def _reunite(self) -> int:
        """Compare, and echo what differs; how many keys differ still."""
        config, status = self._config, self._status
        status.reunion = "waits for the link back"
        pair = await Pair.open(config.source, config.target)
        try:
            generation = status.full_resyncs
            rule = await self._rule(pair)
            status.reunion = "compares both sides"
            mapping = TaskMapping(Transform(config.transform))
            report = await Comparison(pair, _OPTIONS, mapping=mapping).run()
            restless = report.unsettled  # written meanwhile, so that it cannot be told yet whether they differ
            if not report.equal:
                status.reunion = "brings both sides together"
                log.info("%d keys differ after the resync; %s", report.different, rule)
                remedy = Remedy("echo", mapping=mapping, decide=self._winner(rule, mapping))
                report = await repair(config.source, config.target, _OPTIONS, report, remedy)
            status.reunion_keys += report.repaired
            return report.different + restless or int(status.full_resyncs != generation)
        finally:
            pair.close()

    async def _rule(self, pair: Pair) -> str:
        """Whose state wins, in words. Raises `_BackIsAway`."""
        (first,) = await pair.first.ask(0, [[b"GET", rollback_key(self._config.target_dc)]])
        (second,) = await pair.second.ask(0, [[b"GET", rollback_key(self._config.source_dc)]])
        if first and not self.rolled_back:  # another node had found it
            self.rolled_back = first.decode("utf-8", "replace")
        if self.rolled_back and second:
            return _UNION
        if second:
            raise _BackIsAway(f"{self._config.source_dc} was rolled back: the link back brings both together")
        whole = await self._back_is_whole(pair)
        if not self.rolled_back:
            return _WHOLE if whole else _NOTED if await self._know(pair) else _UNION
        behind = await Flow(pair).back_behind()
        if behind is None or behind > SLACK_BYTES:
            raise _BackIsAway(f"what {self._config.target_dc} wrote since it was rolled back comes by the link back")
        return _HEALTHY

    async def _back_is_whole(self, pair: Pair) -> bool:
        """Has the source every write of the target, by a link back that was never lost?"""
        flow, until = Flow(pair), time.monotonic() + _BACK_S
        while True:
            behind = await flow.back_behind()
            if behind is not None and behind <= SLACK_BYTES:
                return not await reunion_due_into(pair.first)
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_LOOK_S)

    async def _know(self, pair: Pair) -> bool:
        """Is it known which keys either side wrote while both links were lost? Both links read the same two sets."""
        if self._sets is None:
            config = self._config
            ours = await shared_under(partial(pair.second.ask, 0), dirty_key(config.task, config.shard))
            theirs = await shared_between(partial(pair.first.ask, 0), (config.target_dc, config.source_dc))
            if ours is None or theirs is None:
                return False
            self._sets = ours, theirs
        return True

    async def _forget_sets(self) -> None:
        """Both sets, unless the link back still goes by them: then it takes them away."""
        config = self._config
        source = await connect(config.source, who="source")
        try:
            backs = await shown_between(source.calls, (config.target_dc, config.source_dc))
            marks = [_KEY + key.removeprefix(HEAD) for key in backs]
            if marks and await source.call(b"EXISTS", *marks):
                return
            for key in backs:
                await unshare(source, key)
        finally:
            source.close()
        target = await connect(config.target)
        try:
            await unshare(target, dirty_key(config.task, config.shard))
        finally:
            target.close()

    def _home(self, place: Place) -> Winner:
        """Which of the two sides is, or stands in for, the key's home?"""
        sides = (self._config.source_dc, self._config.target_dc)
        return "first" if next(name for name in self._homes.ranking(place) if name in sides) == sides[0] else "second"

    def _winner(self, rule: str, mapping: TaskMapping) -> Callable[[Difference], Winner]:
        sets = self._sets if rule is _NOTED else None

        def decide(one: Difference) -> Winner:
            if rule not in (_NOTED, _UNION):
                return "first"
            place: Place = (FUNCTIONS if one.kind == "function" else one.db, one.key)
            there = place if one.kind == "function" else mapping.there(place)
            missing = one.kind == "missing" if one.kind in ("missing", "extra") else None
            wrote = sets is not None and place in sets[0], sets is not None and there is not None and there in sets[1]
            return winner(*wrote, self._home(place), missing)

        return decide


_HEALTHY: Final = "the target was rolled back: the source's state wins"
_WHOLE: Final = "the link back was whole, so the source has seen all: its state wins"
_NOTED: Final = "the link back was lost too: a key that one side alone wrote is that side's, of others the home's wins"
_UNION: Final = "the link back was lost too: no key is deleted, and of two states the home's wins"


def _remembered(file: Path) -> str:
    try:
        return str(json.loads(file.read_text()).get("rolled_back", ""))
    except (OSError, ValueError, AttributeError):
        return ""  # of an older version


async def _remove(conn: Connection, key: bytes) -> None:
    try:
        await conn.call(b"DEL", key)
        await conn.call(b"SREM", INDEX, key)
    finally:
        conn.close()
