"""Two ways: a source cluster's stream is replayed only as far as no slot was on its way while it was made.

MIGRATE deletes a key at its old master by a DEL that nothing tells from a user's. One way the target gets the key again
when the slot is handed over (`sync.slots`). Two ways the other side writes its copy meanwhile, and those writes would
be lost. So before anything is replayed the shard's master is asked how far its stream is, and then which slots it has:
all up to there was written with these slots, and none of them moving. Where that cannot be said nothing is replayed
any more, and ``error`` says what a person has to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from canal.endpoint import Endpoint
from canal.errors import CanalError, Refused, Unready
from sync.slotmap import ranges
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.005
_REST_S: Final = 0.2


def own_slots(text: str) -> tuple[frozenset[int], bool] | None:
    """Of CLUSTER NODES the slots of the node itself, and whether one of them is being moved; None for a replica."""
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 8 or "myself" not in fields[2].split(","):
            continue
        if "master" not in fields[2].split(","):
            return None
        slots: set[int] = set()
        for word in fields[8:]:
            if not word.startswith("["):
                first, _, last = word.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        return frozenset(slots), any(word.startswith("[") for word in fields[8:])
    return None


class SlotGate:
    """One session's. ``owned``: the slots that the link knows as the shard's. ``run`` is a task beside the session."""

    def __init__(self, endpoint: Endpoint, owned: Callable[[], frozenset[int]], wake: Callable[[], None]) -> None:
        self.error: CanalError | None = None
        self._endpoint = endpoint
        self._owned = owned
        self._wake = wake
        self._clear = -1
        self._wanted = -1
        self._asked = asyncio.Event()

    def passes(self, end: int) -> bool:
        """May the stream be replayed up to ``end``? Where that is not known yet, it is asked for."""
        if end <= self._clear:
            return True
        self._wanted = end
        self._asked.set()
        return False

    async def run(self) -> None:
        """Ask until cancelled."""
        conn: Connection | None = None
        trouble = ""
        try:
            while self.error is None:
                await self._asked.wait()
                self._asked.clear()
                try:
                    if conn is None or conn.closed is not None:
                        conn = await connect(self._endpoint, who="source")
                    await self._look(conn)
                    trouble = ""
                except CanalError as error:
                    if str(error) != trouble:
                        log.warning("the slots of the source are not known, replay waits: %s", error)
                    trouble = str(error)
                    if conn is not None:
                        conn.close()
                        conn = None
                    await asyncio.sleep(_REST_S)
                if self._wanted > self._clear:
                    await asyncio.sleep(_AGAIN_S)
                    self._asked.set()
        finally:
            if conn is not None:
                conn.close()

    async def _look(self, conn: Connection) -> None:
        info = parse_info(await conn.call(b"INFO", b"replication"))
        offset = int(info["master_repl_offset"])
        found = own_slots((await conn.call(b"CLUSTER", b"NODES")).decode("utf-8", "replace"))
        if found is None:
            raise Unready(f"{conn.endpoint.label} is no master any more")
        slots, moving = found
        if moving or slots != self._owned():
            self.error = moved(self._endpoint, slots ^ self._owned())
        else:
            self._clear = max(self._clear, offset)
        self._wake()


def moved(source: Endpoint, slots: frozenset[int]) -> Refused:
    """What a two-way link says when slots of its source cluster are moved."""
    which = f"slots {ranges(slots)} of" if slots else "slots of"
    return Refused(
        f"{which} {source.label} are being moved or were moved: two-way links of a cluster cannot follow that, since a "
        "key that is moved looks deleted. Nothing of it was replayed. Let the move end, then give this direction a new "
        "snapshot (run --snapshot always, or task resync), and compare both sides"
    )
