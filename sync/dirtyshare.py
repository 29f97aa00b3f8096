"""A `DirtySet` at the other side, where the link back finds it: reserved keys at the target, never replicated.

``redis-canal:dirty:<task>/<shard>`` is JSON, written last: whose writes (``source``), unseen by whom (``target``),
whether they are known up to a snapshot (``final``), how many hashes in how many parts (``…:<generation>:<number>``,
strings of 8 bytes each hash) and their crc32. ``known`` false: nobody can say. All of them end by themselves after a
day.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sync.dirtyset import HASH_BYTES, DirtySet
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection

HEAD: Final = RESERVED + b"dirty:"
LIVES_MS: Final = 24 * 3_600_000
_PART_BYTES: Final = 65_536 * HASH_BYTES
_FORMAT: Final = 1
_IS_PART: Final = re.compile(rb".*:[0-9a-f]{8}:[0-9]+", re.DOTALL)

Ask = Callable[[list[list[bytes]]], Awaitable[list[Any]]]
"""Replies to commands in database 0; error replies stand in the list."""


def dirty_key(task: str, shard: str) -> bytes:
    """The reserved key under which a link shows, at its target, what its source wrote."""
    return HEAD + f"{task}/{shard}".encode()


async def share(
    conn: Connection, key: bytes, between: tuple[str, str], keys: DirtySet | None, *, final: bool = False
) -> None:
    """Show ``keys`` of the datacenters ``between``, or that nobody knows (None). Raises what `Connection.call` raises.

    Until it is whole nobody knows.
    """
    await unshare(conn, key)
    said = {"format": _FORMAT, "source": between[0], "target": between[1], "final": final, "known": keys is not None}
    if keys is not None:
        data, generation = keys.packed(), secrets.token_hex(4)
        names = _parts(key, generation, -(-len(data) // _PART_BYTES))
        for at, name in zip(range(0, len(data), _PART_BYTES), names, strict=True):
            await conn.call(b"SADD", INDEX, name)
            await conn.call(b"SET", name, data[at : at + _PART_BYTES], b"PX", b"%d" % LIVES_MS)
        said |= {"generation": generation, "parts": len(names), "bytes": len(data), "crc": zlib.crc32(data)}
    said["at"] = int(time.time() * 1000)
    await conn.call(b"SADD", INDEX, key)
    await conn.call(b"SET", key, json.dumps(said).encode(), b"PX", b"%d" % LIVES_MS)


async def unshare(conn: Connection, key: bytes) -> None:
    """Take it away, the parts of one that was never whole as well."""
    found = [name for name in await conn.call(b"SMEMBERS", INDEX) if name == key or name.startswith(key + b":")]
    if found:
        await conn.call(b"DEL", *sorted(found))
        await conn.call(b"SREM", INDEX, *found)


async def shared_under(ask: Ask, key: bytes, *, final: bool = True) -> DirtySet | None:
    """What is shown under ``key``; None where nobody knows. ``final``: known up to a snapshot, or not of use."""
    (text,) = await ask([[b"GET", key]])
    said = _said(text)
    if said is None or not said.get("known") or (final and not said.get("final")):
        return None
    return await _whole(ask, key, said)


async def shared_between(ask: Ask, between: tuple[str, str], *, final: bool = True) -> DirtySet | None:
    """What the one link ``between`` these datacenters, source and target, shows. None where nobody knows, as where
    there are several.
    """
    shown = await shown_between(ask, between)
    return await shared_under(ask, shown[0], final=final) if len(shown) == 1 else None


async def shown_between(ask: Ask, between: tuple[str, str]) -> list[bytes]:
    """The keys under which links ``between`` these datacenters show something."""
    (names,) = await ask([[b"SMEMBERS", INDEX]])
    if not isinstance(names, list | set):
        return []
    heads = sorted(name for name in names if name.startswith(HEAD) and _IS_PART.fullmatch(name) is None)
    found = zip(heads, await ask([[b"GET", name] for name in heads]) if heads else [], strict=True)
    said = [(name, _said(text)) for name, text in found]
    return [name for name, one in said if one is not None and (one.get("source"), one.get("target")) == between]


async def _whole(ask: Ask, key: bytes, said: dict[str, Any]) -> DirtySet | None:
    try:
        names = _parts(key, str(said["generation"]), int(said["parts"]))
        size, crc = int(said["bytes"]), int(said["crc"])
    except (KeyError, ValueError, TypeError):
        return None
    data = bytearray()
    for name in names:
        (part,) = await ask([[b"GET", name]])
        if not isinstance(part, bytes) or len(data) + len(part) > size:
            return None
        data += part
    if len(data) != size or size % HASH_BYTES or zlib.crc32(data) != crc:
        return None  # another one is being written just now
    keys = DirtySet()
    await asyncio.to_thread(keys.take_packed, data)  # two million take a second
    return keys


def _parts(key: bytes, generation: str, count: int) -> list[bytes]:
    return [b"%b:%b:%d" % (key, generation.encode(), number) for number in range(count)]


def _said(text: object) -> dict[str, Any] | None:
    """The head as far as it can be read; None for none, and for one of another format."""
    try:
        said = json.loads(text) if isinstance(text, bytes) else None
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("format") == _FORMAT else None
