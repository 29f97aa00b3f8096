"""A node's dead letters for its HTTP: which command on which key was refused and why, never the values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from canal.errors import StateError
from node.coordination.plan import ShardId
from sync.deadletter import shown
from sync.letters import Letter, read_letters

NEWEST: Final = 100


def letter_documents(shards: Iterable[tuple[ShardId, Path]]) -> list[dict[str, Any]]:
    """The newest letters of each shard's state directory, newest first; blocking. Unreadable files are left out."""
    found = []
    for shard, directory in shards:
        try:
            letters = read_letters(directory)
        except StateError:
            continue
        found += [_document(shard, letter) for letter in letters[-NEWEST:]]
    return sorted(found, key=lambda one: (one["at"], one["offset"]), reverse=True)


def _document(shard: ShardId, letter: Letter) -> dict[str, Any]:
    return {
        "task": shard.task,
        "shard": shard.shard,
        "id": letter.id,
        "at": letter.at,
        "offset": letter.offset,
        "db": letter.db,
        "command": shown(letter.argv[0]).upper() if letter.argv else "",
        "key": shown(letter.argv[1]) if len(letter.argv) > 1 else None,
        "error": letter.error,
        "times": letter.times,
        "settled": letter.settled,
    }
