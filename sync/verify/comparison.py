"""A comparison from its first key to its report.

A difference counts only when several looks, with what is on its way applied in between, saw the same on both sides. A
key that changes from look to look is looked at further, and in the end told as *unsettled*: neither equal nor
different. Keys that differ are settled while the scan goes on, so that a link that lags makes a comparison slower and
not larger.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from canal.endpoint import Endpoint
from canal.errors import ConfigError, Unready
from sync.filters import KeyPattern
from sync.verify.flow import Flow
from sync.verify.glance import Place
from sync.verify.look import Looks, Suspect
from sync.verify.mapping import Mapping
from sync.verify.pace import Pace
from sync.verify.report import Difference, Options, Progress, Report
from sync.verify.seen import Seen
from sync.verify.side import Pair, Side

CHUNKS: Final = 4  # glances of one page under way at the same time
_SAVE_S: Final = 2.0
_SAVED_SUSPECTS: Final = 2000
_WAITS: Final = 20

Save = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Bookmark:
    """Where a comparison is: side, database and cursor of the page that comes next."""

    second: bool = False
    db: int = -1
    cursor: bytes = b"0"
    run_id: str = ""  # of the side that is scanned: another process means other cursors
    suspects: list[Place] = field(default_factory=list)

    def packed(self, report: Report) -> dict[str, Any]:
        """As JSON."""
        suspects = [[db, base64.b64encode(key).decode()] for db, key in self.suspects]
        where = {"second": self.second, "db": self.db, "cursor": self.cursor.decode(), "run_id": self.run_id}
        return {"version": 1, **where, "suspects": suspects, "report": report.packed()}


async def compare(
    first: Endpoint,
    second: Endpoint,
    options: Options | None = None,
    progress: Progress | None = None,
    *,
    mapping: Mapping | None = None,
    save: Save | None = None,
    resume: dict[str, Any] | None = None,
    held: bool = False,
) -> Report:
    """Compare and report. Raises PeerError when a side cannot be reached or read.

    ``held``: the first side holds writes (CLIENT PAUSE), and before 7.0 would hold scripts too.
    ``save`` is given, now and then, what ``resume`` takes to go on from there; ConfigError when that cannot be used.
    """
    pair = await Pair.open(first, second, held=held)
    try:
        return await Comparison(pair, options or Options(), progress, mapping, save).run(resume)
    finally:
        pair.close()


class Comparison:
    """One run over a pair."""

    def __init__(
        self,
        pair: Pair,
        options: Options,
        progress: Progress | None = None,
        mapping: Mapping | None = None,
        save: Save | None = None,
    ) -> None:
        self._pair, self._options = pair, options
        self._mapping = mapping or Mapping()
        self._looks = Looks(pair, options, self._mapping)
        self._flow = Flow(pair)
        self._pace = Pace(options.rate)
        self._progress = progress or (lambda report: None)
        self._save = save
        self._saved = time.monotonic()
        self._suspects: dict[tuple[str, int, bytes], Suspect] = {}
        self._mark = Bookmark()
        self._seen = Seen()
        self.restless: list[Place] = []  # those that are counted as unsettled, as many as are remembered
        self.report = Report()

    async def run(self, resume: dict[str, Any] | None = None) -> Report:
        """From the beginning, or from what was saved, to the report."""
        began = time.monotonic() - (self._resumed(resume) if resume else 0.0)
        report = self.report
        if self._options.sample:
            await self._sample()
        else:
            await self._everything()
        self._hold(await self._looks.libraries())
        report.rounds = max(report.rounds, 1)
        self._show()
        await self._settle()
        report.differences.sort(key=lambda one: (one.db, one.key))
        report.seconds = round(time.monotonic() - began, 3)
        self._show()
        return report

    async def check(self, places: list[Place]) -> Report:
        """Compare these keys of the first side, and the function libraries, alone."""
        await self._look(places)
        self._hold(await self._looks.libraries())
        await self._settle()
        return self.report

    def _resumed(self, resume: dict[str, Any]) -> float:
        try:
            if resume["version"] != 1:
                raise ValueError(resume["version"])
            self.report = Report.unpacked(resume["report"])
            mark = Bookmark(bool(resume["second"]), int(resume["db"]), resume["cursor"].encode(), resume["run_id"])
            mark.suspects = [(int(db), base64.b64decode(key)) for db, key in resume["suspects"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"what was saved of the earlier comparison cannot be read: {error!r}") from None
        self._mark = mark
        # what was met before is met again by the second side's scan, but for what is counted already
        self._seen = Seen(everything=self.report.overflow)
        for db, key in [*mark.suspects, *((one.db, one.key) for one in self.report.differences)]:
            self._seen.add(db, [key])
        for place in mark.suspects:  # with a mark that no look has: they are looked at as often as new ones
            self._suspects[("", *place)] = Suspect(*place, "value", "", ("resumed",))
        return self.report.seconds

    # --- which keys ---

    async def _everything(self) -> None:
        chosen = self._options.databases
        counts = await self._pair.first.databases(), await self._pair.second.databases()
        dbs = sorted(counts[0].keys() | counts[1].keys()) if chosen is None else sorted(chosen)
        self.report.total = sum(count for side in counts for db, count in side.items() if db in dbs)
        if not self._mark.second:
            await self._one_side(self._pair.first, dbs, self._first_page)
        there = dbs
        if chosen is not None and not self._mapping.identity:
            there = sorted(counts[1])  # which of them hold what is chosen is told key by key
        await self._one_side(self._pair.second, there, self._second_page)

    async def _one_side(self, side: Side, dbs: list[int], page: Callable[[int, list[bytes]], Any]) -> None:
        second = side is self._pair.second
        run_id = (await side.info()).get("run_id", "")
        mark, self._mark = self._mark, Bookmark(second, run_id=run_id)
        for db in dbs:
            if mark.second == second and db < mark.db:
                continue
            goes_on = mark.second == second and db == mark.db and mark.run_id == run_id
            async for keys, cursor in self._pages(side, db, mark.cursor if goes_on else b"0"):
                await page(db, keys)
                await self._between(db, cursor)

    async def _pages(self, side: Side, db: int, cursor: bytes) -> AsyncIterator[tuple[list[bytes], bytes]]:
        """(keys, the cursor behind them); the next page is on its way while one is looked at."""
        renamed = side is self._pair.second and not self._mapping.identity
        pattern = None if renamed else self._options.pattern
        count = self._options.page * CHUNKS
        if self._options.rate:  # half a second's worth at a time
            count = min(count, max(10, int(self._options.rate / 2)))
        coming = asyncio.ensure_future(side.scan(db, cursor, count, pattern))
        try:
            while True:
                cursor, keys = await coming
                if cursor != b"0":
                    coming = asyncio.ensure_future(side.scan(db, cursor, count, pattern))
                yield keys, cursor
                if cursor == b"0":
                    return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _between(self, db: int, cursor: bytes) -> None:
        """Between two pages: settle when many keys differ, say how far it is, remember where it is."""
        if len(self._suspects) >= self._options.keep:
            await self._settle()
        mark = self._mark
        mark.db, mark.cursor = (db, cursor) if cursor != b"0" else (db + 1, cursor)
        self._show()
        if self._save is not None and time.monotonic() - self._saved >= _SAVE_S:
            if len(self._suspects) > _SAVED_SUSPECTS:
                return
            mark.suspects = [(one.db, one.key) for one in self._suspects.values() if one.kind != "function"]
            self._saved = time.monotonic()
            self._save(mark.packed(self.report))

    async def _first_page(self, db: int, keys: list[bytes]) -> None:
        self.report.first_keys += len(keys)
        self._seen.add(db, keys)
        await self._look([(db, key) for key in keys])

    async def _second_page(self, db: int, keys: list[bytes]) -> None:
        """Keys of the second side that the first lacks, or lacked when it was scanned: a key that came, or came back,
        behind the cursor has not been looked at.
        """
        self.report.second_keys += len(keys)
        await self._pace.spend(len(keys) / 10)
        places = await self._places_back(db, keys)
        absent: list[Place] = []
        for at in sorted({one[0] for one in places}):
            named = [key for one, key in places if one == at]
            new = self._seen.missing(at, named)
            absent += [(at, key) for key in new]
            names = [key for key in named if key not in new] if new else named
            if not names:
                continue
            (there,) = await self._pair.first.ask(at, [[b"EXISTS", *names]])
            if there == len(names):
                continue
            exists = await self._pair.first.ask(at, [[b"EXISTS", key] for key in names])
            absent += [(at, key) for key, found in zip(names, exists, strict=True) if not found]
        await self._look(absent, count=False)

    async def _places_back(self, db: int, keys: list[bytes]) -> list[Place]:
        """The places at the first side of keys of the second."""
        mapping, options = self._mapping, self._options
        if mapping.identity:
            return [(db, key) for key in keys]
        kinds = (
            await self._pair.second.ask(db, [[b"TYPE", key] for key in keys]) if mapping.typed else [b""] * len(keys)
        )
        found = [mapping.back((db, key), kind.decode()) for key, kind in zip(keys, kinds, strict=True)]
        places = [place for place in found if place is not None]
        if options.databases is not None:
            places = [place for place in places if place[0] in options.databases]
        if options.pattern is not None:
            matches = KeyPattern("glob", options.pattern).expression().search
            places = [place for place in places if matches(place[1])]
        return places

    async def _sample(self) -> None:
        """Keys chosen at random, half of them from each side."""
        self.report.total = self._options.sample
        for side, second in ((self._pair.first, False), (self._pair.second, True)):
            counts = await side.databases()
            chosen = self._options.databases
            counts = {db: count for db, count in counts.items() if chosen is None or db in chosen}
            whole = sum(counts.values())
            for db, count in sorted(counts.items()):
                left = -(-self._options.sample * count // (2 * whole))
                while left > 0:
                    keys = await side.random(db, min(left, self._options.page * CHUNKS))
                    left -= self._options.page * CHUNKS
                    places = await self._places_back(db, keys) if second else [(db, key) for key in keys]
                    if second:
                        self.report.second_keys += len(keys)
                    else:
                        self.report.first_keys += len(keys)
                    await self._look(places)
                    self._show()

    # --- looks ---

    async def _look(self, places: list[Place], count: bool = True) -> None:
        """A first look at these keys."""
        page = self._options.page
        chunks = [places[start : start + page] for start in range(0, len(places), page)]
        for found in await asyncio.gather(*(self._looks.at(chunk) for chunk in chunks)):
            self._hold(found)
        if count:
            self.report.keys += len(places)
        if places:
            await self._pace.spend(max(len(places), self._looks.cost * len(chunks)))

    def _hold(self, found: list[Suspect]) -> None:
        for one in found:
            self._suspects[_name(one)] = one

    def _show(self) -> None:
        self._progress(self.report)

    async def _settle(self) -> None:
        """Look at what differs until all of it is known to be different, equal, or never at rest."""
        options, report = self._options, self.report
        seen = dict.fromkeys(self._suspects, 1)
        looks = 1
        while True:
            for name in [name for name, times in seen.items() if times >= options.rounds]:
                self._count(self._suspects.pop(name))
                del seen[name]
            if not self._suspects or looks >= options.rounds + options.patience:
                break
            await self._rest()
            now = {_name(one): one for one in await self._again()}
            seen = {name: seen[name] + 1 if _still(self._suspects.get(name), one) else 1 for name, one in now.items()}
            self._suspects = now
            looks += 1
            report.rounds = max(report.rounds, looks)
            self._show()
        report.unsettled += len(self._suspects)
        places = [(one.db, one.key) for one in self._suspects.values() if one.kind != "function"]
        self.restless += places[: max(0, options.keep - len(self.restless))]
        self._suspects = {}

    async def _rest(self) -> None:
        """Until what is on its way is applied. Raises Unready when that takes too long to say what differs."""
        options = self._options
        for _ in range(_WAITS):
            if await self._flow.settle(options.pause_s) or not options.flowing:
                return
        raise Unready("a link between the two sides stands still, so it cannot be told what differs")

    def _count(self, one: Suspect) -> None:
        self.report.add(Difference(one.db, one.key, one.kind, one.detail), self._options.keep)

    async def _again(self) -> list[Suspect]:
        """Those that differ still."""
        suspects = self._suspects.values()
        out: list[Suspect] = []
        if any(one.kind == "function" for one in suspects):
            out += await self._looks.libraries()
        places = sorted((one.db, one.key) for one in suspects if one.kind != "function")
        page = self._options.page
        for start in range(0, len(places), page):
            out += await self._looks.at(places[start : start + page])
            await self._pace.spend(len(places[start : start + page]))
        return out


def _name(one: Suspect) -> tuple[str, int, bytes]:
    """A library and a key may have the same name."""
    return "library" if one.kind == "function" else "", one.db, one.key


def _still(before: Suspect | None, now: Suspect) -> bool:
    return before is not None and before.kind == now.kind and before.mark == now.mark


__all__ = ["Comparison", "Save", "compare"]
