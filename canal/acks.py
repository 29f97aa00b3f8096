"""What a canal acknowledges to its source, and when: pure, the clock is handed in.

A canal must not be taken for a real replica. Acknowledging like one makes WAIT and min-replicas count the canal as a
copy, and a bare FAILOVER choose it as the new master. So it stays ``MARGIN`` bytes behind what it holds, which is
enough to be alive in the source's eyes. One thing needs the exact offset: a source that shuts down asks (GETACK), waits
for everybody to hold everything, and only then writes the snapshot from which it can go on after its restart. A source
that shuts down is silent after asking; one whose client calls WAIT usually is not. Hence the exact offset is told only
when a second has passed after GETACK in which nothing but PING and GETACK came.
"""

from __future__ import annotations

import re
from typing import Final

MARGIN: Final = 64
SILENCE_S: Final = 1.0

# Forms as captured from Redis 2.8 to 8.10 and Valkey 8.0 to 9.1; their case differs between versions.
GETACK: Final = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
_CONTROL: Final = re.compile(rb"(?:\*1\r\n\$4\r\nping\r\n|(" + re.escape(GETACK) + rb"))+\Z", re.IGNORECASE)
_CONTROL_MAX: Final = 512


class AckPolicy:
    """Told of every block of the stream, it says which offset to announce."""

    def __init__(self, now: float) -> None:
        self._asked = False  # GETACK came, and since then only PING and GETACK
        self._quiet_since = now  # when the last byte came that is neither PING nor GETACK
        self._asked_at = now
        self._tail = b""

    def received(self, block: memoryview, now: float) -> bool:
        """A block of the stream came at ``now`` (seconds of any monotonic clock); True if the exact offset is asked."""
        size = len(block)
        if size <= _CONTROL_MAX and (found := _CONTROL.match(block)):
            if found[1]:
                self._ask(now)
            self._tail = b""
            return self._asked
        self._quiet_since = now
        self._asked = False
        self._tail = bytes(block[-len(GETACK) :]) if size >= len(GETACK) else (self._tail + block)[-len(GETACK) :]
        if self._tail.upper() == GETACK:
            self._ask(now)
        return self._asked

    def _ask(self, now: float) -> None:
        if not self._asked:
            self._asked_at = now
        self._asked = True

    def offset(self, journaled: int, received: int, now: float) -> int:
        """What to announce now, given the newest offset that is journaled and the newest that was received."""
        silent = now - max(self._quiet_since, self._asked_at) >= SILENCE_S
        if self._asked and silent and journaled >= received:
            self._asked = False
            return received
        return max(0, min(journaled, received) - MARGIN)
