"""Compare a large value in pieces, so that no more than a few MiB of it are held at a time.

Collections without an order go through SCAN of the first side; each page's elements are looked up at the second. All of
them there and as many in all: the same. The two sides are not looked at in one moment: a value that is written to
meanwhile may seem different, and is looked at again by whoever called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from sync.content import field_deadlines_command, pairs, size_command
from sync.verify.glance import Glance, Place
from sync.verify.side import Pair, Side

PIECE_BYTES: Final = 1 << 20
_MOST: Final = 1000  # elements of a piece
_TRIES: Final = 5
_TRY_S: Final = 0.2
_SCANS: Final = {b"set": b"SSCAN", b"hash": b"HSCAN", b"zset": b"ZSCAN"}


@dataclass(frozen=True, slots=True)
class Differs:
    """Where two large values differ first, and what stands there on each side."""

    detail: str
    left: Any
    right: Any
    ttl: bool = False


async def in_pieces(pair: Pair, glance: Glance, here: Place, there: Place, tolerance_ms: int) -> Differs | None:
    """The first difference of two values of one type, None when there is none. ``glance``: of either side."""
    count = _count(glance)
    match glance.kind:
        case b"string":
            return await _string(pair, here, there, glance.size)
        case b"list":
            return await _list(pair, here, there, glance.size, count)
        case b"stream":
            return await _stream(pair, here, there, count)
        case _:
            return await _collection(pair, glance, here, there, count, tolerance_ms)


def _count(glance: Glance) -> int:
    """How many elements make a piece."""
    if glance.memory <= 0 or glance.size <= 0:
        return 100
    return max(1, min(_MOST, PIECE_BYTES * glance.size // glance.memory))


async def _same(pair: Pair, here: tuple[int, list[bytes]], there: tuple[int, list[bytes]]) -> tuple[Any, Any]:
    lefts, rights = await pair.both([here], [there])
    return lefts[0], rights[0]


async def _string(pair: Pair, here: Place, there: Place, size: int) -> Differs | None:
    left: Any
    right: Any
    for start in range(0, size + 1, PIECE_BYTES):  # one byte more than the size: the other side may be longer
        part = [b"%d" % start, b"%d" % (start + PIECE_BYTES - 1)]
        left, right = await _same(
            pair, (here[0], [b"GETRANGE", here[1], *part]), (there[0], [b"GETRANGE", there[1], *part])
        )
        if left != right:
            return Differs(f"string: bytes differ from {start} on", left, right)
    return None


async def _list(pair: Pair, here: Place, there: Place, size: int, count: int) -> Differs | None:
    for start in range(0, size + 1, count):
        part = [b"%d" % start, b"%d" % (start + count - 1)]
        left, right = await _same(
            pair, (here[0], [b"LRANGE", here[1], *part]), (there[0], [b"LRANGE", there[1], *part])
        )
        if left != right:
            if isinstance(left, hiredis.ReplyError) or isinstance(right, hiredis.ReplyError):
                return Differs("list: cannot be read", str(left), str(right))
            shorter = min(len(left), len(right))
            at = next((i for i, both in enumerate(zip(left, right, strict=False)) if both[0] != both[1]), shorter)
            return Differs(f"list: element {start + at} differs", left, right)
    return None


async def _stream(pair: Pair, here: Place, there: Place, count: int) -> Differs | None:
    left, right = await _same(pair, _stream_info(here), _stream_info(there))
    ours, theirs = _stream_state(left), _stream_state(right)
    if ours != theirs:
        return Differs("stream: last or groups differ", ours, theirs)
    start = b"-"
    while True:
        part = [start, b"+", b"COUNT", b"%d" % count]
        left, right = await _same(
            pair, (here[0], [b"XRANGE", here[1], *part]), (there[0], [b"XRANGE", there[1], *part])
        )
        if left != right:
            return Differs("stream: entries differ", left, right)
        if isinstance(left, hiredis.ReplyError) or len(left) < count:
            break
        start = _next_id(left[-1][0])
    for name in ours[1] if ours else ():
        found = await _pending(pair, here, there, name, count)
        if found is not None:
            return found
    return None


def _stream_info(place: Place) -> tuple[int, list[bytes]]:
    return place[0], [b"XINFO", b"STREAM", place[1], b"FULL", b"COUNT", b"1"]


def _stream_state(reply: Any) -> tuple[Any, dict[bytes, Any]] | None:
    """Last id, and of each group its last delivered id and how many are pending."""
    if isinstance(reply, hiredis.ReplyError):
        return None
    info = dict(pairs(reply))
    groups = [dict(pairs(group)) for group in info.get(b"groups", ())]
    state = {one[b"name"]: (one.get(b"last-delivered-id"), one.get(b"pel-count")) for one in groups}
    return info.get(b"last-generated-id"), state


async def _pending(pair: Pair, here: Place, there: Place, group: bytes, count: int) -> Differs | None:
    """The pending entries of a group: id, consumer, deliveries."""
    start = b"-"
    while True:
        part = [group, start, b"+", b"%d" % count]
        left, right = await _same(
            pair, (here[0], [b"XPENDING", here[1], *part]), (there[0], [b"XPENDING", there[1], *part])
        )
        if isinstance(left, hiredis.ReplyError) or isinstance(right, hiredis.ReplyError):
            return Differs(f"stream: group {group!r} cannot be read", str(left), str(right))
        ours, theirs = ([(one[0], one[1], one[3]) for one in reply] for reply in (left, right))
        if ours != theirs:
            return Differs(f"stream: pending entries of group {group!r} differ", ours, theirs)
        if len(left) < count:
            return None
        start = _next_id(left[-1][0])


def _next_id(entry: bytes) -> bytes:
    ms, _, number = entry.partition(b"-")
    return b"%b-%d" % (ms, int(number) + 1)


async def _collection(
    pair: Pair, glance: Glance, here: Place, there: Place, count: int, tolerance_ms: int
) -> Differs | None:
    kind = glance.kind.decode()
    async for names, values in _elements(pair, glance.kind, here, count):
        theirs = await _looked_up(pair.second, glance.kind, there, names)
        odd = [name for name, ours, other in zip(names, values, theirs, strict=True) if ours != other]
        found = await _still_odd(pair, glance.kind, here, there, odd) if odd else None
        if found is not None:
            name, ours, other = found
            where = "differs" if ours is not None and other is not None else "only at one side"
            return Differs(f"{kind}: {name[:60]!r} {where}", (name, ours), (name, other))
        if glance.kind == b"hash" and pair.field_deadlines and names:
            differs = await _deadlines(pair, here, there, names, tolerance_ms)
            if differs is not None:
                return differs
    for _ in range(_TRIES):
        left, right = await _same(
            pair, (here[0], size_command(glance.kind, here[1])), (there[0], size_command(glance.kind, there[1]))
        )
        if left == right:
            return None
        await asyncio.sleep(_TRY_S)
    return Differs(f"{kind} of size {left} against {right}", left, right)


async def _still_odd(
    pair: Pair, kind: bytes, here: Place, there: Place, names: list[bytes]
) -> tuple[bytes, Any, Any] | None:
    """The first of these elements that stays different while it is looked at again: others were on their way."""
    found: list[tuple[bytes, Any, Any]] = []
    for _ in range(_TRIES):
        await asyncio.sleep(_TRY_S)
        ours, theirs = await asyncio.gather(
            _looked_up(pair.first, kind, here, names), _looked_up(pair.second, kind, there, names)
        )
        found = [one for one in zip(names, ours, theirs, strict=True) if one[1] != one[2]]
        if not found:
            return None
        names = [one[0] for one in found]
    return found[0]


async def _elements(pair: Pair, kind: bytes, place: Place, count: int) -> AsyncIterator[tuple[list[bytes], list[Any]]]:
    """Pages of (names, values) of the first side's collection; a set's values are True."""
    cursor = b"0"
    while True:
        command = [_SCANS[kind], place[1], cursor, b"COUNT", b"%d" % count]
        (reply,) = await pair.first.each([(place[0], command)])
        if isinstance(reply, hiredis.ReplyError):
            return
        cursor, flat = reply
        if kind == b"set":
            yield list(flat), [True] * len(flat)
        else:
            values = list(flat[1::2])
            yield list(flat[::2]), [float(value) for value in values] if kind == b"zset" else values
        if cursor == b"0":
            return


async def _looked_up(side: Side, kind: bytes, place: Place, names: list[bytes]) -> list[Any]:
    """What a side has under these names; None for a name that it lacks."""
    if not names:
        return []
    db, key = place
    if kind == b"hash":
        (reply,) = await side.each([(db, [b"HMGET", key, *names])])
    elif kind == b"set":
        if b"SMISMEMBER" in side.commands:
            (reply,) = await side.each([(db, [b"SMISMEMBER", key, *names])])
        else:
            reply = await side.each([(db, [b"SISMEMBER", key, name]) for name in names])
        if not isinstance(reply, hiredis.ReplyError):
            reply = [True if there == 1 else None for there in reply]
    else:
        if b"ZMSCORE" in side.commands:
            (reply,) = await side.each([(db, [b"ZMSCORE", key, *names])])
        else:
            reply = await side.each([(db, [b"ZSCORE", key, name]) for name in names])
        if not isinstance(reply, hiredis.ReplyError):
            reply = [float(score) if isinstance(score, bytes) else None for score in reply]
    return [None] * len(names) if isinstance(reply, hiredis.ReplyError) else list(reply)


async def _deadlines(pair: Pair, here: Place, there: Place, names: list[bytes], tolerance_ms: int) -> Differs | None:
    left, right = await _same(
        pair,
        (here[0], field_deadlines_command(here[1], names)),
        (there[0], field_deadlines_command(there[1], names)),
    )
    if left == right or isinstance(left, hiredis.ReplyError) or isinstance(right, hiredis.ReplyError):
        return None
    for name, ours, theirs in zip(names, left, right, strict=True):
        if ours != theirs and not (ours > 0 and theirs > 0 and abs(ours - theirs) <= tolerance_ms):
            return Differs(f"field {name[:60]!r}: {ours} against {theirs}", ours, theirs, ttl=True)
    return None
