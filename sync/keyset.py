"""Which keys a snapshot had, in 8 bytes a key: for the sweep that removes what it did not have. No I/O.

64-bit hashes, keyed anew in each process, in 256 sorted arrays. Two keys of the same hash would make a stale one look
alive: at a billion keys the chance for any one stale key is below 10^-10.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

_BUCKETS: Final = 256
_MASK: Final = (1 << 64) - 1


class KeySet:
    """A set of (database, key) that only grows, then is asked. `__len__` counts what was added."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._sorted = False
        self._count = 0

    def add(self, db: int, key: bytes) -> None:
        """Add a key; not after the first `__contains__`."""
        value = hash((db, key)) & _MASK
        self._buckets[value >> 56].append(value)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: tuple[int, bytes]) -> bool:
        if not self._sorted:
            self._sort()
        value = hash(item) & _MASK
        bucket = self._buckets[value >> 56]
        index = bisect_left(bucket, value)
        return index < len(bucket) and bucket[index] == value

    def _sort(self) -> None:
        for number, bucket in enumerate(self._buckets):
            self._buckets[number] = array("Q", sorted(bucket))
        self._sorted = True
