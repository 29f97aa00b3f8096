"""The content of keys as plain Python values, and what is unlike in two of them. The slow half of compare.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import hiredis

from tests.support.wire import Command

if TYPE_CHECKING:
    from tests.support.compare import Side

_FIELDS = 1000  # asked for in one HPEXPIRETIME

# In XINFO STREAM … FULL: how the server stores it, not what it holds; and what no replica reproduces.
_NOT_COMPARED = {b"radix-tree-keys", b"radix-tree-nodes", b"pel-count", b"entries-read", b"lag"}

_UNKNOWN = object()  # equal to anything: this server does not tell


@dataclass
class Content:
    type: str
    value: Any = None  # bytes, list, set or dict
    field_deadlines: dict[bytes, int] = field(default_factory=dict)  # those that have one, Unix milliseconds


def read_contents(side: Side, keys: list[bytes]) -> list[Content]:
    """The content of each key of the selected database, in two or three round trips for all of them."""
    wire = side.wire
    types = [reply.decode() for reply in wire.call([("TYPE", key) for key in keys])]
    replies = wire.call([_reading(kind, key, side) for key, kind in zip(keys, types, strict=True)])
    contents = [Content(kind, _value(kind, reply)) for kind, reply in zip(types, replies, strict=True)]
    for key, content in zip(keys, contents, strict=True):
        if content.type == "hash" and side.has_field_deadlines:
            content.field_deadlines = _field_deadlines(side, key, content.value)
        elif content.type == "vectorset":
            vectors = wire.call([("VEMB", key, element) for element in content.value])
            content.value = dict(zip(content.value, vectors, strict=True))
        elif content.type == "stream" and not side.has_stream_full:
            content.value = _old_stream(side, key)
    return contents


def _reading(kind: str, key: bytes, side: Side) -> Command:
    match kind:
        case "string":
            return ("GET", key)
        case "list":
            return ("LRANGE", key, 0, -1)
        case "set":
            return ("SMEMBERS", key)
        case "hash":
            return ("HGETALL", key)
        case "zset":
            return ("ZRANGE", key, 0, -1, "WITHSCORES")
        case "stream" if side.has_stream_full:
            return ("XINFO", "STREAM", key, "FULL", "COUNT", 0)
        case "stream":
            return ("XLEN", key)
        case "vectorset":
            return ("VRANDMEMBER", key, 2**31 - 1)  # all of them; the graph between them is built by chance
        case _:
            return ("DUMP", key)  # a module's: only its bytes can be compared


def _value(kind: str, reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        return str(reply)
    match kind:
        case "set":
            return set(reply)
        case "hash":
            return _pairs(reply)
        case "zset":
            return {member: float(score) for member, score in _pairs(reply).items()}
        case "stream" if isinstance(reply, list):
            return _stream(reply)
    return reply


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _named(flat: list[Any]) -> dict[bytes, Any]:
    return {name: value for name, value in _pairs(flat).items() if name not in _NOT_COMPARED}


def _stream(full: list[Any]) -> dict[bytes, Any]:
    stream = _named(full)
    stream[b"entries"] = dict(stream[b"entries"])
    groups = [_named(group) for group in stream[b"groups"]]
    for group in groups:
        group[b"pending"] = {identity: [*delivery] for identity, *delivery in group[b"pending"]}
        group[b"consumers"] = {_pairs(consumer)[b"name"] for consumer in group[b"consumers"]}
    stream[b"groups"] = {group.pop(b"name"): group for group in groups}
    return stream


def _old_stream(side: Side, key: bytes) -> dict[bytes, Any]:
    """Redis 5 has no FULL: the same shape from single questions, without delivery times."""
    ask = side.wire.ask
    about = _pairs(ask("XINFO", "STREAM", key))
    groups = {}
    for group in map(_pairs, ask("XINFO", "GROUPS", key)):
        name = group[b"name"]
        pending = ask("XPENDING", key, name, "-", "+", 1_000_000)
        groups[name] = {
            b"last-delivered-id": group[b"last-delivered-id"],
            b"pending": {identity: [owner, _UNKNOWN, count] for identity, owner, _idle, count in pending},
            b"consumers": {_pairs(consumer)[b"name"] for consumer in ask("XINFO", "CONSUMERS", key, name)},
        }
    return {
        b"length": about[b"length"],
        b"last-generated-id": about[b"last-generated-id"],
        b"entries": dict(ask("XRANGE", key, "-", "+")),
        b"groups": groups,
    }


def _field_deadlines(side: Side, key: bytes, fields: dict[bytes, bytes]) -> dict[bytes, int]:
    names, rest = list(fields), iter(fields)
    asked = iter(lambda: list(islice(rest, _FIELDS)), [])
    replies = side.wire.call([("HPEXPIRETIME", key, "FIELDS", len(some), *some) for some in asked])
    until = [deadline for reply in replies if isinstance(reply, list) for deadline in reply]
    return {name: deadline for name, deadline in zip(names, until, strict=False) if deadline >= 0}


def unlike(a: Content, b: Content, tolerance_ms: int) -> str:
    """What differs, in words; empty when nothing does."""
    if a.type != b.type:
        return f"a {a.type} in a, a {b.type} in b"
    compare = _unlike_streams if a.type == "stream" else _unlike
    if what := compare(a.value, b.value):
        return f"{a.type}: {what}"
    for name in sorted(a.field_deadlines.keys() | b.field_deadlines.keys()):
        one, other = a.field_deadlines.get(name), b.field_deadlines.get(name)
        if one is None or other is None or abs(one - other) > tolerance_ms:
            return f"hash: field {_short(name)}: deadline in a {one}, in b {other}"
    return ""


def _unlike_streams(a: dict[bytes, Any], b: dict[bytes, Any]) -> str:
    """Of what the two versions tell about streams and groups, what both do."""
    told = (a.keys() & b.keys()) - {b"groups"}
    if what := _unlike({name: a[name] for name in a if name in told}, {name: b[name] for name in told}):
        return what
    groups_a, groups_b = a[b"groups"], b[b"groups"]
    if groups_a.keys() != groups_b.keys():
        return "groups: " + _unlike(set(groups_a), set(groups_b))
    for name, group in groups_a.items():
        told = group.keys() & groups_b[name].keys()
        if what := _unlike({of: group[of] for of in told}, {of: groups_b[name][of] for of in told}):
            return f"group {_short(name)}: {what}"
    return ""


def _unlike(a: Any, b: Any) -> str:
    if a == b or a is _UNKNOWN or b is _UNKNOWN:
        return ""
    if isinstance(a, dict) and isinstance(b, dict):
        return next(_unlike_dicts(a, b), "")
    if isinstance(a, set) and isinstance(b, set):
        return f"{_some(a - b)} only in a, {_some(b - a)} only in b"
    if isinstance(a, list) and isinstance(b, list):
        return _unlike_lists(a, b)
    if isinstance(a, bytes) and isinstance(b, bytes) and max(len(a), len(b)) > 80:
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return (
            f"{len(a)} bytes in a, {len(b)} in b, unlike from byte {at}: {_short(a[at:])} in a, {_short(b[at:])} in b"
        )
    return f"{_short(a)} in a, {_short(b)} in b"


def _unlike_dicts(a: dict[Any, Any], b: dict[Any, Any]) -> Iterator[str]:
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b:
            yield f"{_short(name)} only in {'a' if name in a else 'b'}"
        elif what := _unlike(a[name], b[name]):
            yield f"{_short(name)}: {what}"


def _unlike_lists(a: list[Any], b: list[Any]) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y and _unlike(x, y)), -1)
    if at >= 0:
        return f"[{at}]: {_unlike(a[at], b[at])}"
    return f"{len(a)} elements in a, {len(b)} in b" if len(a) != len(b) else ""


def _some(members: set[bytes]) -> str:
    shown = ", ".join(_short(member) for member in sorted(members)[:3])
    return f"{len(members)} ({shown})" if members else "none"


def _short(value: Any) -> str:
    text = repr(value[:100] if isinstance(value, bytes) else value)
    return text if len(text) <= 80 else text[:77] + "..."
