"""A set of keys in 8 bytes each: what a snapshot had, what was written long ago and not yet seen by all. No I/O.

64-bit hashes, keyed anew in each process, in 256 sorted arrays. Two keys of the same hash would make a stale one look
alive: at a billion keys the chance for any one stale key is below 10^-10.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

_BUCKETS: Final = 256


class KeySet:
    """A set of (database, key) that only grows; asked after it has grown, it is sorted first. `__len__` counts what was
    added.

    ``buckets``: signed hashes, by their top byte; `canal.rdb.plain` appends to them too.
    """

    def __init__(self) -> None:
        self.buckets = [array("q") for _ in range(_BUCKETS)]
        self._sealed = False

    def add(self, db: int, key: bytes) -> None:
        """Add a key."""
        self._sealed = False
        value = hash((db, key))
        self.buckets[(value >> 56) & 0xFF].append(value)

    def seal(self) -> None:
        """Get ready to be asked: sorts, bucket by bucket, which needs little memory beside the set's own."""
        if not self._sealed:
            for number, bucket in enumerate(self.buckets):
                self.buckets[number] = array("q", sorted(bucket))
            self._sealed = True

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __contains__(self, item: object) -> bool:
        self.seal()
        value = hash(item)
        bucket = self.buckets[(value >> 56) & 0xFF]
        index = bisect_left(bucket, value)
        return index < len(bucket) and bucket[index] == value

    def missing(self, db: int, keys: list[bytes]) -> list[bytes]:
        """Those of these keys that are not in the set."""
        self.seal()
        buckets = self.buckets
        found = []
        for key in keys:
            value = hash((db, key))
            bucket = buckets[(value >> 56) & 0xFF]
            index = bisect_left(bucket, value)
            if index >= len(bucket) or bucket[index] != value:
                found.append(key)
        return found
