"""FLUSHALL, FLUSHDB and SWAPDB at a target: the commands that reach redis-canal's own keys. No I/O.

They are sent as a script that puts the reserved keys of *all* links back, in the same transaction: without that a
FLUSHALL of one task would make every other task into the same server start from nothing.
"""

from __future__ import annotations

from typing import Final

from sync.tag import INDEX

FLUSH_NAMES: Final = frozenset({b"FLUSHALL", b"FLUSHDB", b"SWAPDB"})

KEEP: Final = b"""\
local index = KEYS[1]
redis.call('SELECT', 0)
local names = redis.call('SMEMBERS', index)
table.insert(names, index)
local kept = {}
for _, name in ipairs(names) do
  kept[name] = redis.call('DUMP', name)
  redis.call('DEL', name)
end
redis.call('SELECT', ARGV[1])
local reply = redis.call(unpack(ARGV, 2))
redis.call('SELECT', 0)
for name, payload in pairs(kept) do
  if payload then redis.call('RESTORE', name, 0, payload) end
end
redis.call('SELECT', ARGV[1])
return reply
"""


def reaches_tag(name: bytes, argv: list[bytes], db: int) -> bool:
    """True when this FLUSHALL, FLUSHDB or SWAPDB (``name`` in upper case) touches database 0."""
    if name == b"FLUSHALL":
        return True
    if name == b"FLUSHDB":
        return db == 0
    return name == b"SWAPDB" and b"0" in argv[1:3]


def keep_reserved(argv: list[bytes], db: int) -> list[bytes]:
    """The same command as a script that keeps the reserved keys."""
    return [b"EVAL", KEEP, b"1", INDEX, b"%d" % db, *argv]
