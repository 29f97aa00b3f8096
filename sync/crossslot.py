"""Commands whose keys lie in several slots of a cluster target. No I/O.

What means the same key by key is split. What does not (RENAME, SMOVE, the STORE commands, BITOP, COPY …) is done by its
meaning: the keys that it wrote are passed over in the stream and fetched from the source as they are at an exact offset
(`sync.refetch`). What names no keys that can be fetched, a script of an old source over several slots, is impossible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.cluster import slot_of
from canal.commands import all_keys, integer, written_in
from sync.refetch import PASSED_OVER, Refetch
from sync.rules import Adjusted, Dropped, Impossible, Rules
from sync.target.cluster.lanes import SINGLE

Command = list[bytes]


def govern(rules: Rules, refetch: Refetch, fetched: Callable[[], None]) -> None:
    """Put this rule behind those of ``rules`` and before `Refetch`'s. ``fetched`` is called for each command whose keys
    are fetched in its place.
    """
    inner = rules.adjust
    rules.plain = {name: wanted for name, count in rules.plain.items() if (wanted := _alone(name, count)) >= 0}

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        result = inner(db, argv, received_ms, end)
        if not isinstance(result, list):
            return result
        out: list[tuple[int, list[bytes]]] = []
        for to_db, command in result:
            if in_one_slot(command):
                out.append((to_db, command))
                continue
            parts = split(command)
            if parts is not None:
                out += [(to_db, part) for part in parts]
                continue
            places = list(written_in(db, argv))
            if not places or argv[0].upper() in (b"EVAL", b"EVALSHA", b"FCALL"):
                return Impossible("its keys lie in several slots of the target cluster")
            fetched()
            out += refetch.add(places)
        return out or Dropped(PASSED_OVER)

    rules.adjust = adjust


def _alone(name: bytes, count: int) -> int:
    """The argument count with which a command has one key, its first argument; 0 any, -1 never."""
    wanted = SINGLE.get(name, -1)
    if wanted == 0 or count == 0:
        return max(count, wanted) if wanted >= 0 else -1
    return wanted if wanted == count else -1


def in_one_slot(argv: Command) -> bool:
    """All keys of the command are in one slot, or it has none."""
    keys = all_keys(argv)
    if len(keys) < 2:
        return True
    first = slot_of(keys[0][1])
    return all(slot_of(key) == first for _, key in keys[1:])


def split(argv: Command) -> list[Command] | None:
    """The same, key by key; None where that means something else."""
    splitter = _SPLITTERS.get(argv[0].upper())
    return None if splitter is None else splitter(argv)


def _each(argv: Command) -> list[Command]:
    return [[argv[0], key] for key in argv[1:]]


def _pairs(argv: Command) -> list[Command]:
    """MSETNX stands in a stream where it succeeded: all keys were set."""
    return [[b"SET", argv[index], argv[index + 1]] for index in range(1, len(argv) - 1, 2)]


def _msetex(argv: Command) -> list[Command] | None:
    """MSETEX numkeys key value … options"""
    count = integer(argv[1])
    if count is None or count < 1 or len(argv) < 2 + 2 * count:
        return None
    options = [word for word in argv[2 + 2 * count :] if word.upper() not in (b"NX", b"XX")]
    return [[argv[0], b"1", argv[2 + 2 * i], argv[3 + 2 * i], *options] for i in range(count)]


def _triples(name: bytes) -> Callable[[Command], list[Command]]:
    return lambda argv: [[name, *argv[index : index + 3]] for index in range(1, len(argv) - 2, 3)]


_SPLITTERS: Final[dict[bytes, Callable[[Command], list[Command] | None]]] = {
    b"DEL": _each,
    b"UNLINK": _each,
    b"TOUCH": _each,
    b"MSET": _pairs,
    b"MSETNX": _pairs,
    b"MSETEX": _msetex,
    b"JSON.MSET": _triples(b"JSON.SET"),
    b"TS.MADD": _triples(b"TS.ADD"),
}
