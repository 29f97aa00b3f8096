"""FLUSHDB where the target's database holds keys of others too: remove this link's keys, and no others. No I/O."""

from __future__ import annotations

from typing import Final

from sync.filters import escape_glob
from sync.placing import Placing
from sync.tag import RESERVED

# ARGV: prefix that stays, number of patterns that go, those patterns, patterns that stay. Blocks the server for as long
# as it walks the database, as FLUSHDB does for as long as it frees it.
_FLUSH_MATCHING: Final = b"""\
if redis.replicate_commands then redis.replicate_commands() end
local function matching(pattern, found)
  local cursor = '0'
  repeat
    local page = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = page[1]
    for i = 1, #page[2] do found[page[2][i]] = true end
  until cursor == '0'
end
local goes, stays = {}, {}
local number = tonumber(ARGV[2])
for i = 3, 2 + number do matching(ARGV[i], goes) end
for i = 3 + number, #ARGV do matching(ARGV[i], stays) end
local removed = 0
for key in pairs(goes) do
  if not stays[key] and string.sub(key, 1, #ARGV[1]) ~= ARGV[1] then
    redis.call('DEL', key)
    removed = removed + 1
  end
end
return removed"""


def flush_database(placing: Placing, options: list[bytes]) -> list[bytes] | None:
    """The command that removes what this link carries from a database of the target; None: that cannot be said.

    FLUSHDB with its ``options`` (ASYNC, SYNC) where the database is carried whole; else a script that looks for the
    keys by prefix and glob and leaves redis-canal's own.
    """
    if placing.whole_databases:
        return [b"FLUSHDB", *options]
    if placing.changes_names:
        if not placing.keys.empty:
            return None
        return _matching([escape_glob(placing.add) + b"*"], [])
    globs = placing.keys.globs()
    if globs is None:
        return None
    include, exclude = globs
    return _matching(include or [b"*"], exclude)


def _matching(include: list[bytes], exclude: list[bytes]) -> list[bytes]:
    return [b"EVAL", _FLUSH_MATCHING, b"0", RESERVED, b"%d" % len(include), *include, *exclude]
