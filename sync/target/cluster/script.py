"""The script that applies a batch's part on one node of a cluster, and its call as bytes. No I/O.

One call carries commands of many slots of the node. It first compares the node's chain and epoch, so that calls may be
pipelined: what follows a call that did not go through entirely is refused as a whole, and sent again by us. Then, for
each slot, the record is written before the slot's first command (the frontier is in a few of them only, one for each
node being enough); where a slot turns out to be moving (a key or the
record is not here) nothing more of it is applied and its record is put back to just before that command. Commands that
belong together are only begun in a slot that is not moving: the look for a key that never exists tells.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Final

from canal.routing import TOGETHER, Lane
from sync.conditional import FIELDS_HEAD
from sync.effects import JUDGED

_DELETE_IF: Final = b"""\
local function delete_if(key, deadline, sure)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'table' then return left end
  if left == -2 then return 1 end
  if left == -1 and sure == '1' then return 0 end
  if left >= 0 then
    local time = redis.call('TIME')
    if time[1] * 1000 + math.floor(time[2] / 1000) + left > tonumber(deadline) then return 0 end
  end
  return redis.pcall('DEL', key)
end
"""
_BODY: Final = b"""\
local found = redis.call('HMGET', ARGV[1], 'chain', 'epoch')
if found[1] ~= ARGV[2] or found[2] ~= ARGV[4] then
  return redis.error_reply('MOVED_ON chain is ' .. tostring(found[1]) .. ' epoch ' .. tostring(found[2]))
end
local function away(text)
  return string.find(text, 'attempted to', 1, true) or string.find(text, '^MOVED ') or string.find(text, '^ASK ')
    or string.find(text, '^TRYAGAIN') or string.find(text, '^CLUSTERDOWN')
end
local ARGV, unpack, pcall, type, tonumber = ARGV, unpack, redis.pcall, type, tonumber
local byte = string.byte
local prefix, pos, low, ends, shape = ARGV[5], ARGV[6], ARGV[7], ARGV[10], ARGV[12]
local words = tonumber(ARGV[11])
redis.call(unpack(ARGV, 14, 13 + words))
local out, seen, blocked = {}, {}, false
local at, total, index, witnesses = 14 + words, #ARGV, 0, tonumber(ARGV[13])
while at <= total do
  local tag = ARGV[at]
  local argc, high = byte(shape, index * 2 + 1, index * 2 + 2)
  local state = seen[tag]
  local reply = false
  if state == nil then
    state = 1
    if pos ~= '' then
      if witnesses > 0 then
        witnesses = witnesses - 1
        reply = pcall('HSET', prefix .. tag .. '}', 'pos', pos, 'low', low)
      else
        reply = pcall('HSET', prefix .. tag .. '}', 'pos', pos)
      end
      if type(reply) == 'table' then state = 0 end
    end
    seen[tag] = state
  end
  if high >= 128 then
    argc = argc + (high - 128) * 256
    if state == 1 then
      reply = pcall('EXISTS', prefix .. tag .. '}?')
      state = type(reply) == 'table' and 0 or 2
      seen[tag] = state
      if state == 0 and pos ~= '' then state = 3 end
    end
  else
    argc = argc + high * 256
  end
  if state == 1 or state == 2 then
    if argc > 0 then
      local name = ARGV[at + 1]
      if argc == 3 then
        reply = pcall(name, ARGV[at + 2], ARGV[at + 3])
      elseif name == 'EVAL' then
        if ARGV[at + 5] == 'fields' then
          reply = fields_if(ARGV[at + 4], ARGV, at + 6, at + argc)
        else
          reply = delete_if(ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
        end
        if reply == 0 then
          out[#out + 1] = index
          out[#out + 1] = '~'
        end
      else
        reply = pcall(unpack(ARGV, at + 1, at + argc))
      end
      if type(reply) == 'table' and reply.err then
        if away(reply.err) then
          seen[tag] = 0
          state = 3
        else
          out[#out + 1] = index
          out[#out + 1] = reply.err
        end
      --[[empty]]
      end
    end
  end
  if state == 3 or (state == 0 and reply) then
    if state == 3 and pos ~= '' then
      local a, b, c, d = byte(ends, index * 4 + 1, index * 4 + 4)
      local before = tonumber(ARGV[9]) + a + b * 256 + c * 65536 + d * 16777216 - 1
      pcall('HSET', prefix .. tag .. '}', 'pos', ARGV[8] .. string.format('%.0f', before))
    end
    blocked = true
    out[#out + 1] = index
    out[#out + 1] = '!' .. (reply.err or '')
  end
  at = at + argc + 1
  index = index + 1
end
if blocked then redis.call('HSET', ARGV[1], 'chain', ARGV[3] .. '!') end
return out
"""

_CAREFUL: Final = b"""\
redis.call('HSET', ARGV[1], unpack(ARGV, 3, 2 + tonumber(ARGV[2])))
local out = {}
local at, number = 3 + tonumber(ARGV[2]), 0
while at <= #ARGV do
  local argc = tonumber(ARGV[at])
  local reply
  if ARGV[at + 1] == 'EVAL' then
    if ARGV[at + 5] == 'fields' then
      reply = fields_if(ARGV[at + 4], ARGV, at + 6, at + argc)
    else
      reply = delete_if(ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
    end
    if reply == 0 then
      out[#out + 1] = number
      out[#out + 1] = '~'
    end
  else
    reply = redis.pcall(unpack(ARGV, at + 1, at + argc))
  end
  if type(reply) == 'table' and reply.err then
    out[#out + 1] = number
    out[#out + 1] = reply.err
  --[[empty]]
  end
  at = at + argc + 1
  number = number + 1
end
return out
"""

_JUDGING: Final = b"""\
elseif (reply == 0 or reply == -1 or not reply or (type(reply) == 'table' and not reply.ok and #reply == 0))
        and judged[string.upper(ARGV[at + 1])] then
        out[#out + 1] = %b
        out[#out + 1] = '~'\
"""
_JUDGED: Final = b"local judged = {%b}\n" % b",".join(b"['%b']=1" % name for name in sorted(JUDGED - {b"EVAL"}))

KEPT: Final = "~"
"""Said of a conditional delete (`sync.expiry`) that has left its key; where replies are judged, of every command that
answered nothing though it must have done something (`sync.effects`).
"""

MAX_ARGUMENTS: Final = 7000
"""Lua's unpack() takes about 8,000 values."""


WITNESSES: Final = 8
"""In how many records of a call the frontier is written: one slot may move away, eight at once rarely do."""


class Scripts:
    """The scripts as a server of this version takes them: 7.0 asks for a flag before slots may be mixed. ``judging``:
    two ways, commands that answered nothing are told too.
    """

    def __init__(self, modern: bool, judging: bool = False) -> None:
        self.modern = modern
        self.judging = judging
        head = b"#!lua flags=allow-cross-slot-keys\n" if modern else b""
        head += _DELETE_IF + FIELDS_HEAD + (_JUDGED if judging else b"")
        self.body = head + _BODY.replace(b"--[[empty]]", _JUDGING % b"index" if judging else b"")
        self.careful = head + _CAREFUL.replace(b"--[[empty]]", _JUDGING % b"number" if judging else b"")
        self.sha = hashlib.sha1(self.body).hexdigest().encode()
        self.careful_sha = hashlib.sha1(self.careful).hexdigest().encode()


def shape(argcs: list[int]) -> bytes:
    """Argument counts as the script reads them: 16 bits each, the low byte first, the highest bit for `TOGETHER`."""
    try:
        return array("H", argcs).tobytes()
    except OverflowError:
        return array("H", [(one % TOGETHER) | 0x8000 if one >= TOGETHER else one for one in argcs]).tobytes()


def bulk(word: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


def call(
    scripts: Scripts,
    lane: Lane,
    tag: list[bytes],
    *,
    key: bytes,
    chain: tuple[bytes, bytes],
    epoch: int,
    prefix: bytes,
    replid: str,
    end: int,
    low: bytes,
    begin: int,
    records: bool,
    witnesses: int = WITNESSES,
) -> bytes:
    """The call for a lane. ``tag``: the HSET that opens the transaction, ``key`` its hash; ``chain``: what it finds
    there and what it leaves; ``begin``: a position before every unit of the lane, by less than 4 GiB; ``witnesses``:
    in how many of the records the frontier ``low`` is written.
    """
    ends = array("I", [max(0, one - begin) for one in lane.ends]).tobytes() if records else b""
    words = [
        b"EVALSHA",
        scripts.sha,
        b"0",
        key,
        chain[0],
        chain[1],
        b"%d" % epoch,
        prefix,
        b"%s:%d" % (replid.encode(), end) if records else b"",
        low,
        replid.encode() + b":",
        b"%d" % begin,
        ends,
        b"%d" % len(tag),
        shape(lane.argcs),
        b"%d" % witnesses,
        *tag,
    ]
    head = [b"*%d\r\n" % (len(words) + lane.arguments), *map(bulk, words)]
    return b"".join(head + lane.parts)
