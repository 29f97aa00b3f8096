"""A glance at many keys at once: type, deadline, size, and a digest of the content where it is small.

One script call a page, so that a comparison over a long way moves 60 bytes a key and not the values. The digest is of
the content, not of its encoding: members are sorted, scores brought to 17 digits. A server that may not be asked by
script is asked by ordinary commands, and its values are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import hiredis

from canal.errors import CanalError, PeerError
from sync.content import SIZES, size_command
from sync.verify.side import Side

Place = tuple[int, bytes]
NO_DEADLINE: Final = -1
NONE: Final = b"none"

MOST_BYTES: Final = 16 << 10
MOST_ELEMENTS: Final = 512
BUDGET_BYTES: Final = 512 << 10
"""A script reads values up to here and no more: a call keeps the server for a few milliseconds at most."""

GLANCE: Final = b"""\
local budget, most, elements = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local fields, kinds = ARGV[4] == '1', {}
local sizes = {string='STRLEN', list='LLEN', set='SCARD', zset='ZCARD', hash='HLEN', stream='XLEN'}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function joined(values)
  local out = {}
  for i, value in ipairs(values) do out[i] = #value .. ':' .. value end
  return table.concat(out)
end
local read = {}
function read.string(key) return redis.call('GET', key) end
function read.list(key) return joined(redis.call('LRANGE', key, 0, -1)) end
function read.set(key)
  local members = redis.call('SMEMBERS', key)
  table.sort(members)
  return joined(members)
end
function read.zset(key)
  local values = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 2, #values, 2 do values[i] = string.format('%.17g', tonumber(values[i]) + 0) end
  return joined(values)
end
function read.hash(key)
  local flat, names, values = redis.call('HGETALL', key), {}, {}
  for i = 1, #flat, 2 do names[#names + 1] = flat[i]; values[flat[i]] = flat[i + 1] end
  table.sort(names)
  local out = {}
  for i, name in ipairs(names) do out[2 * i - 1] = name; out[2 * i] = values[name] end
  local text = joined(out)
  if fields and #names > 0 then
    for _, at in ipairs(redis.call('HPEXPIRETIME', key, 'FIELDS', #names, unpack(names))) do
      text = text .. ' ' .. string.format('%.0f', at)
    end
  end
  return text
end
local out = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local deadline, size, bytes, digest = -1, 1, -1, ''
  if kind ~= 'none' then
    deadline = redis.call('PTTL', key)
    if deadline >= 0 then
      if ARGV[5] == '1' then deadline = redis.call('PEXPIRETIME', key) else deadline = now + deadline end
    end
    if sizes[kind] then size = redis.call(sizes[kind], key) end
    if kind == 'string' then
      bytes = size
    elseif ARGV[6] == '1' then
      bytes = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '5') or -1
    end
    if read[kind] and budget > 0 and bytes >= 0 and bytes <= most and (kind == 'string' or size <= elements) then
      digest = redis.sha1hex(read[kind](key))
      budget = budget - bytes
    end
  end
  out[i] = kind .. ' ' .. string.format('%.0f', deadline) .. ' ' .. string.format('%.0f', size) .. ' '
    .. string.format('%.0f', bytes) .. ' ' .. digest
end
return out
"""

DUMPED: Final = b"return redis.sha1hex(redis.call('DUMP', KEYS[1]) or '')"
"""The digest of a value that no command shows in parts (a module's)."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What a side said of a key. ``deadline``: unix ms by its own clock, -1 none. ``size``: bytes of a string,
    elements of others. ``memory``: bytes, -1 unknown. ``digest``: empty where the content has to be read."""

    kind: bytes
    deadline: int = NO_DEADLINE
    size: int = 1
    memory: int = -1
    digest: bytes = b""

    @property
    def there(self) -> bool:
        """Does the key exist?"""
        return self.kind != NONE


async def glances(side: Side, places: list[Place], *, absolute: bool, fields: bool) -> list[Glance]:
    """What a side says of these keys, in their order. ``absolute``: PEXPIRETIME may be used, ``fields``: hash fields'
    deadlines count.
    """
    if not side.scripts:
        return await _plainly(side, places, absolute=absolute)
    memory = b"MEMORY" in side.commands
    flags = [b"1" if flag else b"0" for flag in (fields, absolute, memory)]
    budget = [b"%d" % bound for bound in (BUDGET_BYTES, MOST_BYTES, MOST_ELEMENTS)]
    by_db: dict[int, list[int]] = {}
    for index, (db, _) in enumerate(places):
        by_db.setdefault(db, []).append(index)
    calls = [
        (db, [side.script, GLANCE, b"%d" % len(at), *(places[index][1] for index in at), *budget, *flags])
        for db, at in by_db.items()
    ]
    replies = await side.each(calls)
    out: list[Glance] = [Glance(NONE)] * len(places)
    for at, reply in zip(by_db.values(), replies, strict=True):
        if isinstance(reply, hiredis.ReplyError):
            side.scripts = False  # what it may not do one by one is said then
            return await _plainly(side, places, absolute=absolute)
        for index, text in zip(at, reply, strict=True):
            kind, deadline, size, memory_bytes, digest = text.split(b" ")
            out[index] = Glance(kind, int(deadline), int(size), int(memory_bytes), digest)
    return out


async def _plainly(side: Side, places: list[Place], *, absolute: bool) -> list[Glance]:
    """The same by ordinary commands, without digests."""
    deadline = b"PEXPIRETIME" if absolute else b"PTTL"
    asked = [(db, command) for db, key in places for command in ([b"TYPE", key], [deadline, key])]
    time, *replies = await side.each([(asked[0][0] if asked else 0, [b"TIME"]), *asked])
    now = 0 if absolute else int(time[0]) * 1000 + int(time[1]) // 1000
    kinds: list[bytes] = []
    sized: list[tuple[int, list[bytes]]] = []
    for (db, key), kind in zip(places, replies[::2], strict=True):
        if isinstance(kind, hiredis.ReplyError):
            raise CanalError(f"{side.label}: TYPE of {key!r} in db {db}: {kind}")
        kinds.append(kind)
        if kind != NONE:
            sized.append((db, size_command(kind, key)))
            if b"MEMORY" in side.commands and kind != b"string":
                sized.append((db, [b"MEMORY", b"USAGE", key, b"SAMPLES", b"5"]))
    answers = iter(await side.each(sized, strict=False))
    out = []
    for kind, at in zip(kinds, replies[1::2], strict=True):
        if kind == NONE:
            out.append(Glance(NONE))
            continue
        size = _number(side, next(answers), SIZES.get(kind, b"EXISTS"))
        memory: Any = next(answers) if b"MEMORY" in side.commands and kind != b"string" else -1
        memory = size if kind == b"string" else memory if isinstance(memory, int) else -1
        out.append(Glance(kind, now + at if at >= 0 else NO_DEADLINE, size, memory))
    return out


def _number(side: Side, reply: Any, command: bytes) -> int:
    if isinstance(reply, hiredis.ReplyError):
        if str(reply).startswith("WRONGTYPE"):  # it became another type meanwhile: look at it again later
            return -1
        raise PeerError(f"{side.label}: {command.decode()}: {reply}")
    return int(reply)


async def dumped(side: Side, place: Place) -> Any:
    """A digest of a value's DUMP, made by the server where it may run scripts."""
    db, key = place
    command = [side.script, DUMPED, b"1", key] if side.scripts else [b"DUMP", key]
    return (await side.each([(db, command)]))[0]
