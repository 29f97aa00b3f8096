"""Which of the 16,384 slots of a Redis Cluster a key belongs to, and a hash tag for each slot. No I/O.

Source of the rule: Redis Cluster specification, "Key distribution model" and "Hash tags": CRC16 (XMODEM) modulo 16384,
of what stands between the first ``{`` and the next ``}`` when that is not empty, else of the whole key.
"""

from __future__ import annotations

import functools
from binascii import crc_hqx
from itertools import count, product
from typing import Final

SLOTS: Final = 16384

_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"


def slot_of(key: bytes) -> int:
    """The slot of a key."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


@functools.cache
def tags() -> tuple[bytes, ...]:
    """For each slot the first text that belongs to it, in the order 0, 1 … z, 00, 01 …: names of keys are made of
    these, so the order must never change.
    """
    found: dict[int, bytes] = {}
    for size in count(1):
        for digits in product(_DIGITS, repeat=size):
            text = bytes(digits)
            found.setdefault(crc_hqx(text, 0) & (SLOTS - 1), text)
            if len(found) == SLOTS:
                return tuple(found[slot] for slot in range(SLOTS))
    raise AssertionError("not reached")


def slot_tag(slot: int) -> bytes:
    """A hash tag (without braces) that puts a key into ``slot``; at most four characters, the same for ever."""
    return tags()[slot]
