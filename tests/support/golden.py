"""The golden dumps of tests/golden (made by tests/golden/make.py) and what the product decodes, in the same form."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from canal.rdb.decode import ArrayValue, HashValue, ModuleValue, decode
from canal.rdb.events import Key
from canal.rdb.streams import StreamValue, id_text
from canal.rdb.types import type_name
from tests.golden.make import coded

DIRECTORY = Path(__file__).parents[1] / "golden"
FILES = sorted(DIRECTORY.glob("*/*.rdb"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in FILES]
SERVERS = sorted(path.name for path in DIRECTORY.iterdir() if (path / "expected.json").exists())


def expected(path: Path) -> list[dict[str, Any]]:
    """What the server that wrote the file said of its keys, in file order."""
    told: list[dict[str, Any]] = _reports(path.parent)[path.name]
    return told


@functools.cache
def _reports(server: Path) -> Any:
    return json.loads((server / "expected.json").read_text())


def decoded(key: Key, flavor: str) -> dict[str, Any]:
    """The same of a key that the reader found; `group names` as text, as in the reports."""
    value = decode(key.type, key.value, flavor, key.fields, key.key)
    told: dict[str, Any] = {"db": key.db, "key": coded(key.key), "expire_ms": key.expire_ms}
    told["type"] = type_name(key.type)
    if isinstance(value, bytes):
        told["value"] = coded(value)
    elif isinstance(value, list):
        told["value"] = [coded(item) for item in value]
    elif isinstance(value, set):
        told["value"] = [coded(item) for item in sorted(value)]
    elif isinstance(value, dict):
        told["value"] = [[coded(member), repr(score)] for member, score in sorted(value.items())]
    elif isinstance(value, HashValue):
        told["value"] = [[coded(field), coded(text)] for field, text in sorted(value.fields.items())]
        if value.deadlines:
            told["deadlines"] = [[coded(field), until] for field, until in sorted(value.deadlines.items())]
    elif isinstance(value, StreamValue):
        told["value"] = _stream(value)
    elif isinstance(value, ArrayValue):
        told["len"] = max(value.items) + 1
    elif isinstance(value, ModuleValue):
        told["type"] = value.name.split("/")[0]
    return told


def _stream(value: StreamValue) -> dict[str, Any]:
    tail = value.tail
    groups = {}
    for group in tail.groups:
        pending = [[id_text(p.id).decode(), coded(p.consumer or b""), p.count] for p in group.pending]
        groups[group.name.decode("latin-1")] = {
            "last_id": id_text(group.last_id).decode(),
            "consumers": [coded(name) for name in sorted(consumer.name for consumer in group.consumers)],
            "pending": pending,
        }
    told: dict[str, Any] = {
        "entries": [[id_text(i).decode(), [coded(part) for part in fields]] for i, fields in value.entries],
        "last_id": id_text(tail.last_id).decode(),
        "groups": groups,
    }
    if tail.entries_added is not None and tail.max_deleted_id is not None:
        told["entries_added"] = tail.entries_added
        told["max_deleted_id"] = id_text(tail.max_deleted_id).decode()
    return told


def near(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal, but for a millisecond of a deadline that a client had to add up from two replies."""
    until_a, until_b = a["expire_ms"], b["expire_ms"]
    if (until_a is None) != (until_b is None) or abs((until_a or 0) - (until_b or 0)) > 1:
        return False
    return {**a, "expire_ms": 0} == {**b, "expire_ms": 0}
