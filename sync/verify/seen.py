"""The keys that a scan has met, in 4 bytes each. No I/O.

40 bits of a hash that is keyed anew in each process, 8 of them by the array it stands in. A key that was not met passes
for one that was with a chance of 1 in a million at a million keys, and more with more keys; `sync.keyset` takes twice
the memory, where an error would cost more.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

_BUCKETS: Final = 256


class Seen:
    """A set of (database, key) that only grows; asked after it has grown, it is sorted first. ``everything``: it says
    of each key that it was met.
    """

    def __init__(self, *, everything: bool = False) -> None:
        self._everything = everything
        self._buckets = [array("I") for _ in range(_BUCKETS)]
        self._sealed = True

    def add(self, db: int, keys: list[bytes]) -> None:
        """Add these keys."""
        self._sealed = False
        buckets = self._buckets
        for key in keys:
            value = hash((db, key))
            buckets[(value >> 56) & 0xFF].append(value & 0xFFFFFFFF)

    def missing(self, db: int, keys: list[bytes]) -> set[bytes]:
        """Those of these keys that were not met."""
        if not self._sealed:
            for number, bucket in enumerate(self._buckets):
                self._buckets[number] = array("I", sorted(bucket))
            self._sealed = True
        buckets = self._buckets
        found: set[bytes] = set()
        if self._everything:
            return found
        for key in keys:
            value = hash((db, key))
            bucket, low = buckets[(value >> 56) & 0xFF], value & 0xFFFFFFFF
            index = bisect_left(bucket, low)
            if index >= len(bucket) or bucket[index] != low:
                found.add(key)
        return found
