"""Put keys of one server in place at another at a moment when they are exactly right, links between them or not.

With links from the first to the second: a key's state is read at offset A of the source's stream and again at B, and
was the same; then it is the state at every offset between. A script at the target puts it in place if no link's
checkpoint stands beyond B. Beyond A it does, where one waited for it: so what the link has applied and will apply fits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import hiredis

from canal.position import Position
from sync.rewrite import Payloads
from sync.target.connection import Connection
from sync.target.errors import classify
from sync.target.fence import parse_info
from sync.verify.glance import Place

MOST_BYTES: Final = 64 << 20
_AT_ONCE: Final = 50
_TRIES: Final = 40
_LOOK_S: Final = 0.02
_STANDING_S: Final = 1.5
_WAIT_S: Final = 30.0

PUT: Final = b"""\
local replid, most = ARGV[1], tonumber(ARGV[2])
redis.call('SELECT', 0)
for i = 2, #KEYS do
  local pos = redis.call('HGET', KEYS[i], 'pos')
  if pos and string.sub(pos, 1, 40) == replid and tonumber(string.sub(pos, 42)) > most then return 0 end
end
redis.call('SELECT', ARGV[3])
local at = 4
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  local command = {}
  for i = 1, count do command[i] = ARGV[at + i] end
  redis.call(unpack(command))
  at = at + count + 1
end
return 1
"""
"""KEYS: the key, then checkpoints of links from the source. ARGV: the source's replid, the newest offset up to which
the state is known to hold, the database, then commands, each after the number of its words. 0: a link is further;
nothing was done."""


@dataclass(frozen=True, slots=True)
class _State:
    payload: bytes | None
    deadline: int  # unix ms, 0: none
    at: Position

    def same(self, other: _State) -> bool:
        """The deadline is told as a remaining time, which may round to either side."""
        return self.payload == other.payload and abs(self.deadline - other.deadline) <= 2


class Placer:
    """Two connections of its caller. ``links``: checkpoints, at the target, of links that may come from the source."""

    def __init__(self, source: Connection, target: Connection, payloads: Payloads, links: Sequence[bytes]) -> None:
        self._source, self._target, self._payloads, self._links = source, target, payloads, list(links)
        self._stood: dict[str, int] = {}  # where a link was found to stand still

    async def put(self, keys: Sequence[tuple[Place, Place]]) -> dict[Place, str]:
        """Give each second place at the target what its first has at the source; which could not be, and why."""
        out: dict[Place, str] = {}
        for start in range(0, len(keys), _AT_ONCE):
            out.update(await self._some(keys[start : start + _AT_ONCE]))
        return out

    async def _some(self, keys: Sequence[tuple[Place, Place]]) -> dict[Place, str]:
        out: dict[Place, str] = {}
        todo = []
        for here, there in keys:
            size = await self._memory(here)
            if size > MOST_BYTES:
                out[here] = f"its value takes {size:,} bytes, too large to be written at once"
            else:
                todo.append((here, there))
        before = {here: await self._read(here) for here, _ in todo}
        for _ in range(_TRIES):
            if not todo:
                return out
            await self._reached(max((before[here].at for here, _ in todo), key=lambda at: at.offset))
            rest = []
            for here, there in todo:
                after = await self._read(here)
                commands = self._commands(there[1], after)
                if commands is None:
                    out[here] = "its value cannot be loaded by the target"
                elif not after.same(before[here]) or not await self._write(there, after.at, commands):
                    rest.append((here, there))
                before[here] = after
            todo = rest
        out.update({here: "it changes all the time" for here, _ in todo})
        return out

    async def _memory(self, place: Place) -> int:
        commands = [[b"SELECT", b"%d" % place[0]], [b"MEMORY", b"USAGE", place[1]]]
        _, found = await self._source.calls(commands)
        return found if isinstance(found, int) else 0

    async def _read(self, place: Place) -> _State:
        db, key = place
        commands = [[b"MULTI"], [b"SELECT", b"%d" % db], [b"DUMP", key], [b"PTTL", key], [b"TIME"]]
        *_, reply = await self._source.calls([*commands, [b"INFO", b"replication"], [b"EXEC"]], timeout=60.0)
        for one in [reply] if isinstance(reply, hiredis.ReplyError) else reply:
            if isinstance(one, hiredis.ReplyError):
                raise classify(str(one), "reading a key", who="source")
        _, payload, left, (seconds, micros), raw = reply
        info = parse_info(raw)
        deadline = int(seconds) * 1000 + int(micros) // 1000 + left if left > 0 else 0
        return _State(payload, deadline, Position(info["master_replid"], int(info["master_repl_offset"])))

    def _commands(self, key: bytes, state: _State) -> list[list[bytes]] | None:
        if state.payload is None:
            return [[b"DEL", key]]
        made = self._payloads(key, state.payload)
        if made is None:
            return None
        commands = [[b"RESTORE", key, b"0", made, b"REPLACE"]] if isinstance(made, bytes) else [[b"DEL", key], *made]
        return [*commands, [b"PEXPIREAT", key, b"%d" % state.deadline]] if state.deadline else commands

    async def _reached(self, goal: Position) -> None:
        """Wait until the links have applied ``goal``, or stand still: idle, and the last look tells whether in time."""
        began = time.monotonic()
        moved, last = began, -1
        while self._links:
            applied = await self._applied(goal.replid)
            now = time.monotonic()
            if applied is None or applied >= goal.offset or self._stood.get(goal.replid) == applied:
                return
            if applied != last:
                last, moved = applied, now
            if now - moved > _STANDING_S:
                self._stood[goal.replid] = applied
                return
            if now - began > _WAIT_S:
                return
            await asyncio.sleep(_LOOK_S)

    async def _applied(self, replid: str) -> int | None:
        own = replid.encode() + b":"
        commands = [[b"SELECT", b"0"], *([b"HGET", key, b"pos"] for key in self._links)]
        found = (await self._target.calls(commands))[1:]
        return min(
            (int(pos[len(own) :]) for pos in found if isinstance(pos, bytes) and pos.startswith(own)), default=None
        )

    async def _write(self, there: Place, at: Position, commands: list[list[bytes]]) -> bool:
        words = [word for command in commands for word in (b"%d" % len(command), *command)]
        keys = [there[1], *self._links]
        head = [b"EVAL", PUT, b"%d" % len(keys), *keys, at.replid.encode(), b"%d" % at.offset, b"%d" % there[0]]
        return bool(await self._target.call(*head, *words, timeout=60.0))
