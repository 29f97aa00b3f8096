"""What goes wrong when: made from the seed alone, so that a run can be repeated. No I/O.

Kinds are dealt like cards: each comes once before any comes again, so that even a short run meets most of them.
The instants and the faults replay exactly; how the processes interleave around them is the machine's affair.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

QUIET_S = 2.0  # after writing began, before the first fault


@dataclass(frozen=True)
class Planned:
    """One fault. ``place`` chooses among the places that can have it, ``roll`` seeds whatever else it chooses."""

    at: float  # seconds after writing began
    kind: str
    place: int
    hold_s: float
    roll: int

    def __str__(self) -> str:
        return f"{self.at:6.1f} s {self.kind} for {self.hold_s:.1f} s"


def make_plan(seed: str, kinds: Mapping[str, tuple[float, float]], seconds: float, every_s: float) -> list[Planned]:
    """Faults for so many seconds, one each ``every_s`` on average. ``kinds``: how long each may last, from, to."""
    chance = random.Random(f"plan/{seed}")
    plan: list[Planned] = []
    deck: list[str] = []
    at = QUIET_S
    while at < seconds:
        if not deck:
            deck = sorted(kinds)
            chance.shuffle(deck)
        kind = deck.pop()
        hold = chance.uniform(*kinds[kind])
        plan.append(Planned(at, kind, chance.randrange(1 << 16), hold, chance.randrange(1 << 32)))
        at += chance.uniform(0.2, 1.8) * every_s
    return plan
