"""Hands the newest documents to everyone who watches: all of them at first, then only what differs.

A watcher that does not keep up loses nothing and holds up nobody: it gets everything anew instead of what it missed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

Json = dict[str, Any]
WAITING: Final = 8
KEEP_ALIVE_S: Final = 15.0
MAX_WATCHERS: Final = 64


def encode(value: Any) -> str:
    """JSON on one line; NaN never."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def message(event: str, value: Any) -> str:
    """One server-sent event."""
    return f"event: {event}\ndata: {encode(value)}\n\n"


class Hub:
    """``publish`` named groups of documents; ``watch`` them."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, str]] = {}
        self._watchers: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many are watching."""
        return len(self._watchers)

    def publish(self, groups: dict[str, dict[str, Json]]) -> None:
        """Replace all documents: group -> key -> document."""
        new = {group: {key: encode(item) for key, item in items.items()} for group, items in groups.items()}
        old, self._groups = self._groups, new
        if not self._watchers:
            return
        changes = self._changes(old, new)
        if changes is None:
            return
        for queue in self._watchers:
            if queue.full():  # it is behind: nothing but everything helps
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(self.everything())
            else:
                queue.put_nowait(changes)

    def everything(self) -> str:
        """The event ``all`` with every document as it is now."""
        return f"event: all\ndata: {self.document() or '{}'}\n\n"

    def document(self) -> str | None:
        """Every document as JSON on one line; None before the first ``publish``."""
        if not self._groups:
            return None
        body = ",".join(f"{encode(group)}:[{','.join(items.values())}]" for group, items in self._groups.items())
        return f"{{{body}}}"

    @staticmethod
    def _changes(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> str | None:
        parts: list[str] = []
        for group, items in new.items():
            before = old.get(group, {})
            changed = [text for key, text in items.items() if before.get(key) != text]
            removed = [key for key in before if key not in items]
            if changed:
                parts.append(f"{encode(group)}:[{','.join(changed)}]")
            if removed:
                parts.append(f"{encode('removed_' + group)}:{encode(removed)}")
        return f"event: changes\ndata: {{{','.join(parts)}}}\n\n" if parts else None

    async def watch(self) -> AsyncIterator[str]:
        """Events from now on, beginning with everything; a comment when nothing happens, so that dead peers show."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        self._watchers.add(queue)
        try:
            yield self.everything()
            while not self._closed:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        item = await queue.get()
                except TimeoutError:
                    item = ": nothing new\n\n"
                if item is None:
                    return
                yield item
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """End every watching."""
        self._closed = True
        for queue in self._watchers:
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
