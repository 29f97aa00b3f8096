"""Echoes: a server is made to put the whole state of a key into its own stream, as a write of its own.

One script dumps the key and restores it in place (its deadline kept; a key that is not there is written and deleted).
What enters the stream is in order with every write before and after it, so that every other datacenter takes exactly
this state at exactly this point: `echo` needs no lock, and nothing is lost that is written meanwhile.

`echo` is one round of that over a connection; `Echoer` does it in the background: each key once, at a bounded rate,
counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import hiredis

from canal.backoff import Backoff
from canal.cluster import slot_of
from canal.endpoint import Endpoint
from canal.errors import CanalError, Unready
from canal.position import Position
from sync.homes import FUNCTIONS, Place
from sync.target.connection import Connection, connect
from sync.target.errors import classify, is_transient
from sync.target.fence import parse_info, server_info

log = logging.getLogger(__name__)

Outcome = Literal["echoed", "absent", "big", "failed"]

BIG_BYTES: Final = 64 << 20
_AT_ONCE: Final = 100
_HOLD_S: Final = 0.02
_AGAIN_S: Final = 1.0
_LACKS_S: Final = 0.2
_IDLE_S: Final = 10.0
"""A connection on which nothing has been echoed for so long is closed."""

ECHO: Final = b"""\
if redis.replicate_commands then redis.replicate_commands() end
local key, most = KEYS[1], tonumber(ARGV[1])
local size = redis.pcall('MEMORY', 'USAGE', key)
if type(size) == 'number' and size > most then return {'big', size} end
local payload = redis.call('DUMP', key)
if not payload then
  redis.call('SET', key, '')
  redis.call('DEL', key)
  return {'absent', 0}
end
local deadline = redis.pcall('PEXPIRETIME', key)
if type(deadline) ~= 'number' then
  local left = redis.call('PTTL', key)
  if left >= 0 then
    local time = redis.call('TIME')
    left = time[1] * 1000 + math.floor(time[2] / 1000) + left
  end
  deadline = left
end
if deadline <= 0 then
  redis.call('RESTORE', key, 0, payload, 'REPLACE')
else
  redis.call('RESTORE', key, string.format('%.0f', deadline), payload, 'REPLACE', 'ABSTTL')
end
return {'echoed', #payload}
"""
"""KEYS: the key. ARGV: bytes of memory above which it is left alone, since dumping it would block the server."""

_STUB: Final = b"#!lua name=%b\nredis.register_function('rediscanal_stub_%d', function() return 0 end)"


@dataclass(frozen=True, slots=True)
class Echoed:
    """What became of one key. ``after``: the server's stream stood there just before; the echo is the next unit, so a
    datacenter that has seen more than this has the echo; of a whole cluster it says nothing. ``size``: bytes of its
    value. ``error``: of ``failed``.
    """

    place: Place
    outcome: Outcome
    after: Position
    size: int = 0
    error: str = ""


async def echo(conn: Connection, places: Sequence[Place], big_bytes: int = BIG_BYTES) -> list[Echoed]:
    """Echo these keys at the server of ``conn``, in one transaction; keys above ``big_bytes`` are reported as ``big``.

    Raises Unready (nothing was echoed: try again later), Unreachable, AuthError.
    """
    keys = [place for place in places if place[0] != FUNCTIONS]
    libraries = [place for place in places if place[0] == FUNCTIONS]
    each = _echo_apart if conn.several else _echo_keys
    out = await each(conn, keys, big_bytes) if keys else []
    for place in libraries:
        if conn.several:
            nowhere, why = Position("0" * 40, 0), "function libraries of a cluster are not echoed"
            out.append(Echoed(place, "failed", nowhere, error=why))
            continue
        out.append(await _echo_library(conn, place))
    return out


async def _echo_keys(conn: Connection, places: Sequence[Place], big_bytes: int) -> list[Echoed]:
    commands: list[list[bytes]] = [[b"MULTI"], [b"INFO", b"replication"]]
    numbers = []
    db = -1
    for place in places:
        if place[0] != db:
            db = place[0]
            commands.append([b"SELECT", b"%d" % db])
        numbers.append(len(commands) - 1)
        commands.append([b"EVAL", ECHO, b"1", place[1], b"%d" % big_bytes])
    replies = await conn.calls([*commands, [b"EXEC"], [b"SELECT", b"0"]], timeout=60.0)
    result = replies[-2]
    if not isinstance(result, list):
        first = next((str(one) for one in replies if isinstance(one, hiredis.ReplyError)), str(result))
        if "CROSSSLOT" in first or "CROSSSLOT" in str(result):
            return await _echo_by_slot(conn, places, big_bytes)
        raise classify(first, "echoing keys", conn.who)
    after = _position(conn, result[0])
    return [_outcome(conn, place, result[number], after) for place, number in zip(places, numbers, strict=True)]


async def _echo_apart(conn: Connection, places: Sequence[Place], big_bytes: int) -> list[Echoed]:
    """At a cluster: each key at its node. Its stream is one of several, so where it stood is not told."""
    nowhere = Position("0" * 40, 0)
    replies = await conn.calls([[b"EVAL", ECHO, b"1", key, b"%d" % big_bytes] for _, key in places], timeout=60.0)
    return [_outcome(conn, place, reply, nowhere) for place, reply in zip(places, replies, strict=True)]


async def _echo_by_slot(conn: Connection, places: Sequence[Place], big_bytes: int) -> list[Echoed]:
    """At a node of a cluster, where a transaction is of one slot."""
    slots: dict[int, list[Place]] = {}
    for place in places:
        slots.setdefault(slot_of(place[1]), []).append(place)
    done = {one.place: one for some in slots.values() for one in await _echo_keys(conn, some, big_bytes)}
    return [done[place] for place in places]


def _position(conn: Connection, raw: Any) -> Position:
    if isinstance(raw, hiredis.ReplyError):
        raise classify(str(raw), "INFO replication", conn.who)
    info = parse_info(raw)
    return Position(info["master_replid"], int(info["master_repl_offset"]))


def _outcome(conn: Connection, place: Place, reply: Any, after: Position) -> Echoed:
    if isinstance(reply, hiredis.ReplyError):
        if is_transient(str(reply)):
            raise classify(str(reply), "echoing a key", conn.who)
        return Echoed(place, "failed", after, error=str(reply))
    word, size = reply
    outcome: Outcome = "big" if word == b"big" else "absent" if word == b"absent" else "echoed"
    return Echoed(place, outcome, after, int(size))


async def _echo_library(conn: Connection, place: Place) -> Echoed:
    """A function library: loaded over itself; one that is not there is loaded and deleted.

    Scripts may not do this and nothing watches libraries, so it is looked at again afterwards.
    """
    name = place[1]
    for _ in range(10):
        before = await _library(conn, name)
        if before is None:
            body = [[b"FUNCTION", b"LOAD", _STUB % (name, time.time_ns())], [b"FUNCTION", b"DELETE", name]]
        else:
            body = [[b"FUNCTION", b"LOAD", b"REPLACE", before]]
        replies = await conn.calls([[b"MULTI"], [b"INFO", b"replication"], *body, [b"EXEC"]])
        result = replies[-1]
        if not isinstance(result, list):
            raise classify(str(result), "echoing a function library", conn.who)
        after = _position(conn, result[0])
        bad = [str(one) for one in result[1:] if isinstance(one, hiredis.ReplyError)]
        if not bad and await _library(conn, name) == before:
            return Echoed(place, "absent" if before is None else "echoed", after, len(before or b""))
        if bad and before is not None:
            return Echoed(place, "failed", after, error=bad[0])
    raise Unready(f"{conn.who}: function library {name!r} changes all the time")


async def _library(conn: Connection, name: bytes) -> bytes | None:
    found = await conn.call(b"FUNCTION", b"LIST", b"LIBRARYNAME", name, b"WITHCODE")
    for library in found:
        pairs = dict(zip(library[::2], library[1::2], strict=True))
        if pairs.get(b"library_name") == name:
            return bytes(pairs[b"library_code"])
    return None


@dataclass(slots=True)
class EchoFigures:
    """What an `Echoer` has done; counters only grow."""

    echoed: int = 0
    bytes: int = 0
    big: int = 0  # left alone because of their size
    failed: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Echoer:
    """Echoes keys at one server in the background. ``ask`` from anywhere, while ``run`` is a task.

    A key that is asked for again before its turn is echoed once. ``per_second``: keys at most. ``on_echoed`` is told of
    each key. A server that cannot be reached keeps the keys waiting: they are never dropped. ``trusted``: the run id of
    the server whose state may be echoed, None for any; at another one, which was restarted or took over, keys wait.
    ``lacks``: does the server lack writes of others that will be brought by other means? Its keys wait as well.
    ``says_lacks``: the same, as the server itself says before each round. ``held``: they wait because of either.
    """

    endpoint: Endpoint
    figures: EchoFigures
    on_echoed: Callable[[Echoed], None] = lambda echoed: None
    who: str = "source"
    per_second: float = 1000.0
    big_bytes: int = BIG_BYTES
    suspended: bool = False  # keys wait, nothing is echoed
    trusted: str | None = None
    stranger: bool = False  # keys wait because the server is not the trusted one
    lacks: Callable[[], bool] = lambda: False
    says_lacks: Callable[[Connection], Awaitable[bool]] | None = None
    held: bool = False
    last_error: str | None = None
    _wanted: dict[Place, None] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, places: Iterable[Place]) -> None:
        """Have these keys echoed, after those asked for before."""
        self._wanted.update(dict.fromkeys(places))
        self.figures.waiting = len(self._wanted)
        self._wake.set()

    def forget(self, place: Place) -> None:
        """Not needed any more, if its turn has not come yet."""
        if self._wanted.pop(place, 0) is None:
            self.figures.waiting = len(self._wanted)

    def suspend(self, suspended: bool) -> None:
        """Hold echoes back, or go on."""
        self.suspended = suspended
        self._wake.set()

    def trust(self, run_id: str | None) -> None:
        """Echo at this server from now on, at no other."""
        if run_id != self.trusted:
            self.trusted = run_id
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        conn: Connection | None = None
        run_id: str | None = None  # of the server of that connection
        backoff = Backoff()
        try:
            while True:
                if self.suspended or not self._wanted:
                    if not await self._woken(None if conn is None else _IDLE_S) and conn is not None:
                        conn.close()
                        conn = None
                    continue
                self.held = self.lacks()
                if self.held:
                    await asyncio.sleep(_LACKS_S)
                    continue
                try:
                    if conn is None or conn.closed is not None:
                        conn = await connect(self.endpoint, who=self.who)
                        run_id = None if conn.several else server_info(await conn.call(b"INFO")).run_id
                    self.stranger = None not in (self.trusted, run_id) and run_id != self.trusted
                    if self.stranger:
                        conn.close()  # nobody has looked yet whether it has lost anything
                        await asyncio.sleep(_HOLD_S * 5)  # keys may be asked for all the time
                        await self._woken(_AGAIN_S)
                        continue
                    self.held = self.says_lacks is not None and await self.says_lacks(conn)
                    if self.held:
                        await asyncio.sleep(_LACKS_S)
                        continue
                    await self._round(conn)
                    backoff.reset()
                    self.last_error = None
                except CanalError as error:
                    if str(error) != self.last_error:
                        log.warning("%d keys wait for their echo: %s", len(self._wanted), error)
                    self.last_error = str(error)
                    await asyncio.sleep(backoff.next())
        finally:
            if conn is not None:
                conn.close()

    async def _woken(self, within_s: float | None) -> bool:
        """Wait until there is something to look at; False when that took longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _round(self, conn: Connection) -> None:
        await asyncio.sleep(_HOLD_S)  # what comes in a burst goes together
        most = max(1, min(_AT_ONCE, int(self.per_second / 10)))
        places = list(self._wanted)[:most]
        if not places:
            return
        for place in places:  # asked for again from here on: again after this
            del self._wanted[place]
        try:
            done = await echo(conn, places, self.big_bytes)
        except BaseException:
            self._wanted = {**dict.fromkeys(places), **self._wanted}
            raise
        figures = self.figures
        for one in done:
            figures.echoed += one.outcome in ("echoed", "absent")
            figures.bytes += one.size if one.outcome == "echoed" else 0
            figures.big += one.outcome == "big"
            figures.failed += one.outcome == "failed"
            if one.outcome in ("big", "failed"):
                why = f"its value takes {one.size} bytes" if one.outcome == "big" else one.error
                log.warning("database %d key %r was not echoed: %s", *one.place, why)
            self.on_echoed(one)
        figures.waiting = len(self._wanted)
        await asyncio.sleep(max(0.0, len(places) / self.per_second - _HOLD_S))
