"""Lag and TTL: a key that the source renewed is whole at the target, whatever the lag; its deadline in the end is the
source's.

The target is a master and expires keys by itself, where a replica would wait. Behind by more than a key's remaining
life it has dropped a key that the source renewed in time; `HSET` or `INCR` replayed onto nothing makes half a session.
While a link is late and keys with a TTL are in use, this guard looks ahead of each stretch of the stream:

- A deadline that is near or past is *held off*: the key gets longer, the stream brings its end or its next deadline.
  When the link is no longer late, the true deadline is put in place, where the held one still stands.
- A key that the stream builds on and that is near its deadline at the target is held off likewise, in the same
  transaction.
- A key that is gone at the target and lives at the source is fetched whole (`sync.refetch`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import hiredis

from canal.commands import needed_keys, written_in
from canal.endpoint import Endpoint
from canal.errors import CanalError
from sync.refetch import Place, Refetch
from sync.tag import is_reserved
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info
from sync.unit import Adjusted, Dropped, Impossible, Rules

LATE_S: Final = 0.2
"""Behind by less than this a link is not late: what is renewed at the source arrives in time."""
_MARGIN_S: Final = 10.0
_HOLD_S: Final = 60.0
_POLL_S: Final = 2.0

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
class Look:
    """What a look at the servers said of the keys of a stretch."""

    near: dict[Place, int] = field(default_factory=dict)  # place -> its deadline at the target, unix ms
    gone: set[Place] = field(default_factory=set)  # missing at the target, alive with a TTL at the source
    missing: set[Place] = field(default_factory=set)  # missing at the target, alive without a TTL at the source


class TtlGuard:
    """One session's guard. ``active`` decides whether every command is looked at."""

    def __init__(self, source: Endpoint, target: Endpoint, refetch: Refetch) -> None:
        self.in_use = True  # whether keys with a TTL exist at the source, as far as known
        self.active = False
        self.latency_s = 0.0  # submit -> commit, of the newest batch
        self.held_off = 0  # how many deadlines were held off
        self._source = source
        self._target = target
        self._refetch = refetch
        self._look = Look()
        self._held: dict[Place, tuple[int, int]] = {}  # place at the target -> (true deadline, held one), unix ms
        self._sides: list[Connection] = []
        self._polled = 0.0
        self._rules: Rules | None = None

    def govern(self, rules: Rules) -> None:
        """Put this guard before the rules, those of `Refetch` too."""
        inner = rules.adjust
        self._rules = rules

        def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
            if not self.active:
                return inner(db, argv, received_ms, end)
            before = self._build_on(db, argv)
            result = inner(db, argv, received_ms, end)
            if isinstance(result, Impossible):
                return result
            if isinstance(result, Dropped):
                return before or result
            if not before and len(result) == 1 and result[0][1] is argv:
                held = self.hold(db, argv)
                return result if held is argv else [(db, held)]
            return [*before, *((at, self.hold(at, out)) for at, out in result)]

        rules.adjust = adjust

    def late(self, received_ms: int) -> bool:
        """Decide whether to be active, given when the next stretch was received. True when every command must be seen
        after a look.
        """
        behind = max(time.time() - received_ms / 1000, self.latency_s)
        self.active = self.in_use and behind > LATE_S
        self._refetch.see_all = self.active
        self._refetch.toggle()
        return self.active

    async def poll(self) -> None:
        """Ask the source, now and then, whether it has keys with a TTL at all."""
        now = time.monotonic()
        if now - self._polled < _POLL_S:
            return
        self._polled = now
        try:
            source, _ = await self._both()
            info = parse_info(await source.call(b"INFO", b"keyspace", timeout=5.0))
            self.in_use = any("expires=0" not in value for name, value in info.items() if name.startswith("db"))
        except CanalError:
            self.in_use = True  # not known: be careful

    async def look(self, commands: Iterable[tuple[int, list[bytes]]]) -> None:
        """See how the keys that ``commands`` build on stand; nothing may be on its way to the target meanwhile."""
        self._look = Look()
        places: dict[Place, None] = {}
        for db, argv in commands:
            for _, key in needed_keys(argv):
                if not is_reserved(key):
                    places[(db, key)] = None
        wanted = [place for place in places if place not in self._refetch.keys]
        if not wanted:
            return
        try:
            source, target = await self._both()
            margin = int((_MARGIN_S + 4 * self.latency_s) * 1000)
            now = time.time_ns() // 1_000_000
            missing = []
            stand = [self._refetch.at_target(place) for place in wanted]
            wanted = [place for place, at in zip(wanted, stand, strict=True) if at is not None]
            at_target = [at for at in stand if at is not None]
            for place, left in zip(wanted, await _lives(target, at_target), strict=True):
                if left == -2:
                    missing.append(place)
                elif 0 <= left < margin:
                    self._look.near[place] = now + left
            for place, left in zip(missing, await _lives(source, missing), strict=True):
                if left >= 0:
                    self._look.gone.add(place)
                elif left == -1:
                    self._look.missing.add(place)
        except CanalError:
            self.close()  # a side is away: replay goes on with what is there, or fails by itself

    def _build_on(self, db: int, argv: list[bytes]) -> list[tuple[int, list[bytes]]]:
        """What has to come before a command because of the keys that it builds on."""
        look = self._look
        if not (look.near or look.gone or look.missing):
            return []
        out: list[tuple[int, list[bytes]]] = []
        persists = argv[0].upper() == b"PERSIST"
        for _, key in needed_keys(argv):
            place = (db, key)
            if place in look.gone or (persists and place in look.missing):
                look.gone.discard(place)
                out += self._refetch.add([place])
            elif place in look.near:
                true = look.near.pop(place)
                held = self._later()
                at = self._refetch.at_target(place)
                if at is not None:
                    self._held[at] = (true, held)
                    self.held_off += 1
                    out.append((at[0], [b"PEXPIREAT", at[1], b"%d" % held]))
        for place in written_in(db, argv):  # what was seen of a key is over once it is written
            look.near.pop(place, None)
            look.gone.discard(place)
            look.missing.discard(place)
        return out

    def _later(self) -> int:
        return time.time_ns() // 1_000_000 + int((_HOLD_S + 4 * self.latency_s) * 1000)

    def hold(self, db: int, argv: list[bytes]) -> list[bytes]:
        """The command with its deadline held off when that is near or past; the same object when it is not."""
        index = deadline_index(argv)
        if index < 0:
            return argv
        text = argv[index]
        place = (db, argv[1])
        if not text.isdigit() or is_reserved(argv[1]):
            return argv
        seconds = argv[0].upper() == b"EXPIREAT" or argv[index - 1].upper() == b"EXAT"
        true = int(text) * (1000 if seconds else 1)
        margin = int((_MARGIN_S + 4 * self.latency_s) * 1000)
        if true > time.time_ns() // 1_000_000 + margin:
            self._held.pop(place, None)
            return argv
        held = self._later()
        self._held[place] = (true, held)
        self.held_off += 1
        out = list(argv)
        out[index] = b"%d" % (held // 1000 if seconds else held)
        if seconds:
            self._held[place] = (true, held // 1000 * 1000)
        return out

    def corrections(self) -> list[tuple[int, list[bytes]]]:
        """The true deadlines of keys held off, once the link is no longer late; each only where it is still needed."""
        now = time.time_ns() // 1_000_000
        soon = now + int((LATE_S + 2 * self.latency_s) * 1000)
        by_db: dict[int, list[tuple[bytes, int, int]]] = {}
        for place, (true, held) in list(self._held.items()):
            if true > soon:
                by_db.setdefault(place[0], []).append((place[1], held, true))
                del self._held[place]
            elif held < now:
                del self._held[place]
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
        return bool(self._held)

    async def _both(self) -> list[Connection]:
        if not self._sides or any(side.closed is not None for side in self._sides):
            self.close()
            source = await connect(self._source, 5.0, who="source")
            try:
                self._sides = [source, await connect(self._target, 20.0)]
            except BaseException:
                source.close()
                raise
        return self._sides

    def close(self) -> None:
        """Drop the connections of its own."""
        for side in self._sides:
            side.close()
        self._sides = []


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


async def _lives(conn: Connection, places: list[Place]) -> list[int]:
    """PTTL of each; -3 where it cannot be asked."""
    commands: list[list[bytes]] = []
    db = -1
    for place in places:
        if place[0] != db:
            db = place[0]
            commands.append([b"SELECT", b"%d" % db])
        commands.append([b"PTTL", place[1]])
    replies = await conn.calls(commands, timeout=30.0) if commands else []
    lives = [reply for argv, reply in zip(commands, replies, strict=True) if argv[0] == b"PTTL"]
    return [-3 if isinstance(reply, hiredis.ReplyError) else int(reply) for reply in lives]
