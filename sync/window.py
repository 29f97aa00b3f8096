"""Writes of one datacenter that some other datacenter has not yet seen: key → its last position. No I/O.

Runs of the stream are taken as they come and looked into only when somebody asks, so a pair in which one side writes
pays next to nothing. Old entries go by generations, whole, when all have seen them. After an outage there can be
millions: the oldest are kept as hashes then, whose position is that of the newest among them, so that a key may count
as written later than it was. What is given up beyond the bound lies below `Window.floor`, where every key counts as
written.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from canal.commands import ONE_KEY, lookup, written_in
from canal.keyscan import command_keys
from canal.resp import parse
from sync.homes import Place
from sync.keyset import KeySet

SIMPLE: Final = dict.fromkeys(ONE_KEY - {b"MOVE", b"move", b"RESTORE", b"restore"}, 1)
"""Names, upper and lower case, of commands of which nothing but the key, their first argument, has to be known."""

_PENDING_BYTES: Final = 4 << 20
_GENERATIONS: Final = 8
EXACT: Final = 250_000
"""So many keys are kept with their positions, in some 150 bytes each; older ones in 8."""


class _Generation:
    __slots__ = ("keys", "last")

    def __init__(self) -> None:
        self.keys: dict[int, dict[bytes, int]] = {}
        self.last = 0

    def __len__(self) -> int:
        return sum(map(len, self.keys.values()))


class _Packed:
    """Keys written at or before ``last``."""

    __slots__ = ("keys", "last")

    def __init__(self) -> None:
        self.keys = KeySet()
        self.last = 0

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, generation: _Generation) -> None:
        for db, keys in generation.keys.items():
            for key in keys:
                self.keys.add(db, key)
        self.last = generation.last


class Window:
    """``floor``: everything at or before it counts as written. ``last``: the newest position noted.

    ``max_keys``: so many are known one by one, ``exact`` of them with their positions.
    """

    def __init__(self, max_keys: int = 2_000_000, floor: int = -1, exact: int = EXACT) -> None:
        self.max_keys = max_keys
        self._exact = min(exact, max_keys)
        self._packed: deque[_Packed] = deque()
        self.floor = floor
        self.last = floor
        self.given_up = 0  # how often the bound was reached
        self._generations: list[_Generation] = [_Generation()]
        self._fresh: deque[tuple[int, bytes, int]] = deque()
        self._fresh_bytes = 0

    def note(self, db: int, raw: bytes, end: int) -> None:
        """Commands in ``db`` that ended at ``end``."""
        self._fresh.append((db, raw, end))
        self._fresh_bytes += len(raw)
        self.last = end
        if self._fresh_bytes > _PENDING_BYTES:
            self._index()

    def touch(self, place: Place, end: int) -> None:
        """One key that was written at ``end``."""
        if self._fresh:
            self._index()
        generation = self._generations[-1]
        generation.keys.setdefault(place[0], {})[place[1]] = end
        generation.last = self.last = end
        self._bound()

    def all_written(self, end: int) -> None:
        """Every key was written (FLUSHALL and the like), or nothing is known of what was."""
        self.floor = max(self.floor, end)
        self.last = max(self.last, end)

    def get(self, place: Place) -> int:
        """The newest position at which the key was written, -1 when none is known."""
        if self._fresh:
            self._index()
        db, key = place
        for generation in reversed(self._generations):
            keys = generation.keys.get(db)
            if keys is not None and (found := keys.get(key)) is not None:
                return found
        for packed in reversed(self._packed):
            if place in packed.keys:
                return packed.last
        return -1

    def among(self, db: int, keys: list[bytes]) -> list[bytes]:
        """Those of these keys of one database that are known to be written; one may come twice."""
        if self._fresh:
            self._index()
        known = [found for one in self._generations if (found := one.keys.get(db))]
        among = (
            [key for key in keys if any(key in one for one in known)]
            if len(known) > 1
            else [key for key in keys if known and key in known[0]]
        )
        for packed in self._packed:
            absent = set(packed.keys.missing(db, keys))
            among += [key for key in keys if key not in absent]
        return among

    def after(self, position: int) -> list[Place]:
        """Keys written after ``position``, as far as they are known by name."""
        if self._fresh:
            self._index()
        return [
            (db, key)
            for generation in self._generations
            for db, keys in generation.keys.items()
            for key, end in keys.items()
            if end > position
        ]

    def expire(self, seen: int) -> None:
        """Everybody has seen what was written up to ``seen``."""
        fresh = self._fresh
        while fresh and fresh[0][2] <= seen:
            self._fresh_bytes -= len(fresh.popleft()[1])
        while self._packed and self._packed[0].last <= seen:
            self._packed.popleft()
        generations = self._generations
        while generations and generations[0].last <= seen and (len(generations) > 1 or generations[0].keys):
            generations.pop(0)
        if not generations:
            generations.append(_Generation())

    def __len__(self) -> int:
        return sum(map(len, self._generations)) + sum(map(len, self._packed))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of commands that have not been looked into."""
        return self._fresh_bytes

    def _index(self) -> None:
        generation = self._generations[-1]
        for db, raw, end in self._fresh:
            keys, others = command_keys(raw, SIMPLE)
            generation.keys.setdefault(db, {}).update(dict.fromkeys(keys, end))
            for at in others:
                found = parse(raw, at, len(raw))
                assert found is not None
                for where, key in places_written(db, found[0]):
                    generation.keys.setdefault(where, {})[key] = end
            generation.last = end
        self._fresh.clear()
        self._fresh_bytes = 0
        self._bound()

    def _bound(self) -> None:
        if len(self._generations[-1]) >= max(1, self._exact // _GENERATIONS):
            self._generations.append(_Generation())
            if len(self._generations) > _GENERATIONS:
                self._pack(self._generations.pop(0))

    def _pack(self, oldest: _Generation) -> None:
        packed = self._packed
        if not packed or len(packed[-1]) >= self._exact:
            packed.append(_Packed())
        packed[-1].take(oldest)
        while packed and sum(map(len, packed)) > self.max_keys - self._exact:
            self.floor = max(self.floor, packed.popleft().last)
            self.given_up += 1


def places_written(db: int, argv: list[bytes]) -> list[Place]:
    """What a command writes; a command that is not known (of a module) writes its first argument."""
    if lookup(argv[0]) is None:
        return [(db, argv[1])] if len(argv) > 1 else []
    return written_in(db, argv)
