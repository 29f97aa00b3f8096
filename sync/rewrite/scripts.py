"""Lua for what an older target has no command for. Each does at once what the one newer command does.

Keys are passed as keys and the rest as arguments, so that key rewriting and clusters see them. Written for Lua 5.1 of
every server since 2.6; deterministic, since servers before 5.0 propagate the script itself.
"""

from __future__ import annotations

from typing import Final

# SET k v KEEPTTL before 6.0. PTTL and PEXPIRE each read the clock: the deadline may move by 1 ms, never earlier.
SET_KEEPTTL: Final = b"""\
local left = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
if left > 0 then redis.call('PEXPIRE', KEYS[1], left) end
return 1"""

# HSETEX k KEEPTTL FIELDS n f v … on Redis 7.4, which has field TTLs but not HSETEX. ARGV: f v …
HSET_KEEPTTL: Final = b"""\
for i = 1, #ARGV, 2 do
  local at = redis.call('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, ARGV[i])
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  if type(at) == 'table' and at[1] > 0 then
    redis.call('HPEXPIREAT', KEYS[1], string.format('%.0f', at[1]), 'FIELDS', 1, ARGV[i])
  end
end
return 1"""

# LMOVE before 6.2. ARGV: pop command, push command
LMOVE: Final = b"""\
local value = redis.call(ARGV[1], KEYS[1])
if value then redis.call(ARGV[2], KEYS[2], value) end
return value"""

# COPY before 6.2. KEYS: source, destination; ARGV: database to copy into or ''. The caller's database stays selected.
COPY: Final = b"""\
local payload = redis.call('DUMP', KEYS[1])
if not payload then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then left = 0 end
if ARGV[1] ~= '' then redis.call('SELECT', ARGV[1]) end
redis.call('DEL', KEYS[2])
redis.call('RESTORE', KEYS[2], left, payload)
return 1"""

# ZRANGESTORE before 6.2. KEYS: destination, source; ARGV: 1 when the reading command answers with scores, that command
ZRANGESTORE: Final = b"""\
local arguments = {}
for i = 3, #ARGV do arguments[#arguments + 1] = ARGV[i] end
local found = redis.call(ARGV[2], KEYS[2], unpack(arguments))
local pairs = {}
if ARGV[1] == '1' then
  for i = 1, #found, 2 do pairs[#pairs + 1] = {found[i + 1], found[i]} end
else
  for i = 1, #found do pairs[#pairs + 1] = {redis.call('ZSCORE', KEYS[2], found[i]), found[i]} end
end
redis.call('DEL', KEYS[1])
for i = 1, #pairs do redis.call('ZADD', KEYS[1], pairs[i][1], pairs[i][2]) end
return #pairs"""

# ZDIFFSTORE before 6.2. KEYS: destination, first, others
ZDIFFSTORE: Final = b"""\
local gone = {}
for i = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  local members = {}
  if kind == 'set' then members = redis.call('SMEMBERS', KEYS[i]) end
  if kind == 'zset' then members = redis.call('ZRANGE', KEYS[i], 0, -1) end
  for j = 1, #members do gone[#gone + 1] = members[j] end
end
redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[2])
for i = 1, #gone do redis.call('ZREM', KEYS[1], gone[i]) end
return redis.call('ZCARD', KEYS[1])"""

# ZADD with GT or LT before 6.2. ARGV: GT or LT, XX or '', score member …
ZADD_COMPARE: Final = b"""\
local function value(text)
  local word = string.lower(text)
  if word == 'inf' or word == '+inf' or word == 'infinity' or word == '+infinity' then return math.huge end
  if word == '-inf' or word == '-infinity' then return -math.huge end
  return tonumber(text)
end
for i = 3, #ARGV, 2 do
  local old = redis.call('ZSCORE', KEYS[1], ARGV[i + 1])
  local better = not old and ARGV[2] ~= 'XX'
  if old and ARGV[1] == 'GT' then better = value(ARGV[i]) > value(old) end
  if old and ARGV[1] == 'LT' then better = value(ARGV[i]) < value(old) end
  if better then redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1"""

# XTRIM MINID before 6.2. ARGV: the last id that goes
XTRIM_MINID: Final = b"""\
while true do
  local entries = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', 1000)
  if #entries == 0 then return 1 end
  for i = 1, #entries do redis.call('XDEL', KEYS[1], entries[i][1]) end
end"""

# XDELEX and XACKDEL before 8.2. ARGV: KEEPREF, DELREF or ACKED; XACKDEL's group or ''; ids. With a group an id that was
# not pending there is left alone. ACKED: an entry goes when every group was given it and none has it pending.
XDELEX: Final = b"""\
local key, mode, group = KEYS[1], ARGV[1], ARGV[2]
if redis.call('EXISTS', key) == 0 then return 0 end
local groups = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
  local one = {}
  for i = 1, #info, 2 do one[info[i]] = info[i + 1] end
  groups[#groups + 1] = one
end
local function number_before(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)-?(%d*)$')
  local bms, bseq = string.match(b, '^(%d+)-?(%d*)$')
  if ams ~= bms then return number_before(ams, bms) end
  return number_before(aseq == '' and '0' or aseq, bseq == '' and '0' or bseq)
end
for i = 3, #ARGV do
  local id = ARGV[i]
  local goes = group == '' or redis.call('XACK', key, group, id) == 1
  for _, one in ipairs(groups) do
    if goes and mode == 'ACKED' then
      goes = not before(one['last-delivered-id'], id) and #redis.call('XPENDING', key, one.name, id, id, 1) == 0
    end
    if goes and mode == 'DELREF' then redis.call('XACK', key, one.name, id) end
  end
  if goes then redis.call('XDEL', key, id) end
end
return 1"""


def script(body: bytes, keys: list[bytes], arguments: list[bytes]) -> list[bytes]:
    """The EVAL that runs ``body``."""
    return [b"EVAL", body, b"%d" % len(keys), *keys, *arguments]
