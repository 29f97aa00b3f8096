"""The commutative rule: concurrent writes that may come in any order are no conflict. No I/O.

Integer INCR-likes of one key; SADD and PFADD among themselves; HINCRBY of whatever fields; HSET of different fields.
Not INCRBYFLOAT (it arrives as SET), not ZINCRBY (the order changes the 17th digit), not SADD against SREM: whatever is
not named here agrees with nothing.
"""

from __future__ import annotations

from typing import Final

from canal.resp import parse
from sync.homes import Place
from sync.window import places_written

Atoms = frozenset[tuple[str, bytes]] | None
"""What writes of one key were, by kind and field; None: something else."""

_ADDS: Final = {
    b"INCR": "n",
    b"DECR": "n",
    b"INCRBY": "n",
    b"DECRBY": "n",
    b"SADD": "s",
    b"PFADD": "p",
}


def atoms(argv: list[bytes]) -> Atoms:
    """What kind of write this is."""
    name = argv[0].upper()
    kind = _ADDS.get(name)
    if kind is not None:
        return frozenset({(kind, b"")})
    if name == b"HINCRBY" and len(argv) == 4:
        return frozenset({("hi", argv[2])})
    if name in (b"HSET", b"HMSET"):
        return frozenset(("hs", one) for one in argv[2::2])
    return None


def agree(mine: Atoms, theirs: Atoms) -> bool:
    """May these come in any order?"""
    if mine is None or theirs is None:
        return False
    kinds = {kind for kind, _ in mine | theirs}
    if len(kinds) == 1 and kinds <= {"n", "s", "p", "hi"}:
        return True
    if not kinds <= {"hi", "hs"}:
        return False
    fields = {one for _, one in mine} & {one for _, one in theirs}
    return all(("hi", one) in mine and ("hi", one) in theirs for one in fields) and not any(
        ("hs", one) in mine | theirs for one in fields
    )


class Commuting:
    """What each datacenter's writes of each key were, since all have seen them."""

    def __init__(self) -> None:
        self._writes: dict[tuple[str, Place], list[tuple[int, Atoms]]] = {}
        self._last: dict[str, int] = {}

    def note(self, name: str, db: int, raw: bytes, end: int) -> None:
        """Commands of datacenter ``name`` that ended at ``end`` of its stream."""
        at = 0
        while at < len(raw):
            found = parse(raw, at, len(raw))
            assert found is not None
            argv, at = found
            self.command(name, db, argv, end)

    def command(self, name: str, db: int, argv: list[bytes], end: int) -> None:
        """One command."""
        said = atoms(argv)
        for place in places_written(db, argv):
            entries = self._writes.setdefault((name, place), [])
            if not entries or entries[-1] != (end, said):
                entries.append((end, said))
        self._last[name] = end

    def signatures(self, db: int, raw: bytes) -> dict[Place, Atoms]:
        """What a transaction does to each key."""
        out: dict[Place, Atoms] = {}
        at = 0
        while at < len(raw):
            found = parse(raw, at, len(raw))
            assert found is not None
            argv, at = found
            said = atoms(argv)
            for place in places_written(db, argv):
                before = out.get(place, frozenset())
                out[place] = None if before is None or said is None else before | said
        return out

    def commute(self, name: str, place: Place, limit: int, theirs: Atoms) -> bool:
        """Do all writes that ``name`` made of the key after ``limit`` agree with these?"""
        entries = self._writes.get((name, place))
        if not entries:
            return False
        return all(agree(said, theirs) for end, said in entries if end > limit)

    def expire(self, name: str, seen: int) -> None:
        """Everybody has seen what ``name`` wrote up to ``seen``."""
        if seen >= self._last.get(name, -1):
            self._writes = {key: entries for key, entries in self._writes.items() if key[0] != name}
        elif len(self._writes) > 100_000:
            for key in [key for key, entries in self._writes.items() if key[0] == name and entries[-1][0] <= seen]:
                del self._writes[key]
