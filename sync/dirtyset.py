"""The keys that one side wrote since the other has last seen its writes: 8 bytes each, the same in every process.

`sync.keyset` hashes anew in each process; these sets are kept on disk and shown to the link back, at the other side. No
I/O.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, Literal

from sync.homes import Place

Winner = Literal["first", "second"]

HASH_BYTES: Final = 8
_BUCKETS: Final = 256
_FRESH: Final = 65_536
_FEW: Final = 16


def key_hash(db: int, key: bytes) -> int:
    """The hash of a key: BLAKE2b of ``<db> <key>``, 8 bytes, big-endian."""
    return int.from_bytes(blake2b(b"%d %b" % (db, key), digest_size=HASH_BYTES).digest())


class DirtySet:
    """A set of (database, key) that only grows. At most ``max_keys``: beyond that it is `over`, and says nothing.

    That two keys share a hash is as good as impossible (2 million keys: one chance in 10^13 for a key that is asked
    about), and makes a key that one side wrote one that both did.
    """

    def __init__(self, max_keys: int = 2_000_000) -> None:
        self.max_keys = max_keys
        self._buckets = [array("Q") for _ in range(_BUCKETS)]  # by the top byte; sorted
        self._count = 0
        self._fresh: set[int] = set()
        self._untold = array("Q")  # taken up since `take_new`

    def add_keys(self, db: int, keys: Iterable[bytes]) -> None:
        """Add keys of one database."""
        prefix = b"%d " % db
        number = int.from_bytes
        self._fresh.update(
            [number(blake2b(prefix + key, digest_size=HASH_BYTES).digest()) for key in dict.fromkeys(keys)]
        )
        if len(self._fresh) > _FRESH:
            self._take_up()

    def add(self, place: Place) -> None:
        """Add one key."""
        self._fresh.add(key_hash(*place))
        if len(self._fresh) > _FRESH:
            self._take_up()

    @property
    def over(self) -> bool:
        """Were there more keys than may be known?"""
        return self._count > self.max_keys

    def __len__(self) -> int:
        self._take_up()
        return self._count

    def __contains__(self, place: Place) -> bool:
        value = key_hash(*place)
        return value in self._fresh or self._has(value)

    def _has(self, value: int) -> bool:
        bucket = self._buckets[value >> 56]
        index = bisect_left(bucket, value)
        return index < len(bucket) and bucket[index] == value

    def _take_up(self) -> None:
        """Into the sorted arrays, one hash at a time where they are few, for those are large."""
        fresh, self._fresh = self._fresh, set()
        new = sorted(value for value in fresh if not self._has(value))
        self._untold.extend(new)
        self._count += len(new)
        at = 0
        while at < len(new):
            number = new[at] >> 56
            upto = bisect_left(new, (number + 1) << 56, at)
            bucket = self._buckets[number]
            if (upto - at) * _FEW > len(bucket):
                self._buckets[number] = array("Q", sorted([*bucket, *new[at:upto]]))
            else:
                for value in new[at:upto]:
                    insort(bucket, value)
            at = upto

    # --- on the disk, and at the other side

    def take_new(self) -> bytes:
        """Hashes added since this was called last, 8 bytes little-endian each."""
        self._take_up()
        new, self._untold = self._untold, array("Q")
        return _little(new)

    def packed(self) -> bytes:
        """All hashes, in order."""
        self._take_up()
        whole = array("Q")
        for bucket in self._buckets:
            whole.extend(bucket)
        return _little(whole)

    def take_packed(self, data: bytes | bytearray) -> None:
        """Take up what `packed` or `take_new` gave; it is not told again by `take_new`. Raises ValueError."""
        found = array("Q")
        found.frombytes(data)
        if sys.byteorder == "big":
            found.byteswap()
        if self._count or self._fresh or not self._take_sorted(found):
            for start in range(0, len(found), _FRESH):
                self._fresh.update(found[start : start + _FRESH])
                self._take_up()
                self._untold = array("Q")

    def _take_sorted(self, found: array[int]) -> bool:
        """Of a set that is empty, all at once. False, and nothing taken, where they are not in order."""
        buckets, at = [], 0
        for number in range(_BUCKETS):
            upto = bisect_left(found, (number + 1) << 56, at)
            values = found[at:upto].tolist()
            if values and (values != sorted(set(values)) or values[0] >> 56 != number or values[-1] >> 56 != number):
                return False
            buckets.append(found[at:upto])
            at = upto
        self._buckets, self._count = buckets, len(found)
        return True


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def winner(first: bool, second: bool, home: Winner, missing: bool | None) -> Winner:
    """Whose state of a key stays, its absence too. ``first``, ``second``: was it written on that side?

    ``missing``: it is at the first side alone (True), at the second alone (False), or at both (None). Written on one
    side alone: that side's. On both: the home's. On neither, though it differs: absence deletes nothing, and of two
    states the home's stays.
    """
    if first != second:
        return "first" if first else "second"
    if first or missing is None:
        return home
    return "first" if missing else "second"
