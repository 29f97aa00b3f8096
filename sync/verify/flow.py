"""What is on its way between the two sides: where links run between them, a round waits until they have applied it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import hiredis

from canal.position import Position
from sync.tag import INDEX, PREFIX
from sync.verify.side import Pair, Side

_LOOK_S: Final = 0.1
_STANDING_S: Final = 1.0  # a checkpoint that has not moved for so long has nothing to apply, or stands still
_MOST_S: Final = 60.0
SLACK_BYTES: Final = 16 << 10  # PINGs of an idle source, and tags, which its link does not commit


class Flow:
    """The links between a pair, in either direction, found by their checkpoints."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ways = ((pair.first, pair.second), (pair.second, pair.first))

    async def settle(self, pause_s: float) -> bool:
        """Wait ``pause_s``, and further until everything written before is applied as far as links run.

        Not for longer than a minute, and not for a link that stands still: False where one is behind then.
        """
        goals = [(target, goal) for source, target in self._ways for goal in await source.positions()]
        await asyncio.sleep(pause_s)
        return all(await asyncio.gather(*(self._reached(target, goal) for target, goal in goals)))

    async def forward(self) -> bool:
        """Does a link run from the first side to the second?"""
        return await self._linked(*self._ways[0])

    async def links(self) -> list[bytes]:
        """The checkpoints, at the second side, of links from the first."""
        here = await _offset(self._pair.first)
        return [] if here is None else list(await _positions(self._pair.second, here.replid))

    async def back_behind(self) -> int | None:
        """How many bytes of the second side's stream are not applied at the first; None without a link that streams."""
        source, target = self._ways[1]
        here = await _offset(source)
        if here is None:
            return None
        found = await _positions(target, here.replid)
        phases = await target.ask(0, [[b"HGET", key, b"phase"] for key in found], strict=False)
        done = [found[key] for key, phase in zip(found, phases, strict=True) if phase in (None, b"stream")]
        return max(0, here.offset - min(done)) if done and len(done) == len(found) else None

    async def backward(self) -> bool:
        """Does a link run from the second side to the first?"""
        return await self._linked(*self._ways[1])

    async def _linked(self, source: Side, target: Side) -> bool:
        here = await source.positions()
        return bool(here) and all([await _applied(target, one.replid) is not None for one in here])

    async def _reached(self, target: Side, goal: Position) -> bool:
        began = moved = time.monotonic()
        last = -1
        while (now := time.monotonic()) - began < _MOST_S and now - moved < _STANDING_S:
            applied = await _applied(target, goal.replid)
            if applied is None or applied >= goal.offset:
                return True
            if applied != last:
                last, moved = applied, now
            await asyncio.sleep(_LOOK_S)
        return goal.offset - last <= SLACK_BYTES


async def _offset(side: Side) -> Position | None:
    """Where a side's own stream stands; of a cluster one of them."""
    found = await side.positions()
    return found[0] if found else None


async def _applied(target: Side, replid: str) -> int | None:
    """How far a link has applied the stream of ``replid`` at this side; the least where there are several."""
    return min((await _positions(target, replid)).values(), default=None)


async def _positions(target: Side, replid: str) -> dict[bytes, int]:
    """The checkpoints at a side of links that follow ``replid``, and how far each is."""
    (links,) = await target.ask(0, [[b"SMEMBERS", INDEX]], strict=False)
    if isinstance(links, hiredis.ReplyError) or not links:
        return {}
    keys = sorted(key for key in links if key.startswith(PREFIX))
    texts = await target.ask(0, [[b"HGET", key, b"pos"] for key in keys], strict=False)
    own = replid.encode() + b":"
    found = zip(keys, texts, strict=True)
    return {key: int(text[len(own) :]) for key, text in found if isinstance(text, bytes) and text.startswith(own)}
