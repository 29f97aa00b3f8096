"""Which shard of a source cluster answers for which slots at the target: a hash there, changed by compare-and-set.

``redis-canal:slots:<task>`` holds ``uid`` (of the task), ``version`` (grows with each change) and a field
``shard:<name>`` with the shard's slots as ranges, ``0-5460,7000``. A slot stands in one field at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import hiredis

from canal.cluster import SLOTS
from canal.errors import StateError
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection
from sync.target.errors import classify

_RANGE: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SHARD: Final = b"shard:"

_STORE: Final = b"""\
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= redis.call('HGET', KEYS[1], 'uid') then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'uid', ARGV[2])
if ARGV[4] == '-' then redis.call('HDEL', KEYS[1], ARGV[3]) elseif ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
"""


def ranges(slots: Iterable[int]) -> str:
    """``0-5460,7000``; empty for none."""
    out: list[list[int]] = []
    for slot in sorted(slots):
        if out and out[-1][1] + 1 == slot:
            out[-1][1] = slot
        else:
            out.append([slot, slot])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in out)


def parse_ranges(text: str) -> frozenset[int]:
    """Read `ranges`; StateError for anything else."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[2] or match[1]) >= SLOTS:
            raise StateError(f"slots: expected ranges of 0 to {SLOTS - 1} such as 0-5460,7000, got {text[:60]!r}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The hash as it was read. ``uid`` is empty where there is none."""

    key: bytes
    uid: str = ""
    version: bytes = b""
    shards: dict[str, frozenset[int]] = field(default_factory=dict)

    def others(self, shard: str) -> frozenset[int]:
        """The slots of all other shards."""
        return frozenset().union(*(slots for name, slots in self.shards.items() if name != shard))


def slots_key(task: str) -> bytes:
    """The name of a task's hash."""
    return RESERVED + f"slots:{task}".encode()


async def read(conn: Connection, task: str) -> SlotMap:
    """The task's map at the target; without ``uid`` where there is none."""
    key = slots_key(task)
    flat = await conn.call(b"HGETALL", key)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    shards = {
        name[len(_SHARD) :].decode(): parse_ranges(value.decode())
        for name, value in fields.items()
        if name.startswith(_SHARD)
    }
    return SlotMap(key, fields.get(b"uid", b"").decode(), fields.get(b"version", b""), shards)


async def store(conn: Connection, old: SlotMap, uid: str, shard: str = "", slots: Iterable[int] | None = ()) -> bool:
    """Give the shard these slots (None: forget the shard) if nothing has changed since ``old`` was read; else False.

    A map of another ``uid`` is replaced by an empty one.
    """
    text = b"-" if slots is None else ranges(slots).encode()
    name = _SHARD + shard.encode() if shard else b""
    words = [b"EVAL", _STORE, b"1", old.key, old.version, uid.encode(), name, text]
    done, _ = await conn.calls([words, [b"SADD", INDEX, old.key]])
    if isinstance(done, hiredis.ReplyError):
        raise classify(str(done), "recording who has which slots", conn.who)
    return bool(done)
