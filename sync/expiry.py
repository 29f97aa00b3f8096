"""Two ways: expiry deletes must not take away what the other side has just refreshed.

A server that expires a key puts a bare DEL or UNLINK into its stream (Redis `deleteExpiredKeyAndPropagate`); nothing
tells it from a user's. Forwarded as it is, it deletes the value that the other side wrote anew (measured: 200 of 200).
Dropped, it leaves the other side with the old value when the next command builds on nothing. So it is sent as a
*conditional delete*: delete if your deadline for this key is the one that passed here.

What passed here is known from tracking the deadlines in the stream, own writes and tagged ones alike, and in the
snapshot. A deadline is *sure* when the key's last overwrite was seen (SET … PXAT); where the key may have been emptied
and made again without being looked at, it is *unsure*, and then a copy without any deadline is deleted too. A DEL of a
key without a deadline that has passed is a user's, and unconditional.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Final

from sync.conditional import DELETE_IF

_TABLES: Final = 256
_MASK: Final = (1 << 64) - 1
SLACK_MS: Final = 2
EARLY_MS: Final = 1000
"""A delete that seems to come so much before the deadline may be the expiry's: the source's clock is known no better
than the way there and back is long, and the journal keeps the time of a group of chunks. Nothing is lost by a condition
on a user's delete: a copy with the same deadline goes.
"""
_PURGE_MS: Final = 60_000
_MOST_MET: Final = 200_000


class Deadlines:
    """Deadlines by key: 16 bytes a slot in 256 open-addressed tables, 24 to 36 bytes a key.

    64-bit hashes stand for keys; that two keys share one is as likely as in `sync.keyset`, and would only make one
    delete conditional. At most ``max_keys`` are kept; new ones are not tracked but counted in ``untracked``:
    their deletes go unconditionally, so that a user's DEL is never left out.
    """

    def __init__(self, max_keys: int = 10_000_000) -> None:
        self.max_keys = max_keys
        self.untracked = 0
        self.stale_before = 0  # unix ms: deadlines before that make room for others
        self._purged = 0  # up to when, in the turn that is under way
        self._turn = 0  # the table that is next
        self._count = 0
        self._hashes = [array("Q", bytes(8 * 8)) for _ in range(_TABLES)]
        self._times = [array("q", bytes(8 * 8)) for _ in range(_TABLES)]
        self._used = [0] * _TABLES

    def __len__(self) -> int:
        return self._count

    def get(self, place: tuple[int, bytes]) -> int:
        """The deadline in unix ms, negative when unsure; 0 when none is known."""
        value = (hash(place) & _MASK) or 1
        table = value >> 56
        hashes = self._hashes[table]
        size = len(hashes)
        index = value % size
        while (found := hashes[index]) != 0:
            if found == value:
                return self._times[table][index]
            index = index + 1 if index + 1 < size else 0
        return 0

    def set(self, place: tuple[int, bytes], deadline: int) -> None:
        """Remember a deadline (negative: unsure); 0 forgets it."""
        value = (hash(place) & _MASK) or 1
        table = value >> 56
        hashes, times = self._hashes[table], self._times[table]
        size = len(hashes)
        index = value % size
        while (found := hashes[index]) != 0:
            if found == value:
                self._count += (deadline != 0) - (times[index] != 0)
                times[index] = deadline
                return
            index = index + 1 if index + 1 < size else 0
        if deadline == 0:
            return
        if self._count >= self.max_keys:
            if self._made_room():
                self.set(place, deadline)
            else:
                self.untracked += 1
            return
        hashes[index], times[index] = value, deadline
        self._count += 1
        self._used[table] += 1
        if self._used[table] * 3 > size * 2:
            self._rebuild(table)

    def _rebuild(self, table: int) -> None:
        """Leave out what was forgotten or is stale, and grow by half where that is not enough."""
        known = [(h, t) for h, t in zip(self._hashes[table], self._times[table], strict=True) if h and t]
        kept = [(h, t) for h, t in known if abs(t) >= self.stale_before]
        self._count -= len(known) - len(kept)
        size = max(8, len(kept) * 9 // 4)
        hashes, times = array("Q", bytes(8 * size)), array("q", bytes(8 * size))
        for value, deadline in kept:
            index = value % size
            while hashes[index]:
                index = index + 1 if index + 1 < size else 0
            hashes[index], times[index] = value, deadline
        self._hashes[table], self._times[table], self._used[table] = hashes, times, len(kept)

    def _made_room(self) -> bool:
        """Leave stale ones out of the table whose turn it is; all have theirs once for each minute that passes."""
        if self._turn == 0:
            if self.stale_before < self._purged + _PURGE_MS:
                return False
            self._purged = self.stale_before
        self._rebuild(self._turn)
        self._turn = (self._turn + 1) % _TABLES
        return self._count < self.max_keys

    @property
    def nbytes(self) -> int:
        """Memory of the tables in bytes."""
        return sum(len(one) * 16 for one in self._hashes)


LOOKED_AT: Final = frozenset(
    {
        b"DEL",
        b"UNLINK",
        b"PEXPIREAT",
        b"EXPIREAT",
        b"PERSIST",
        b"SET",
        b"RENAME",
        b"RENAMENX",
        b"COPY",
        b"MOVE",
        b"RESTORE",
    }
)
"""Commands that a two-way link cannot pass over without a look."""


class ExpiryRule:
    """Judges deletes. ``offset_ms``: the source's clock minus ours, for telling what had passed there. ``held``: the
    hash of `sync.held`, empty where there is none.
    """

    def __init__(self, deadlines: Deadlines, held: bytes = b"") -> None:
        self.deadlines = deadlines
        self.held = held
        self.offset_ms = 0
        self.conditional = 0  # deletes sent with a condition
        self._met: dict[tuple[int, tuple[int, bytes]], int] = {}  # (end, place) of deletes → the deadline at that time

    def begin_anew(self) -> None:
        """What follows is another stream than before."""
        self._met.clear()

    def observe(self, db: int, argv: list[bytes]) -> None:
        """Follow what a command (with absolute times) does to deadlines."""
        name = argv[0].upper()
        if name in LOOKED_AT:
            for place, deadline in self._effects(name, db, argv):
                self.deadlines.set(place, deadline)

    def _effects(self, name: bytes, db: int, argv: list[bytes]) -> Iterator[tuple[tuple[int, bytes], int]]:
        key = argv[1] if len(argv) > 1 else b""
        if name in (b"DEL", b"UNLINK"):
            yield from (((db, one), 0) for one in argv[1:])
        elif name == b"SET":
            deadline = _option(argv, 3)
            if deadline or not any(word.upper() == b"KEEPTTL" for word in argv[3:]):
                yield (db, key), deadline
        elif name in (b"PEXPIREAT", b"EXPIREAT") and len(argv) > 2 and argv[2].isdigit():
            deadline = int(argv[2]) * (1 if name == b"PEXPIREAT" else 1000)
            yield (db, key), deadline if self.deadlines.get((db, key)) > 0 else -deadline
        elif name == b"PERSIST":
            yield (db, key), 0
        elif name == b"RESTORE":
            absolute = any(word.upper() == b"ABSTTL" for word in argv[4:])
            yield (db, key), -int(argv[2]) if absolute and argv[2].isdigit() else 0
        elif name in (b"RENAME", b"RENAMENX") and len(argv) == 3:
            yield (db, argv[2]), -abs(self.deadlines.get((db, key)))
            yield (db, key), 0
        elif name == b"COPY" and len(argv) == 3:
            yield (db, argv[2]), -abs(self.deadlines.get((db, key)))
        elif name == b"MOVE" and len(argv) == 3 and argv[2].isdigit():
            yield (int(argv[2]), key), -abs(self.deadlines.get((db, key)))
            yield (db, key), 0

    def passed(self, place: tuple[int, bytes], received_ms: int, end: int) -> bool:
        """Had this key's deadline, as far as it is known, passed at the source when this delete, which ends at ``end``
        of the stream, was sent?
        """
        deadline = self._at(place, end)
        return deadline != 0 and abs(deadline) <= received_ms + self.offset_ms + EARLY_MS

    def _at(self, place: tuple[int, bytes], end: int) -> int:
        """The deadline as it was known where a delete ends. A session that begins anew reads again what the last one
        had read, and by then the table knows of what comes later in the stream.
        """
        return self._met.get((end, place)) or self.deadlines.get(place)

    def judge(self, db: int, argv: list[bytes], received_ms: int, end: int) -> list[list[bytes]] | None:
        """What to send for a DEL or UNLINK that ends at ``end`` of the stream: conditional deletes for keys whose
        deadline had passed at the source.

        None: as it is.
        """
        now = received_ms + self.offset_ms + EARLY_MS
        passed = []
        for key in argv[1:]:
            deadline = self._at((db, key), end)
            if not deadline:
                continue
            self._met[(end, (db, key))] = deadline
            if abs(deadline) <= now:
                passed.append((key, deadline))
        if len(self._met) > _MOST_MET:
            self._met = dict(islice(self._met.items(), _MOST_MET // 2, None))
        if not passed:
            return None
        self.conditional += len(passed)
        out = [
            [
                b"EVAL",
                DELETE_IF,
                b"1",
                key,
                b"%d" % (abs(deadline) + SLACK_MS),
                b"1" if deadline > 0 else b"0",
                self.held,
            ]
            for key, deadline in passed
        ]
        gone = {key for key, _ in passed}
        rest = [key for key in argv[1:] if key not in gone]
        return [*([[argv[0], *rest]] if rest else []), *out]


def _option(argv: list[bytes], start: int) -> int:
    """The absolute deadline in SET's options, 0 when there is none."""
    for index in range(start, len(argv) - 1):
        word = argv[index].upper()
        if word in (b"PXAT", b"EXAT") and argv[index + 1].isdigit():
            return int(argv[index + 1]) * (1 if word == b"PXAT" else 1000)
    return 0


__all__ = ["LOOKED_AT", "Deadlines", "ExpiryRule"]
