"""A heartbeat: a reserved key, written at the source every second, gives the true lag from end to end.

The lag told otherwise counts from when bytes arrived here. A heartbeat counts from before its write was sent to the
source until everything up to it is committed at the target; both moments are taken by one clock, this machine's. The
key is never replicated. Off unless asked for: it writes to the source.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from canal.cluster import slot_tag
from canal.errors import CanalError
from sync.config import LinkConfig
from sync.rules import Adjusted, Dropped, Rules
from sync.status import LinkStatus
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection, connect

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
_LIVES_MS: Final = 3_600_000  # a link that is gone leaves nothing behind
_LOOK_S: Final = 0.005
_KEPT: Final = 600
_REST_S: Final = 5.0


def heartbeat_key(task: str, shard: str) -> bytes:
    """The reserved key of a link at its source; of a cluster's shard its beginning (`Heartbeat.key_now`)."""
    return RESERVED + f"heartbeat:{task}/{shard}".encode()


class Heartbeat:
    """``await run()`` beside a link; `govern` lets it see its own writes in the stream. ``slots``: of a cluster's shard
    those that are its own, one of which has to have the key.
    """

    def __init__(
        self, config: LinkConfig, status: LinkStatus, slots: Callable[[], frozenset[int]] | None = None
    ) -> None:
        self.key = heartbeat_key(config.task, config.shard)
        self._slots = slots
        self._config, self._status = config, status
        self._own = secrets.token_hex(6).encode()
        self._count = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # (number, monotonic time), not arrived yet
        self._arrived: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # (stream offset, monotonic time of sending)

    def govern(self, rules: Rules) -> None:
        """Look at what would be dropped as reserved anyway."""
        inner = rules.adjust

        def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
            if len(argv) > 2 and argv[1].startswith(self.key):
                self._seen(argv[2], end)
                return Dropped("reserved")
            return inner(db, argv, received_ms, end)

        rules.adjust = adjust

    def _seen(self, value: bytes, end: int) -> None:
        own, _, number = value.partition(b":")
        if own != self._own or not number.isdigit():
            return
        while self._sent and self._sent[0][0] <= int(number):
            self._arrived.append((end, self._sent.popleft()[1]))

    async def run(self) -> None:
        """Until cancelled."""
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                self._look()
                await asyncio.sleep(_LOOK_S if self._sent or self._arrived else EVERY_S / 10)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    def _look(self) -> None:
        """The lag of the newest heartbeat that is through, or the age of the oldest that is not, if that is more."""
        status, now = self._status, time.monotonic()
        while self._arrived and self._arrived[0][0] <= status.applied_offset:
            status.heartbeat_lag = now - self._arrived.popleft()[1]
            status.heartbeat_at = time.time()
        waiting = self._arrived or self._sent
        if waiting:
            status.heartbeat_waiting = now - waiting[0][1]
        else:
            status.heartbeat_waiting = 0.0

    def key_now(self) -> bytes | None:
        """The key to be written; None for a shard that has no slots yet. It changes when slots move."""
        if self._slots is None:
            return self.key
        slots = self._slots()
        return self.key + b":{%b}" % slot_tag(min(slots)) if slots else None

    async def _beat(self) -> None:
        conn: Connection | None = None
        named: bytes | None = None
        try:
            while True:
                try:
                    key = self.key_now()
                    if key is None:
                        await asyncio.sleep(EVERY_S)
                        continue
                    if conn is None or conn.broken is not None:
                        conn, named = await connect(self._config.source.whole, who="source"), None
                    if named != key:
                        await conn.call(b"SADD", INDEX, key)  # not a key of the users'
                        named = key
                    self._count += 1
                    self._sent.append((self._count, time.monotonic()))
                    value = b"%b:%d" % (self._own, self._count)
                    await conn.call(b"SET", key, value, b"PX", b"%d" % _LIVES_MS, timeout=10.0)
                    self._status.heartbeat_error = ""
                    await asyncio.sleep(EVERY_S)
                except CanalError as error:
                    if self._sent and self._sent[-1][0] == self._count:
                        self._sent.pop()
                    if str(error) != self._status.heartbeat_error:
                        log.warning("no heartbeat: %s", error)
                    self._status.heartbeat_error = str(error)
                    await asyncio.sleep(_REST_S)
        finally:
            if conn is not None:
                conn.close()
