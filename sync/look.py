"""A late link's look ahead: which keys a stretch of the stream concerns, and how they stand at the two servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

import hiredis

from canal.commands import COMMANDS, OLD, ONE_KEY, Flag, lookup, needed_keys, written_in
from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.resp import parse
from canal.stretch import BUILDS, NOTHING, ONE, REPLACES, SET, survey
from sync.refetch import Place
from sync.tag import RESERVED, begins_tagged, is_reserved
from sync.target.connection import Connection, connect

Names = dict[int, set[bytes]]
"""database → keys"""

_IDLE_S: Final = 10.0
"""Connections on which nothing has been asked for so long are closed: a link that is in time needs none."""

_CONTROL: Final = (b"PING", b"REPLCONF", b"MULTI", b"EXEC", b"PUBLISH", b"SPUBLISH")


def _kinds() -> dict[bytes, int]:
    """Names of commands whose keys `canal.stretch.survey` can tell; the others are looked at one by one."""
    kinds: dict[bytes, int] = {}
    for info in COMMANDS:
        plain = info.finder is None and not info.flags & (Flag.ALLKEYS | Flag.OPAQUE)
        if info.name in _CONTROL:
            kind = NOTHING
        elif info.name == b"SET":
            kind = SET
        elif info.name in (b"DEL", b"UNLINK"):
            kind = ONE
        elif plain and info.name in ONE_KEY and info.name not in (b"MOVE", b"PERSIST"):
            kind = BUILDS if any(spec.access & OLD for spec in info.keys) else REPLACES
        else:
            continue
        kinds[info.name] = kinds[info.name.lower()] = kind
    return kinds


_KINDS: Final = _kinds()
_KINDS_APART: Final = {name: kind for name, kind in _KINDS.items() if name.upper() not in (b"MULTI", b"EXEC")}
"""Likewise, where transactions have to be told apart."""


@dataclass(slots=True)
class Stretch:
    """The keys of a stretch. ``unnamed``: it holds commands that reach keys which they do not name; ``tagged``: it may
    hold transactions that are not replayed.
    """

    builds: Names = field(default_factory=dict)  # whose old value decides an outcome
    replaces: Names = field(default_factory=dict)  # written whole
    persists: set[Place] = field(default_factory=set)
    unnamed: bool = False
    tagged: bool = False

    @classmethod
    def of(cls, buf: bytes, db: int, drop: Container[str] = (), *, within: bool = False) -> Stretch:
        """The keys of the whole commands in ``buf``, met while ``db`` is selected.

        Transactions that bear the tag of an origin in ``drop`` are passed over: their keys stand at the target as they
        were written there, and may be ahead of the source. ``within``: the stretch begins inside such a one.
        """
        found = cls(tagged=RESERVED in buf)
        kinds = _KINDS_APART if found.tagged or within else _KINDS
        at, end = 0, len(buf)
        passed: set[bytes] = set()
        while True:
            builds = passed if within else found.builds.setdefault(db, set())
            replaces = passed if within else found.replaces.setdefault(db, set())
            at = survey(buf, at, end, kinds, builds, replaces)
            parsed = parse(buf, at, end)
            if parsed is None:
                return found
            argv, at = parsed
            name = argv[0].upper()
            if name == b"SELECT" and len(argv) == 2 and argv[1].isdigit():
                db = int(argv[1])
            elif name == b"MULTI":
                within = begins_tagged(buf, at, drop)
            elif name == b"EXEC":
                within = False
                passed.clear()
            elif not within:
                found._add(db, argv)

    def _add(self, db: int, argv: list[bytes]) -> None:
        info = lookup(argv[0])
        if info is None or info.flags & Flag.ALLKEYS or (info.flags & Flag.OPAQUE and info.name != b"SORT"):
            self.unnamed = True
        for _, key in needed_keys(argv):
            self.builds.setdefault(db, set()).add(key)
        for to_db, key in written_in(db, argv):
            self.replaces.setdefault(to_db, set()).add(key)
        if argv[0].upper() == b"PERSIST" and len(argv) == 2:
            self.persists.add((db, argv[1]))


@dataclass(slots=True)
class Look:
    """What a look at the servers said of the keys of a stretch."""

    near: dict[Place, int] = field(default_factory=dict)  # place -> its deadline at the target, unix ms
    gone: set[Place] = field(default_factory=set)  # missing at the target, alive with a TTL at the source
    missing: set[Place] = field(default_factory=set)  # missing at the target, alive without a TTL at the source
    unknown: set[Place] = field(default_factory=set)  # missing at the target; the source could not be asked
    databases: tuple[int, ...] = ()

    def places(self) -> set[Place]:
        """All that it names."""
        return self.near.keys() | self.gone | self.missing

    def over(self, place: Place) -> None:
        """What was seen of a key is over once it is written."""
        self.near.pop(place, None)
        self.gone.discard(place)
        self.missing.discard(place)

    def names(self, name: bytes) -> bool:
        """Is a key of this name among them, in any database?"""
        places = [(db, name) for db in self.databases]
        return any(place in self.near or place in self.gone or place in self.missing for place in places)


class Servers:
    """Connections of the guard's own to source and target, made when they are needed, closed when nobody asks."""

    def __init__(self, source: Endpoint, target: Endpoint) -> None:
        self._endpoints = {"source": (source, 5.0), "target": (target, 20.0)}
        self._open: dict[str, Connection] = {}
        self._used = 0.0
        self._resting: asyncio.TimerHandle | None = None

    async def get(self, who: str) -> Connection:
        """The connection to "source" or "target". Raises Unreachable and the like."""
        conn = self._open.get(who)
        if conn is None or conn.broken is not None:
            if conn is not None:
                conn.close()
            endpoint, timeout = self._endpoints[who]
            conn = self._open[who] = await connect(endpoint, timeout, who=who)
        self._used = time.monotonic()
        if self._resting is None:
            self._rest_after(_IDLE_S)
        return conn

    def _rest_after(self, delay_s: float) -> None:
        self._resting = asyncio.get_running_loop().call_later(delay_s, self._rest)

    def _rest(self) -> None:
        """Close what has not been used for so long; look again later otherwise."""
        self._resting = None
        left = self._used + _IDLE_S - time.monotonic()
        busy = any(conn.awaits_replies for conn in self._open.values())
        if left > 0 or busy:
            self._rest_after(max(left, 1.0))
        else:
            self.close()

    async def lives(self, who: str, places: list[Place]) -> list[int]:
        """PTTL of each; -3 where it cannot be asked. Raises Unreachable and the like."""
        if not places:
            return []
        conn = await self.get(who)
        parts: list[bytes] = []
        selects: list[int] = []
        db = -1
        for number, (at, key) in enumerate(places):
            if at != db:
                db = at
                selects.append(number + len(selects))
                parts.append(b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%d\r\n" % (len(str(db)), db))
            parts.append(b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (len(key), key))
        replies = await conn.bulk(b"".join(parts), len(parts), timeout=30.0)
        for number in reversed(selects):
            del replies[number]
        return [-3 if isinstance(reply, hiredis.ReplyError) else int(reply) for reply in replies]

    def close(self) -> None:
        """Drop them."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        for conn in self._open.values():
            conn.close()
        self._open = {}


async def look_at(servers: Servers, stand: dict[Place, Place], persists: set[Place], margin_ms: int) -> Look:
    """How keys stand. ``stand``: place at the source → place at the target.

    Raises Unreachable and the like when the target cannot be asked.
    """
    look = Look()
    now = time.time_ns() // 1_000_000
    missing = []
    for place, left in zip(stand, await servers.lives("target", list(stand.values())), strict=True):
        if left == -2:
            missing.append(place)
        elif 0 <= left < margin_ms:
            look.near[place] = now + left
    try:
        for place, left in zip(missing, await servers.lives("source", missing), strict=True):
            if left >= 0:
                look.gone.add(place)
            elif left == -1 and place in persists:
                look.missing.add(place)
    except CanalError:
        look.unknown.update(missing)
    look.databases = tuple({db for db, _ in stand})
    return look


def unreserved(names: set[bytes]) -> set[bytes]:
    """Without redis-canal's own keys."""
    return {name for name in names if not is_reserved(name)}
