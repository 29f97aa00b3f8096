"""Which shard of a source cluster answers for which slots at the target: a hash there, changed by compare-and-set.

``redis-canal:slots:<task>`` holds ``uid`` (of the task), ``version`` (grows with each change) and for each shard

- ``shard:<name>``: the slots that it answers for, as ranges, ``0-5460,7000``; a slot stands in one field at most
- ``dirty:<name>``: slots into which keys were moved while it did not answer for them, or did from an earlier time on
- ``ask:<name>``: a token by which it asks all others to commit what they have by then
- ``ack:<name>/<other>``: the newest token of ``other`` for which that has been done
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import hiredis

from canal.cluster import SLOTS
from canal.errors import StateError
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection
from sync.target.errors import classify

_RANGE: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_STORE: Final = b"""\
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= redis.call('HGET', KEYS[1], 'uid') then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'uid', ARGV[2])
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '-' then redis.call('HDEL', KEYS[1], ARGV[i])
  else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
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
    dirty: dict[str, frozenset[int]] = field(default_factory=dict)
    asks: dict[str, str] = field(default_factory=dict)
    acks: dict[str, str] = field(default_factory=dict)  # by ``name/other``

    def others(self, shard: str) -> frozenset[int]:
        """The slots of all other shards."""
        return frozenset().union(*(slots for name, slots in self.shards.items() if name != shard))

    def unanswered(self, shard: str) -> dict[str, str]:
        """Tokens of others that this shard has not answered."""
        found = {name: token for name, token in self.asks.items() if name != shard and name in self.shards}
        return {name: token for name, token in found.items() if self.acks.get(f"{shard}/{name}") != token}

    def answered(self, shard: str) -> bool:
        """All others have answered this shard's token."""
        token = self.asks.get(shard)
        return all(self.acks.get(f"{name}/{shard}") == token for name in self.shards if name != shard)


def slots_key(task: str) -> bytes:
    """The name of a task's hash."""
    return RESERVED + f"slots:{task}".encode()


async def read(conn: Connection, task: str) -> SlotMap:
    """The task's map at the target; without ``uid`` where there is none."""
    key = slots_key(task)
    flat = await conn.call(b"HGETALL", key)
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def named(kind: str) -> dict[str, str]:
        return {name.removeprefix(kind): value for name, value in fields.items() if name.startswith(kind)}

    return SlotMap(
        key,
        fields.get("uid", ""),
        fields.get("version", "").encode(),
        {name: parse_ranges(text) for name, text in named("shard:").items()},
        {name: parse_ranges(text) for name, text in named("dirty:").items()},
        named("ask:"),
        named("ack:"),
    )


async def store(conn: Connection, old: SlotMap, uid: str, fields: Mapping[str, str | None] | None = None) -> bool:
    """Set these fields (None: remove) if nothing has changed since ``old`` was read; else False.

    A map of another ``uid`` is replaced by an empty one.
    """
    words = [b"EVAL", _STORE, b"1", old.key, old.version, uid.encode()]
    for name, value in (fields or {}).items():
        words += [name.encode(), b"-" if value is None else value.encode()]
    done, _ = await conn.calls([words, [b"SADD", INDEX, old.key]])
    if isinstance(done, hiredis.ReplyError):
        raise classify(str(done), "recording who has which slots", conn.who)
    return bool(done)
