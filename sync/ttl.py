"""Lag and TTL: a key that the source renewed is whole at the target, whatever the lag; its deadline in the end is the
source's.

The target is a master and expires keys by itself, where a replica would wait. Behind by more than a key's remaining
life it has dropped a key that the source renewed in time; `HSET` or `INCR` replayed onto nothing makes half a session.
While a link is late and keys with a TTL are in use, this guard looks ahead of each stretch of the stream:

- A deadline that is near or past is *held off*: the key gets longer, the stream brings its end or its next deadline.
  When the link is no longer late, the true deadline is put in place, where the held one still stands.
- A key that the stream builds on and that is near its deadline at the target is held off likewise, in the same
  transaction.
- A key that is gone at the target and lives at the source is fetched whole (`sync.refetch`); so is a hash whose fields
  get deadlines of their own.

A key that was looked at, or written, under this guard is safe for `_SAFE_S` and is not looked at again meanwhile. That
is also why a stretch can be looked at while the one before it is on its way: what that one writes is safe.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from canal.commands import needed_keys, written_in
from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.stretch import hold_off
from sync.conditional import is_conditional, with_held
from sync.look import Look, Servers, Stretch, look_at, unreserved
from sync.refetch import Place, Refetch
from sync.rules import Adjusted, Dropped, Impossible, Rules
from sync.sieve import FIELD_TTL
from sync.tag import is_reserved
from sync.target.fence import parse_info

log = logging.getLogger(__name__)

LATE_S: Final = 0.2
"""Behind by less than this a link is not late: what is renewed at the source arrives in time."""
_MARGIN_S: Final = 15.0
_SAFE_S: Final = 2.0  # at most twice this, and what a transaction takes, must be less than the margin
_SAFE_KEYS: Final = 100_000
_HOLD_S: Final = 60.0
_POLL_S: Final = 2.0
_MOST_HELD: Final = 300_000
_MOST_SUSPECTS: Final = 200_000
_EXPIRED: Final = ("expired_keys", "expired_subkeys", "expired_fields")  # of INFO stats: how many, since the start

CORRECT: Final = b"""\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local set = 0
for i, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left > 0 and math.abs(now + left - tonumber(ARGV[i * 2 - 1])) <= 20 then
    redis.call('PEXPIREAT', key, ARGV[i * 2])
    set = set + 1
  end
end
return set
"""


@dataclass(slots=True)
class TtlMemory:
    """What outlives a session. ``seen``: keys with a TTL were met; ``held``: place at the target → its true deadline
    and the one that it has, unix ms; ``suspects``: keys that may have expired at the target before they were built on.
    """

    seen: bool = False
    held: dict[Place, tuple[int, int]] = field(default_factory=dict)
    suspects: set[Place] = field(default_factory=set)
    held_off: int = 0  # how many deadlines were held off
    fresh: dict[Place, tuple[int, int]] = field(default_factory=dict)  # of ``held``, to be remembered at the target
    last: dict[Place, int] = field(default_factory=dict)  # two ways: what was held last, to be told with a delete
    last_until: int = 0  # no deadline in ``last`` is later, unix ms
    remembers: bool = False  # two ways: conditional deletes have to know
    note: Callable[[], None] | None = None  # called once when keys with a TTL are first met

    def met(self) -> None:
        """A key with a TTL exists, or did."""
        if not self.seen:
            self.seen = True
            if self.note is not None:
                self.note()

    def hold(self, place: Place, true: int, held: int, now: int) -> None:
        """Remember a deadline that has to be put right, unless the stream brings the key's end before."""
        self.held_off += 1
        if self.remembers and len(self.fresh) < _MOST_HELD:
            self.fresh[place] = (true, held)
            if len(self.last) >= _MOST_HELD:
                self.last = {one: until for one, until in self.last.items() if until > now}
            if len(self.last) < _MOST_HELD:
                self.last[place] = held
                self.last_until = max(self.last_until, held)
        if true > now:
            if len(self.held) >= _MOST_HELD and place not in self.held:
                self.held = {one: times for one, times in self.held.items() if times[0] > now}
            if len(self.held) < _MOST_HELD:
                self.held[place] = (true, held)


class TtlGuard:
    """One session's guard. ``active``: the link is late, and keys have to be looked at."""

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        refetch: Refetch,
        memory: TtlMemory | None = None,
        *,
        two_way: bool = False,
    ) -> None:
        self.memory = memory or TtlMemory()
        self.in_use = True  # whether keys with a TTL exist, as far as known
        self.active = False
        self.latency_s = 0.0  # submit -> commit, of the newest batch
        self._servers = Servers(source, target)
        self._refetch = refetch
        self._two_way = two_way
        self._look = Look()
        self._polled = 0.0
        self._rules: Rules | None = None
        self._young: dict[int, set[bytes]] = {}  # safe keys, and those of the generation before
        self._old: dict[int, set[bytes]] = {}
        self._young_until = self._old_until = 0.0  # how long their keys live at least, time.monotonic()
        self._young_since = 0.0
        self._young_end = self._old_end = 0  # stream position up to which they hold the keys
        self._committed = 0
        self._corrected = 0.0
        self._alone = False  # the next look has to wait until all is applied
        self._under_way: deque[tuple[int, float, Stretch]] = deque()  # (end, safe until, keys)

    # --- when ---

    def late(self, received_ms: int) -> bool:
        """Decide whether to be active, given when the next stretch was received. True when it needs a look."""
        behind = max(time.time() - received_ms / 1000, self.latency_s)
        late = behind > LATE_S
        self.active = self.in_use and late
        sieve, rules = self._refetch.sieve, self._rules
        if rules is not None and sieve is not None and sieve.late != late:
            sieve.late = late
            sieve.settle()
            rules.passing = self._passing if late else None
            self._forget()
            self._alone = late  # keys that are on their way were not looked at
        return self.active

    @property
    def poll_due(self) -> bool:
        """Is it time to ask again?"""
        return time.monotonic() - self._polled >= _POLL_S

    async def poll(self) -> None:
        """Ask the servers, now and then, whether they have keys with a TTL at all."""
        if not self.poll_due:
            return
        self._polled = time.monotonic()
        try:
            for who in ("source", "target"):
                info = parse_info(await (await self._servers.get(who)).call(b"INFO", b"keyspace", timeout=5.0))
                if any("expires=0" not in value for name, value in info.items() if name.startswith("db")):
                    self.memory.met()
            if not self.memory.seen:  # a key came and went between two questions, and the source has kept it
                stats = parse_info(await (await self._servers.get("target")).call(b"INFO", b"stats", timeout=5.0))
                if any(stats.get(name, "0") != "0" for name in _EXPIRED):
                    self.memory.met()
            self.in_use = self.memory.seen
        except CanalError:
            self.in_use = True  # not known: be careful

    # --- the look ahead ---

    def may_look(self, idle: bool) -> bool:
        """Can a look be taken now? Where not every key on its way is known, only when nothing is (``idle``)."""
        if idle:
            if self._alone:
                self._forget()
            self._alone = False
        return not self._alone

    def wanted(self, stretch: Stretch) -> dict[Place, Place]:
        """Keys that have to be looked at: place at the source → place at the target."""
        if self._two_way or stretch.tagged:
            self._forget()
        out: dict[Place, Place] = {}
        at_target, identity, waiting = self._refetch.at_target, self._refetch.identity, self._refetch.keys
        empty: set[bytes] = set()
        for db, names in stretch.builds.items():
            left = names - self._young.get(db, empty) - self._old.get(db, empty)
            for name in unreserved(left) if stretch.tagged else left:
                place = (db, name)
                if place in waiting:
                    continue
                at = place if identity else at_target(place)
                if at is not None:
                    out[place] = at
        return out

    async def look(self, stand: dict[Place, Place], persists: set[Place]) -> Look:
        """See how keys stand. Where a server is away nothing is seen: replay goes on, or fails by itself."""
        await self.poll()
        if not self.in_use:
            return Look()
        margin = int((_MARGIN_S + 4 * self.latency_s) * 1000)
        try:
            return await look_at(self._servers, stand, persists, margin)
        except CanalError:
            self.close()
            return Look(unknown=set(stand))

    def take(self, look: Look, stretch: Stretch, end: int) -> list[tuple[int, list[bytes]]]:
        """A stretch up to ``end`` is about to be fed: use what was seen. The commands that have to come before it."""
        sieve = self._refetch.sieve
        fetched = self._refetch.add(list(look.gone))
        look.gone.clear()
        old, self._look = self._look, look
        if sieve is not None:
            for _, name in old.places():
                sieve.release(name)
            sieve.add([name for _, name in look.places()])
        if len(self.memory.suspects) < _MOST_SUSPECTS:
            self.memory.suspects |= look.unknown
        self._turn()
        self._under_way.append((end, min(self._young_until, self._old_until), stretch))
        self._young_end = end
        for names in (stretch.builds, stretch.replaces):
            for db, found in names.items():
                if db in self._young:
                    self._young[db] |= found
                else:
                    self._young[db] = set(found)
        if self._two_way or stretch.tagged or stretch.unnamed:
            self._alone = True
        return fetched

    def _turn(self) -> None:
        """Forget keys that were safe long ago, once nothing that relies on them is on its way."""
        now = time.monotonic()
        until = now + _MARGIN_S + 4 * self.latency_s - 1.0  # what was looked at just now lives so long
        full = now - self._young_since > _SAFE_S or sum(map(len, self._young.values())) > _SAFE_KEYS
        if full and self._committed >= self._old_end:
            self._old, self._old_until, self._old_end = self._young, self._young_until or until, self._young_end
            self._young, self._young_since, self._young_until = {}, now, until
        self._young_until = min(self._young_until, until)

    def _forget(self) -> None:
        self._young, self._old = {}, {}
        self._young_since = 0.0
        self._young_until = self._old_until = time.monotonic() + _MARGIN_S

    def committed(self, end: int) -> None:
        """All up to ``end`` is applied. What came later than its keys were sure to live has to be looked at again."""
        self._committed = end
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= end:
            _, until, stretch = self._under_way.popleft()
            if now > until and self.in_use and len(self.memory.suspects) < _MOST_SUSPECTS:
                log.info("late by %.1f s more than keys were sure to live: they will be looked at again", now - until)
                for db, names in stretch.builds.items():
                    self.memory.suspects.update((db, name) for name in names)

    async def settle(self) -> list[tuple[int, list[bytes]]]:
        """All is applied: commands that have keys under suspicion fetched, where they have a TTL at the source."""
        suspects = [place for place in self.memory.suspects if self._refetch.at_target(place) is not None]
        try:
            lives = await self._servers.lives("source", suspects)
        except CanalError:
            return []
        self.memory.suspects.clear()
        return self._refetch.add([place for place, left in zip(suspects, lives, strict=True) if left >= 0])

    # --- what comes before a command, and its deadline ---

    def govern(self, rules: Rules) -> None:
        """Put this guard before the rules, those of `Refetch` too."""
        inner = rules.adjust
        self._rules = rules
        if self._refetch.sieve is not None:
            self._refetch.sieve.owned(lambda name: self._look.names(name))

        def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
            if not self.active and rules.passing is None:
                return self._told(inner(db, argv, received_ms, end))
            name = argv[0].upper()
            if name in FIELD_TTL and len(argv) > 1 and (db, argv[1]) not in self._refetch.keys:
                result = inner(db, argv, received_ms, end)
                # fields may have expired at the target, too: the key is fetched whole
                return result if isinstance(result, Dropped) else self._refetch.add([(db, argv[1])])
            before = self._build_on(db, argv)
            result = self._told(inner(db, argv, received_ms, end))
            if isinstance(result, Impossible):
                return result
            if isinstance(result, Dropped):
                return before or result
            if not before and len(result) == 1 and result[0][1] is argv:
                held = self.hold(db, argv)
                return result if held is argv else [(db, held)]
            return [*before, *((at, self.hold(at, out)) for at, out in result)]

        rules.adjust = adjust

    def _told(self, result: Adjusted) -> Adjusted:
        """Conditional deletes know which deadline was held off last."""
        last = self.memory.last
        if not last or not isinstance(result, list):
            return result
        if not self.active and time.time() * 1000 > self.memory.last_until:
            last.clear()  # all have passed
            return result
        return [
            (at, with_held(out, last[(at, out[3])]) if is_conditional(out) and (at, out[3]) in last else out)
            for at, out in result
        ]

    def _build_on(self, db: int, argv: list[bytes]) -> list[tuple[int, list[bytes]]]:
        """What has to come before a command because of the keys that it builds on."""
        look = self._look
        if not (look.near or look.gone or look.missing):
            return []
        out: list[tuple[int, list[bytes]]] = []
        persists = argv[0].upper() == b"PERSIST"
        now = time.time_ns() // 1_000_000
        for _, key in needed_keys(argv):
            place = (db, key)
            if place in look.gone or (persists and place in look.missing):
                look.gone.discard(place)
                out += self._refetch.add([place])
            elif place in look.near:
                true = look.near.pop(place)
                held = self._later(now)
                at = self._refetch.at_target(place)
                if at is not None:
                    self.memory.hold(at, true, held, now)
                    out.append((at[0], [b"PEXPIREAT", at[1], b"%d" % held]))
        sieve = self._refetch.sieve
        for place in written_in(db, argv):
            look.over(place)
            if sieve is not None:
                sieve.release(place[1])
        return out

    def _later(self, now: int) -> int:
        return now + int((_HOLD_S + 4 * self.latency_s) * 1000)

    def _margin(self, now: int) -> int:
        return now + int((_MARGIN_S + 4 * self.latency_s) * 1000)

    def _passing(self, db: int, raw: bytes) -> bytes:
        """Plain commands on their way: the deadlines in them are held off where they are near."""
        now = time.time_ns() // 1_000_000
        held = self._later(now)
        out, due = hold_off(raw, self._margin(now), 0 if self._two_way else now, b"%d" % held)
        if out is not raw:
            self._met()
            for key, true in due:
                self.memory.hold((db, key), true, held, now)
        return out

    def hold(self, db: int, argv: list[bytes]) -> list[bytes]:
        """The command with its deadline held off when that is near or past; the same object when it is not."""
        index = deadline_index(argv)
        if index < 0:
            return argv
        text = argv[index]
        place = (db, argv[1])
        if not text.isdigit() or is_reserved(argv[1]):
            return argv
        self._met()
        seconds = argv[0].upper() == b"EXPIREAT" or argv[index - 1].upper() == b"EXAT"
        true = int(text) * (1000 if seconds else 1)
        now = time.time_ns() // 1_000_000
        if true > self._margin(now):
            self.memory.held.pop(place, None)
            return argv
        held = self._later(now)
        if seconds:
            held = held // 1000 * 1000
        self.memory.hold(place, true, held, now)
        out = list(argv)
        out[index] = b"%d" % (held // 1000 if seconds else held)
        return out

    def _met(self) -> None:
        """The stream brings deadlines: from here on keys are looked at, whatever the servers said."""
        self.memory.met()
        self.in_use = True

    # --- putting right ---

    def corrections(self) -> list[tuple[int, list[bytes]]]:
        """The true deadlines of keys held off, once the link is no longer late; each only where it is still needed."""
        now = time.time_ns() // 1_000_000
        soon = now + int((LATE_S + 2 * self.latency_s) * 1000)
        by_db: dict[int, list[tuple[bytes, int, int]]] = {}
        left: dict[Place, tuple[int, int]] = {}
        for place, (true, held) in self.memory.held.items():
            if true > soon:
                by_db.setdefault(place[0], []).append((place[1], held, true))
            elif true > now:
                left[place] = (true, held)
        self.memory.held = left  # what is over the source ends by itself
        self._corrected = time.monotonic()
        out: list[tuple[int, list[bytes]]] = []
        for db, entries in by_db.items():
            for begin in range(0, len(entries), 500):
                part = entries[begin : begin + 500]
                words = [b"%d" % number for _, held, true in part for number in (held, true)]
                out.append((db, [b"EVAL", CORRECT, b"%d" % len(part), *(key for key, _, _ in part), *words]))
        return out

    @property
    def holding(self) -> bool:
        """Are there deadlines to be put right?"""
        return bool(self.memory.held) and time.monotonic() - self._corrected > 0.1

    def close(self) -> None:
        """Drop the connections of its own."""
        self._servers.close()


def deadline_index(argv: list[bytes]) -> int:
    """Where an absolute deadline of a whole key stands in a rewritten command; -1 when there is none."""
    name = argv[0].upper()
    if name in (b"PEXPIREAT", b"EXPIREAT"):
        return 2
    if name == b"SET" and len(argv) > 4:
        for index in range(3, len(argv) - 1):
            if argv[index].upper() in (b"PXAT", b"EXAT"):
                return index + 1
    if name == b"RESTORE" and any(word.upper() == b"ABSTTL" for word in argv[4:]):
        return 2 if argv[2] != b"0" else -1
    return -1
