"""The scripts that delete what has expired at the source, unless the target's copy lives on (`sync.expiry`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_ENDS: Final = b"""\
local function ends(key, left)
  local at = redis.pcall('PEXPIRETIME', key)
  if type(at) == 'number' then return at, 0 end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + left, 2
end
"""
DELETE_HEAD: Final = (
    _ENDS
    + b"""\
local function delete_if(key, deadline, sure, hash)
  local left = redis.call('PTTL', key)
  if left == -2 then return 1 end
  if left == -1 then
    if sure == '1' then return 0 end
    return redis.call('DEL', key)
  end
  local at, slack = ends(key, left)
  if at <= tonumber(deadline) then return redis.call('DEL', key) end
  if hash and hash ~= '' then
    local name, own = string.match(hash, '^(%S+) ?(%d*)')
    if own ~= '' and math.abs(tonumber(own) - at) <= slack then return redis.call('DEL', key) end
    local held = redis.pcall('HMGET', name, key)
    held = held[1] and string.match(held[1], '^%d+')
    if held and math.abs(tonumber(held) - at) <= slack then return redis.call('DEL', key) end
  end
  return 0
end
"""
)
"""Lua: ``delete_if(key, deadline, sure, hash)``, as `DELETE_IF` does it."""

DELETE_IF: Final = DELETE_HEAD + b"return delete_if(KEYS[1], ARGV[1], ARGV[2], ARGV[3])\n"
"""ARGV: the deadline that passed at the source (unix ms, with slack), 1 when it is sure, and the hash of `sync.held` or
nothing: a deadline that we held off ourselves is nobody's fresh one. What was held when the delete was met can follow
the name after a blank: the hash is told once a batch, and may not have it yet, or a later one already. 0: it was kept.
"""

FIELDS_HEAD: Final = b"""\
local function fields_if(key, words, first, last)
  local names, gone, kept = {}, {}, 0
  for at = first, last, 2 do names[#names + 1] = words[at] end
  local times = redis.pcall('HPEXPIRETIME', key, 'FIELDS', #names, unpack(names))
  if not times then return 1 end
  if times.err then
    if string.find(times.err, 'WRONGTYPE', 1, true) then return 0 end
    return redis.pcall('HDEL', key, unpack(names))
  end
  for i, at in ipairs(times) do
    if at == -1 or at > tonumber(words[first + i * 2 - 1]) then
      kept = kept + 1
    elseif at ~= -2 then
      gone[#gone + 1] = names[i]
    end
  end
  if #gone > 0 then redis.pcall('HDEL', key, unpack(gone)) end
  if kept > 0 then return 0 end
  return 1
end
"""
"""Lua: ``fields_if(key, words, first, last)``, as `FIELDS_IF` does it with ``words[first]`` to ``words[last]``."""

FIELDS_IF: Final = FIELDS_HEAD + b"return fields_if(KEYS[1], ARGV, 2, #ARGV)\n"
"""ARGV: ``fields``, then for each field of the hash its name and the deadline that passed at the source (unix ms, with
slack). 0: one of them was kept, since its deadline is later or it has none. A server without deadlines of fields
deletes them all.
"""

MOST_FIELDS: Final = 500
"""In one call: Lua passes on about 8,000 values."""


def delete_fields(key: bytes, ends: Iterable[tuple[bytes, int]]) -> list[list[bytes]]:
    """Conditional deletes of these fields of one hash."""
    words = [word for field, deadline in ends for word in (field, b"%d" % deadline)]
    begins = range(0, len(words), 2 * MOST_FIELDS)
    head = [b"EVAL", FIELDS_IF, b"1", key, b"fields"]
    return [[*head, *words[begin : begin + 2 * MOST_FIELDS]] for begin in begins]


def with_held(argv: list[bytes], held: int) -> list[bytes]:
    """The conditional delete of a key, told which deadline this link gave the key last."""
    if argv[1] != DELETE_IF or not argv[6]:
        return argv
    return [*argv[:6], b"%b %d" % (argv[6], held)]


def is_conditional(argv: list[bytes]) -> bool:
    """True for the conditional deletes of `sync.expiry` and `sync.fieldexpiry`; the key is ``argv[3]`` in both."""
    return len(argv) > 6 and argv[0] == b"EVAL" and argv[1] in (DELETE_IF, FIELDS_IF)


def stands_for(argv: list[bytes]) -> bytes:
    """The command that a conditional delete stands for: DEL or HDEL; empty when it is none."""
    if not is_conditional(argv):
        return b""
    return b"DEL" if argv[1] == DELETE_IF else b"HDEL"


__all__ = [
    "DELETE_HEAD",
    "DELETE_IF",
    "FIELDS_HEAD",
    "FIELDS_IF",
    "MOST_FIELDS",
    "delete_fields",
    "is_conditional",
    "stands_for",
    "with_held",
]
