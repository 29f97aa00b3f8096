"""Repair what a comparison found, while writes go on.

By *echo*: the key's home is made to put the key's whole state into its own stream (`sync.echo`); the link to the other
side brings it there in order with all other writes. This needs a link that runs, and a home that may be written to.

By *write*: the first side's state is written to the second directly. With a link between them it must meet the right
moment, or the link would apply again what the state holds already. So: read the state, wait until the link has applied
what was before it, read it again; if it has not changed between two offsets of the source, and the checkpoint at the
second side stands between these two when the state is put in place (one script does both), then it is exactly what the
second side should hold there.

By *fetch*: a task's own link is asked to fetch the keys (`sync.letters.ask_refetch`), with its fence and checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import hiredis

from canal.endpoint import Endpoint
from canal.errors import AuthError, ConfigError
from sync.echo import echo
from sync.homes import FUNCTIONS
from sync.preflight import kind as kind_of
from sync.restore import target_of
from sync.rewrite import Payloads
from sync.tag import RESERVED
from sync.target.connection import Connection, connect
from sync.target.fence import server_info
from sync.verify.comparison import Comparison
from sync.verify.flow import Flow
from sync.verify.glance import Place
from sync.verify.mapping import Mapping
from sync.verify.place import Placer
from sync.verify.report import Difference, Options, Progress, Report
from sync.verify.side import Pair

Means = Literal["echo", "write", "fetch"]
Where = Literal["first", "second"]

_AT_ONCE: Final = 50
_ATTEMPTS: Final = 4
_PASSES: Final = 20


@dataclass(slots=True)
class Remedy:
    """How to repair. ``home``: which side's state of a key wins. ``fetch``: asks the task's link, for that means."""

    means: Means
    home: Callable[[Place], Where] = lambda place: "first"
    fetch: Callable[[list[Place]], None] | None = None
    progress: Progress = lambda report: None
    mapping: Mapping = field(default_factory=Mapping)
    decide: Callable[[Difference], Where] | None = None  # instead of ``home``, where it matters what differs

    def words(self, found: Iterable[Difference], first: str, second: str) -> str:
        """What would be done, for whoever has to agree to it."""
        found = list(found)
        if self.means != "echo":
            how = "written to" if self.means == "write" else "fetched by the link for"
            return f"the state of {len(found):,} keys at {first} is {how} {second}; {first} is not written to"
        here = sum(self.home((one.db, one.key)) == "first" for one in found)
        parts = [f"{count:,} keys at {label}" for count, label in ((here, first), (len(found) - here, second)) if count]
        return f"{' and '.join(parts)} are written again in place, and the links bring them to the other side"


async def choose_means(first: Endpoint, second: Endpoint, both_ways: bool = False) -> Means:
    """Echo where the homes may be written to and links run that bring it over; else direct writes."""
    pair = await Pair.open(first, second)
    try:
        flow = Flow(pair)
        if not await flow.forward() or (both_ways and not await flow.backward()):
            return "write"
    finally:
        pair.close()
    sides = (first, second) if both_ways else (first,)
    return "echo" if all([await writable(side) for side in sides]) else "write"


async def writable(endpoint: Endpoint) -> bool:
    """May a key be put in place there? Asked by a call that is refused for its arguments if not for permission."""
    conn = await connect(endpoint, who="server")
    try:
        replies = await conn.calls(
            [[b"RESTORE", RESERVED + b"verify", b"none", b"none"], [b"EVAL", b"return 1", b"0"], [b"ROLE"]]
        )
        no = any(isinstance(one, hiredis.ReplyError) and str(one).startswith("NOPERM") for one in replies)
        return not no and replies[1] == 1 and (not isinstance(replies[2], list) or replies[2][0] == b"master")
    finally:
        conn.close()


async def repair(first: Endpoint, second: Endpoint, options: Options, report: Report, remedy: Remedy) -> Report:
    """Repair what ``report`` found, and look again; the new report has what differs still, and how many were repaired.

    Raises PeerError, AuthError for a home that may not be written to.
    """
    pair = await Pair.open(first, second)
    try:
        return await _Repair(pair, (first, second), options, remedy).run(report)
    finally:
        pair.close()


class _Repair:
    def __init__(self, pair: Pair, ends: tuple[Endpoint, Endpoint], options: Options, remedy: Remedy) -> None:
        self._pair, self._ends, self._options, self._remedy = pair, ends, options, remedy
        self._failed: dict[tuple[int, bytes], str] = {}

    async def run(self, report: Report) -> Report:
        """Attempts on what was found; where more was found than is remembered, the whole comparison again."""
        repaired = 0
        for _ in range(_PASSES):
            more = report.overflow
            left = await self._attempts(report.differences)
            done = len(report.differences) - len(left)
            repaired += done
            if not more or not done:
                break
            report = await self._comparison().run()
        out = replace(report, differences=[], found=0)
        for one in left:
            why = self._failed.get((one.db, one.key))
            out.add(one if why is None else replace(one, detail=f"{one.detail}; not repaired: {why}"), 1 << 30)
        out.found += max(0, report.found - len(report.differences))
        out.repaired = repaired
        return out

    def _comparison(self) -> Comparison:
        return Comparison(self._pair, self._options, self._remedy.progress, self._remedy.mapping)

    async def _attempts(self, found: list[Difference]) -> list[Difference]:
        left = found
        for _ in range(_ATTEMPTS):
            if not left:
                break
            await self._attempt(left)
            comparison = self._comparison()
            await comparison.check([(one.db, one.key) for one in left if one.kind != "function"])
            libraries = {(one.db, one.key) for one in left if one.kind == "function"}
            again = comparison.report.differences
            restless = set(comparison.restless)  # written all the time: whether they are equal now nobody can tell
            left = [one for one in left if one.kind != "function" and (one.db, one.key) in restless] + [
                one for one in again if one.kind != "function" or (one.db, one.key) in libraries
            ]
        return left

    async def _attempt(self, found: list[Difference]) -> None:
        match self._remedy.means:
            case "echo":
                for where, end in zip(("first", "second"), self._ends, strict=True):
                    await self._echo(end, [one for one in found if self._home(one) == where], where == "second")
            case "fetch":
                assert self._remedy.fetch is not None
                if libraries := [one for one in found if one.kind == "function"]:
                    await self._write(libraries)
                self._remedy.fetch([(one.db, one.key) for one in found if one.kind != "function"])
            case _:
                await self._write(found)

    def _home(self, one: Difference) -> Where:
        if self._remedy.decide is not None:
            return self._remedy.decide(one)
        return self._remedy.home((FUNCTIONS if one.kind == "function" else one.db, one.key))

    async def _echo(self, end: Endpoint, found: list[Difference], second: bool) -> None:
        if not found:
            return
        names: dict[Place, tuple[int, bytes]] = {}
        for one in found:
            place = (FUNCTIONS, one.key) if one.kind == "function" else (one.db, one.key)
            there = self._remedy.mapping.there(place) if second and one.kind != "function" else place
            if there is not None:
                names[there] = (one.db, one.key)
        conn = await connect(end, who="home")
        try:
            places = list(names)
            for start in range(0, len(places), _AT_ONCE):
                for done in await echo(conn, places[start : start + _AT_ONCE]):
                    if done.outcome == "failed":
                        if done.error.startswith("NOPERM"):
                            raise AuthError(f"{end.label}: {done.error}; repair by writes to the target instead")
                        self._failed[names[done.place]] = done.error
                    elif done.outcome == "big":
                        why = f"its value takes {done.size:,} bytes, too large for an echo"
                        self._failed[names[done.place]] = why
        finally:
            conn.close()

    async def _write(self, found: list[Difference]) -> None:
        """The first side's state to the second."""
        if self._pair.first.several or self._pair.second.several:
            raise ConfigError(
                "a cluster is not repaired by direct writes, whose moment cannot be told among several streams: with "
                "links that run (and where the first side may be written to) --by echo repairs it"
            )
        source = await connect(self._ends[0], who="source")
        try:
            target = await connect(self._ends[1])
        except BaseException:
            source.close()
            raise
        try:
            info = server_info(await target.call(b"INFO"))
            payloads = Payloads(target_of(kind_of(info)))
            placer = Placer(source, target, payloads, await Flow(self._pair).links())
            for one in found:
                if one.kind == "function":
                    await _library(source, target, one.key)
            keys = [(one.db, one.key) for one in found if one.kind != "function"]
            places = [(key, there) for key in keys if (there := self._remedy.mapping.there(key)) is not None]
            self._failed = await placer.put(places)
        finally:
            source.close()
            target.close()


async def _library(source: Connection, target: Connection, name: bytes) -> None:
    """A function library as the source has it; removed where it has none."""
    found = await source.call(b"FUNCTION", b"LIST", b"LIBRARYNAME", name, b"WITHCODE")
    for entry in found:
        library = dict(zip(entry[::2], entry[1::2], strict=True))
        if library[b"library_name"] == name:
            await target.call(b"FUNCTION", b"LOAD", b"REPLACE", library[b"library_code"])
            return
    await target.call(b"FUNCTION", b"DELETE", name)
