"""Keys that expired here and whose end some other datacenter has not yet seen: key → where its DEL stands. No I/O.

An expiry's DEL is nobody's wish. It goes to the others as a conditional delete, which a copy with a newer deadline
refuses (`sync.expiry`), so it is in conflict with what was written elsewhere meanwhile only where that built on the old
value: a whole new value stands on both sides whichever came first. Were it a write like others, a link that comes back
after an outage would find every session in dispute that a slow side let expire, and the home would write old values
over new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from canal.keyscan import command_keys
from canal.resp import parse
from sync.homes import Place
from sync.window import SIMPLE

_MOST: Final = 100_000


class Lapsed:
    """At most 100,000 keys are kept; for more `add` says no, and they have to count as written."""

    def __init__(self) -> None:
        self._keys: dict[int, dict[bytes, int]] = {}
        self._count = 0
        self._ends: set[int] = set()

    def __len__(self) -> int:
        return self._count

    def add(self, place: Place, end: int) -> bool:
        """The key expired at ``end`` of our stream; False when there is no room."""
        keys = self._keys.setdefault(place[0], {})
        if len(self._ends) >= 2 * _MOST:
            return False
        if place[1] not in keys:
            if self._count >= _MOST:
                return False
            self._count += 1
        keys[place[1]] = end
        self._ends.add(end)
        return True

    def was(self, end: int) -> bool:
        """Did the DEL that ends there stand for an expiry, as far as is remembered? For who reads it again."""
        return end in self._ends

    def forget(self, place: Place) -> None:
        """The key was written here since, or is settled."""
        if self._keys.get(place[0], {}).pop(place[1], None) is not None:
            self._count -= 1

    def expire(self, seen: int) -> None:
        """Everybody has seen our stream up to ``seen``."""
        if not self._count or seen < 0:
            return
        for db, keys in list(self._keys.items()):
            self._keys[db] = {key: end for key, end in keys.items() if end > seen}
        self._count = sum(map(len, self._keys.values()))

    def forget_before(self, place: int) -> None:
        """Nobody reads our stream again from before ``place``, which may be long before what everybody has seen."""
        if self._ends:
            self._ends = {end for end in self._ends if end > place}

    def met(
        self, db: int, raw: bytes, limit: int, written: Callable[[int, list[bytes]], list[Place]]
    ) -> Iterator[tuple[Place, int]]:
        """Go through commands of another datacenter that had seen our stream up to ``limit``: keys, with where they
        expired here, of which something was written that built on what had expired. Those met are forgotten.
        """
        keys, others = command_keys(raw, SIMPLE)
        mine = self._keys.get(db, {})
        if not others and not any(key in mine for key in keys):
            return
        at = 0
        while at < len(raw):
            found = parse(raw, at, len(raw))
            assert found is not None
            argv, at = found
            for place in written(db, argv):
                end = self._keys.get(place[0], {}).get(place[1])
                if end is None:
                    continue
                self.forget(place)
                if end > limit and not is_whole(argv):
                    yield place, end


def is_whole(argv: list[bytes]) -> bool:
    """Does this command leave nothing of what its key held before, its deadline included?"""
    name = argv[0].upper()
    if name == b"SET":
        return not any(word.upper() in (b"KEEPTTL", b"XX") for word in argv[3:])
    if name == b"RESTORE":
        return any(word.upper() == b"REPLACE" for word in argv[4:])
    return name in (b"DEL", b"UNLINK")


__all__ = ["Lapsed", "is_whole"]
