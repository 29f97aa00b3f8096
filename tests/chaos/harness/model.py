"""What must be true of a writer's keys, whatever happened in between.

A cell is one key, or a few that belong together, with one writer. It makes commands, is told what became of them (done,
refused, or unknown because the reply was lost) and says in the end what is wrong with what a server holds. Every value
carries a number of its own, so that a write that is missing, doubled or out of order shows for good.

``lossy``: the writer's server lost acknowledged writes (failed over without waiting, or started empty). Then what was
acknowledged may be missing; that nothing is doubled, disordered or half done still holds.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, Literal

from tests.support.wire import Command, Wire

Outcome = Literal["done", "refused", "unknown"]


class Cell(ABC):
    """See the top of this file. One thread writes it; `wrong` is asked after that has ended."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.number = 0
        self.done: set[int] = set()
        self.unknown: set[int] = set()

    def next(self) -> int:
        """The number of the next write."""
        self.number += 1
        return self.number

    @abstractmethod
    def commands(self, number: int, chance: random.Random) -> list[Command]: ...

    @abstractmethod
    def wrong(self, wire: Wire, lossy: bool) -> str: ...

    def settle(self, number: int, outcome: Outcome) -> None:
        if outcome != "refused":
            (self.done if outcome == "done" else self.unknown).add(number)

    def check_numbers(self, found: list[int], lossy: bool, *, ordered: bool = True) -> str:
        """``found`` are the numbers that a server holds, in its order."""
        if len(set(found)) != len(found):
            return f"{len(found) - len(set(found))} writes stand there twice"
        if ordered and (bad := next(((a, b) for a, b in pairwise(found) if a >= b), None)):
            return f"{bad[1]} follows {bad[0]}"
        if stray := set(found) - self.done - self.unknown:
            return f"{len(stray)} never written or refused: {sorted(stray)[:5]}"
        if not lossy and (missing := self.done - set(found)):
            return f"{len(missing)} of {len(self.done)} acknowledged writes are missing: {sorted(missing)[:5]}"
        return ""


class ListCell(Cell):
    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("RPUSH", self.key, number)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        return self.check_numbers([int(n) for n in wire.ask("LRANGE", self.key, 0, -1)], lossy)


class TextCell(Cell):
    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("APPEND", self.key, f"{number},")]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        return self.check_numbers([int(n) for n in (wire.ask("GET", self.key) or b"").split(b",")[:-1]], lossy)


class StreamCell(Cell):
    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("XADD", self.key, "*", "n", number)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        return self.check_numbers([int(fields[1]) for _, fields in wire.ask("XRANGE", self.key, "-", "+")], lossy)


class SetCell(Cell):
    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("SADD", self.key, f"m{number}")]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        return self.check_numbers([int(m[1:]) for m in wire.ask("SMEMBERS", self.key)], lossy, ordered=False)


class BitCell(Cell):
    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("SETBIT", self.key, number, 1)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        bits = wire.ask("GET", self.key) or b""
        found = [at * 8 + bit for at, byte in enumerate(bits) for bit in range(8) if byte & (0x80 >> bit)]
        return self.check_numbers(found, lossy)


class HashCell(Cell):
    """A field for each write, in 20 hashes, with the number as its value."""

    def commands(self, number: int, chance: random.Random) -> list[Command]:
        return [("HSET", f"{self.key}:{number % 20}", f"f{number}", number)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        found: list[int] = []
        for part in range(20):
            found += [int(n) for n in wire.ask("HVALS", f"{self.key}:{part}")]
        return self.check_numbers(found, lossy, ordered=False)


class RegisterCell(Cell):
    """SET, with a deadline or without: the last writer wins."""

    def commands(self, number: int, chance: random.Random) -> list[Command]:
        until: tuple[Any, ...] = ("EX", chance.randrange(7200, 14_400)) if chance.random() < 0.3 else ()
        return [("SET", self.key, number, *until)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        found = int(wire.ask("GET", self.key) or 0)
        last = max(self.done, default=0)
        if found == last or found in self.unknown or (lossy and found in self.done | {0}):
            return ""
        return f"holds write {found}, the last one acknowledged is {last}"


class SumCell(Cell):
    """Increments of a counter, a hash field and a sorted set's member: each adds its amount once.

    ``rebased``: two ways, a link was lost beyond its source's backlog. Its snapshot sets the other side back for a
    moment to what the source has; what is added to a float just then stands in the stream as SET of a sum that lacks
    something (docs/architecture/two-way.md). The others stand there as what is added.
    """

    MOST = 9
    rebased = False

    def commands(self, number: int, chance: random.Random) -> list[Command]:
        amount = 1 + number % self.MOST
        kind = number % 4
        if kind == 0:
            return [("HINCRBY", f"{self.key}:h", "sum", amount)]
        if kind == 1:
            return [("ZINCRBY", f"{self.key}:z", amount, "sum")]
        return [("INCRBY", self.key, amount)] if kind == 2 else [("INCRBYFLOAT", f"{self.key}:f", f"{amount}.5")]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        for kind, ask in enumerate(
            (
                ("HGET", f"{self.key}:h", "sum"),
                ("ZSCORE", f"{self.key}:z", "sum"),
                ("GET", self.key),
                ("GET", f"{self.key}:f"),
            )
        ):
            half = 0.5 if kind == 3 else 0
            least = sum(1 + n % self.MOST + half for n in self.done if n % 4 == kind)
            most = least + sum(1 + n % self.MOST + half for n in self.unknown if n % 4 == kind)
            found = float(wire.ask(*ask) or 0)
            may_lack = lossy or (kind == 3 and self.rebased)
            if found > most or (found < least and not may_lack):
                return f"{' '.join(ask)} is {found:g}, must be {least:g} to {most:g}"
        return ""


class PairCell(Cell):
    """A transaction or a script over two keys: whole or not at all, so the counter is the length of the list."""

    SCRIPT = "redis.call('INCR', KEYS[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])"

    def commands(self, number: int, chance: random.Random) -> list[Command]:
        count, pushed = f"{{{self.key}}}:count", f"{{{self.key}}}:list"
        if number % 2:
            return [("EVAL", self.SCRIPT, 2, count, pushed, number)]
        return [("MULTI",), ("INCR", count), ("RPUSH", pushed, number), ("EXEC",)]

    def wrong(self, wire: Wire, lossy: bool) -> str:
        count = int(wire.ask("GET", f"{{{self.key}}}:count") or 0)
        found = [int(n) for n in wire.ask("LRANGE", f"{{{self.key}}}:list", 0, -1)]
        if count != len(found):
            return f"counted {count}, pushed {len(found)}: half a transaction"
        return self.check_numbers(found, lossy, ordered=False)  # transactions are sent ahead of scripts


CELLS: tuple[type[Cell], ...] = (
    ListCell, TextCell, StreamCell, SetCell, BitCell, HashCell, RegisterCell, SumCell, PairCell,
)  # fmt: skip


def cells(prefix: str) -> list[Cell]:
    """One of each kind, and more registers."""
    made = [kind(f"{prefix}:{kind.__name__.removesuffix('Cell').lower()}") for kind in CELLS]
    return made + [RegisterCell(f"{prefix}:register:{n}") for n in range(10)]
