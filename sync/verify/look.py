"""One look at some keys: which of them differ now, and how. Several looks make a verdict (`sync.verify.comparison`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import hiredis

from sync.content import weight
from sync.verify.glance import Glance, Place, glances
from sync.verify.mapping import Mapping
from sync.verify.report import Kind, Options
from sync.verify.side import Pair
from sync.verify.values import Both, Values, same_deadline, when

DELAYED_TTL_TOLERANCE_MS = 50  # where a side tells only remaining times, which pass on the way
_COARSE_MS = 1000


@dataclass(frozen=True, slots=True)
class Suspect:
    """A key that differed in one look. Two looks with the same ``kind`` and ``mark`` saw the same on both sides."""

    db: int
    key: bytes
    kind: Kind
    detail: str
    mark: tuple[Any, ...]


class Looks:
    """Looks at keys of a pair. ``cost`` of the last look: keys, larger values counting for more."""

    def __init__(self, pair: Pair, options: Options, mapping: Mapping) -> None:
        self.cost = 0.0
        self._pair, self._mapping = pair, mapping
        self._tolerance = max(options.ttl_tolerance_ms, 0 if pair.absolute else DELAYED_TTL_TOLERANCE_MS)
        self._values = Values(pair, options, self._tolerance)

    async def at(self, places: list[Place]) -> list[Suspect]:
        """Compare these keys (places of the first side) whole. Keys that exist on neither side are equal."""
        carried = [(place, there) for place in places if (there := self._mapping.there(place)) is not None]
        if not carried:
            return []
        pair = self._pair
        lefts, rights = await asyncio.gather(
            glances(pair.first, [here for here, _ in carried], absolute=pair.absolute, fields=pair.field_deadlines),
            glances(pair.second, [there for _, there in carried], absolute=pair.absolute, fields=pair.field_deadlines),
        )
        out: list[Suspect] = []
        same: list[Both] = []
        cost = 0.0
        for (here, there), left, right in zip(carried, lefts, rights, strict=True):
            cost += 1 + max(weight(left.kind, left.size), weight(right.kind, right.size)) / 100
            if not self._mapping.carries(left.kind.decode()) and left.there:
                continue
            found = self._glanced(here, left, right)
            if found is not None:
                out.append(found)
            elif left.there:
                same.append(Both(here, there, left, right))
        self.cost = cost
        for both, verdict in zip(same, await self._values.compare(same), strict=True):
            if verdict is not None:
                kind: Kind = "ttl" if verdict.ttl else "value"
                out.append(Suspect(*both.here, kind, verdict.detail, verdict.mark))
        return out

    def _glanced(self, place: Place, left: Glance, right: Glance) -> Suspect | None:
        """What the glance tells already."""
        if left.kind != right.kind:
            mark = self._marked(left), self._marked(right)
            if not right.there:
                return Suspect(*place, "missing", left.kind.decode(), mark)
            if not left.there:
                return Suspect(*place, "extra", right.kind.decode(), mark)
            return Suspect(*place, "type", f"{left.kind.decode()} against {right.kind.decode()}", mark)
        if left.there and not same_deadline(left.deadline, right.deadline, self._tolerance):
            detail = f"{when(left.deadline)} against {when(right.deadline)}"
            return Suspect(*place, "ttl", detail, (self._marked(left).deadline, self._marked(right).deadline))
        return None

    def _marked(self, glance: Glance) -> Glance:
        """What two looks at a key that rests have in common: before 7.0 a deadline is reckoned from the time that is
        left, and comes out a millisecond later or earlier each time.
        """
        if self._pair.absolute or glance.deadline < 0:
            return glance
        return replace(glance, deadline=glance.deadline // _COARSE_MS)

    async def libraries(self) -> list[Suspect]:
        """Function libraries, by name and code."""
        if not self._pair.functions:
            return []
        command = [(0, [b"FUNCTION", b"LIST", b"WITHCODE"])]
        here, there = (_code(reply[0]) for reply in await self._pair.both(command, command))
        return [
            Suspect(0, name, "function", _presence(name in here, name in there), (here.get(name), there.get(name)))
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]


def _code(reply: Any) -> dict[bytes, bytes]:
    if isinstance(reply, hiredis.ReplyError):
        return {}
    libraries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in reply]
    return {library[b"library_name"]: library[b"library_code"] for library in libraries}


def _presence(here: bool, there: bool) -> str:
    if here and there:
        return "the code differs"
    return "only at the first side" if here else "only at the second side"
