"""How long things will last: the journal's room and the source's backlog, at the rate at which the source writes.

Looked at once a second. The source is asked seldom while the link follows it, and often while the link has left it
(journal full, snapshot refused) or lost it: what it writes meanwhile is what its backlog loses. A source that cannot be
asked is taken to go on at its last known rate.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.located import answer
from sync.config import LinkConfig
from sync.status import LinkStatus
from sync.target.fence import parse_info

_LOOK_S: Final = 1.0
_ASK_CONNECTED_S: Final = 60.0
_ASK_AWAY_S: Final = 5.0
_SMOOTH_S: Final = 60.0


class Rate:
    """Bytes a second of a growing offset, smoothed exponentially; correct from the first interval on."""

    def __init__(self, over_s: float = _SMOOTH_S) -> None:
        self.value = 0.0
        self._over_s = over_s
        self._last: tuple[float, int] | None = None
        self._seen_s = 0.0

    def at(self, now: float, offset: int) -> float:
        """Take up an offset; one that is smaller than the last begins anew without changing the rate."""
        last, self._last = self._last, (now, offset)
        if last is None or offset < last[1] or now <= last[0]:
            return self.value
        elapsed = now - last[0]
        self._seen_s += elapsed
        weight = 1.0 - math.exp(-elapsed / min(self._over_s, self._seen_s))
        if self._seen_s == elapsed:
            weight = 1.0
        self.value += weight * ((offset - last[1]) / elapsed - self.value)
        return self.value

    def forget_offset(self) -> None:
        """The next offset is of another stream, or comes after a gap."""
        self._last = None


class Horizon:
    """Keeps ``source_rate``, ``journal_room_bytes`` and the ``backlog_…`` figures of a status up to date."""

    def __init__(self, config: LinkConfig, status: LinkStatus, journal_size: Callable[[], int]) -> None:
        self._config = config
        self._status = status
        self._journal_size = journal_size
        self._rate = Rate()
        self._asked = -math.inf
        self._replid: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look(time.monotonic())
            if time.monotonic() - self._asked >= (_ASK_CONNECTED_S if self._status.source_connected else _ASK_AWAY_S):
                self._asked = time.monotonic()
                await self.ask()
            await asyncio.sleep(_LOOK_S)

    def look(self, now: float) -> None:
        """The figures that need no question."""
        status = self._status
        status.journal_room_bytes = room(self._config.state_dir, self._config.journal.max_bytes, self._journal_size())
        if status.replid != self._replid:
            self._replid = status.replid
            self._rate.forget_offset()
        if status.source_connected:
            status.source_rate = self._rate.at(now, status.source_offset)
            status.backlog_missed_bytes, status.backlog_at = 0, time.time()

    async def ask(self) -> None:
        """Ask the source for its backlog, and how far it has got; without an answer nothing changes."""
        found = await replication_info(self._config.source)
        status = self._status
        if found is None:
            return
        backlog, replid, offset = found
        status.backlog_bytes = backlog
        if status.source_connected or replid != status.replid:
            return
        status.source_rate = self._rate.at(time.monotonic(), offset)
        status.backlog_missed_bytes, status.backlog_at = max(0, offset - status.source_offset), time.time()


def room(directory: Path, max_bytes: int, journal_bytes: int) -> int | None:
    """Bytes that a journal may still take: what its bound or its file system leaves, whichever is less."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return None
    return max(0, min(free, max_bytes - journal_bytes) if max_bytes else free)


async def replication_info(source: Endpoint) -> tuple[int, str, int] | None:
    """(backlog size, replication id, newest offset) as INFO has them; None when it cannot be had."""
    try:
        async with asyncio.timeout(5):
            raw = await answer(source, b"INFO", b"replication")
    except (CanalError, TimeoutError):  # following the source says it better
        return None
    fields = parse_info(raw)
    try:
        return int(fields["repl_backlog_size"]), fields["master_replid"], int(fields["master_repl_offset"])
    except (KeyError, ValueError):
        return None
