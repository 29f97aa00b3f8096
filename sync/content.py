"""What a key holds, independent of how a server encodes it: which commands read it, and values that can be compared.

Left out because no replica reproduces it: a stream group's ``entries-read`` and ``lag``, consumers without pending
entries, seen and active times. Scores compare as numbers (their spelling differs between versions). No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import hiredis

SIZES: Final[dict[bytes, bytes]] = {
    b"string": b"STRLEN",
    b"list": b"LLEN",
    b"set": b"SCARD",
    b"zset": b"ZCARD",
    b"hash": b"HLEN",
    b"stream": b"XLEN",
}
"""The command that tells a value's size, by type: bytes of a string, elements of the others. Other types have none."""

STRING_BYTES_PER_ELEMENT: Final = 256  # how many bytes of a string weigh as much as one element of a collection


def size_command(kind: bytes, key: bytes) -> list[bytes]:
    """The command that tells how large a value is; EXISTS (1) for types that have none."""
    return [SIZES.get(kind, b"EXISTS"), key]


def weight(kind: bytes, size: int) -> int:
    """How much a value of this size costs to read, in elements."""
    return size // STRING_BYTES_PER_ELEMENT if kind == b"string" else size


def read_command(kind: bytes, key: bytes) -> list[bytes]:
    """The command that reads the whole value. Unknown types (modules) are read as DUMP."""
    match kind:
        case b"string":
            return [b"GET", key]
        case b"list":
            return [b"LRANGE", key, b"0", b"-1"]
        case b"set":
            return [b"SMEMBERS", key]
        case b"zset":
            return [b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]
        case b"hash":
            return [b"HGETALL", key]
        case b"stream":
            return [b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]
        case _:
            return [b"DUMP", key]


def field_deadlines_command(key: bytes, fields: Sequence[bytes]) -> list[bytes]:
    """Absolute deadlines of hash fields in unix ms (Redis 7.4, Valkey 9); -1 for a field without."""
    return [b"HPEXPIRETIME", key, b"FIELDS", b"%d" % len(fields), *fields]


def comparable(kind: bytes, reply: Any) -> Any:
    """The value as something that equals another side's exactly when the contents are the same."""
    if isinstance(reply, hiredis.ReplyError) or reply is None:
        return ("error", str(reply))
    match kind:
        case b"set":
            return frozenset(reply)
        case b"zset":
            return {member: float(score) for member, score in pairs(reply)}
        case b"hash":
            return dict(pairs(reply))
        case b"stream":
            return _stream(reply)
        case b"list":
            return tuple(reply)
        case _:
            return reply


def pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """``a b c d`` as ``(a, b), (c, d)``."""
    return zip(flat[::2], flat[1::2], strict=True)


def _stream(reply: Sequence[Any]) -> dict[str, Any]:
    """The parts of XINFO STREAM FULL that are data; ids that only newer versions know are left out."""
    info = dict(pairs(reply))
    return {
        "last": info.get(b"last-generated-id"),
        "entries": [(entry[0], tuple(entry[1] or ())) for entry in info.get(b"entries", ())],
        "groups": {group[b"name"]: _group(group) for group in map(_as_dict, info.get(b"groups", ()))},
    }


def _group(group: dict[bytes, Any]) -> dict[str, Any]:
    return {
        "last": group.get(b"last-delivered-id"),
        "pending": sorted((entry[0], entry[1], entry[2], entry[3]) for entry in group.get(b"pel", ())),
    }


def _as_dict(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(pairs(flat))


def describe(kind: bytes, here: Any, there: Any) -> str:
    """In a few words how two comparable values of one type differ; never shows more than one element."""
    if isinstance(here, tuple) and here[:1] == ("error",):
        return f"cannot be read at the first side: {here[1]}"
    if isinstance(there, tuple) and there[:1] == ("error",):
        return f"cannot be read at the second side: {there[1]}"
    match kind:
        case b"set":
            return _members(here - there, there - here)
        case b"zset" | b"hash":
            differing = [name for name in here.keys() & there.keys() if here[name] != there[name]]
            if differing:
                what = "scores" if kind == b"zset" else "fields"
                return f"{len(differing)} {what} differ, one is {_short(min(differing))}"
            return _members(here.keys() - there.keys(), there.keys() - here.keys())
        case b"list":
            return _sequences(here, there)
        case b"stream":
            return ", ".join(part for part in ("last", "entries", "groups") if here[part] != there[part]) + " differ"
        case _:
            return f"{len(here)} against {len(there)} bytes" if len(here) != len(there) else "bytes differ"


def _members(only_here: Any, only_there: Any) -> str:
    parts = []
    for where, members in (("first", only_here), ("second", only_there)):
        if members:
            parts.append(f"{len(members)} only at the {where} side, one is {_short(min(members))}")
    return "; ".join(parts)


def _sequences(here: tuple[Any, ...], there: tuple[Any, ...]) -> str:
    if len(here) != len(there):
        return f"{len(here)} against {len(there)} elements"
    at = next(index for index, both in enumerate(zip(here, there, strict=True)) if both[0] != both[1])
    return f"element {at} differs"


def _short(name: bytes) -> str:
    text = repr(name)
    return text if len(text) <= 60 else f"{text[:57]}…"
