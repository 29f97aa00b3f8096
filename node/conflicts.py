"""A node's conflicts for its HTTP: which keys several datacenters wrote at once, and whose state stays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from canal.errors import StateError
from node.coordination.plan import ShardId
from sync.conflictlog import read_conflicts

NEWEST: Final = 100


def conflict_documents(shards: Iterable[tuple[ShardId, Path]]) -> list[dict[str, Any]]:
    """The newest conflicts of each shard's state directory, newest first; blocking. Unreadable files are left out."""
    found: list[dict[str, Any]] = []
    for shard, directory in shards:
        try:
            lines = read_conflicts(directory)[-NEWEST:]
        except StateError:
            continue
        found += [{**line, "task": shard.task, "shard": shard.shard} for line in lines]
    return sorted(found, key=lambda one: float(one.get("at") or 0), reverse=True)
