"""Which commands of a transaction change nothing in the end: their key is overwritten or deleted later in it. No I/O.

This file is the reference as plain Python; the same file is compiled by mypyc when the package is built with a C
compiler at hand, and nothing but speed may differ.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from canal.commands.table import COMMANDS, Flag

WRITES: Final = 1  # one key, its first argument, and nothing else in the keyspace
SETS: Final = 2  # SET: overwrites the key whatever stood there, unless options say otherwise
DELETES: Final = 3  # DEL, UNLINK: all arguments are keys
PAIRS: Final = 4  # MSET


def _kinds() -> dict[bytes, int]:
    """By name, in upper and in lower case; what is not in it may read or write any key."""
    found: dict[bytes, int] = {}
    for info in COMMANDS:
        one = [(spec.first, spec.last, spec.count_at) for spec in info.keys] == [(1, 1, 0)] and info.name != b"MOVE"
        left_out = info.flags & (Flag.OPAQUE | Flag.NOSCRIPT | Flag.ALLKEYS | Flag.CONTROL) or info.type == "module"
        if one and not left_out:
            found[info.name] = WRITES
    found |= {b"RESTORE": WRITES, b"SET": SETS, b"MSET": PAIRS, b"DEL": DELETES, b"UNLINK": DELETES}
    return found | {name.lower(): kind for name, kind in found.items()}


KINDS: Final = _kinds()


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def overwrites(argv: list[bytes]) -> bool:
    """Whether this SET leaves nothing of what stood there, and cannot fail: it has no options, or a deadline only."""
    if len(argv) == 3:
        return True
    return len(argv) == 5 and argv[3].upper() == b"PXAT" and argv[4].isdigit() and argv[4].strip(b"0") != b""


def words(raw: bytes, start: int) -> list[bytes]:
    """The arguments of the sound, whole command at ``start``."""
    at: i64 = start + 1
    left: i64 = 0
    while raw[at] != 13:
        left = left * 10 + (raw[at] - 48)
        at += 1
    at += 2
    argv: list[bytes] = []
    while left > 0:
        at += 1
        size: i64 = 0
        while raw[at] != 13:
            size = size * 10 + (raw[at] - 48)
            at += 1
        at += 2
        argv.append(raw[int(at) : int(at + size)])
        at += size + 2
        left -= 1
    return argv


def starts_of(raw: bytes) -> list[int]:
    """Where each of the sound, whole commands begins."""
    starts: list[int] = []
    at: i64 = 0
    last: i64 = len(raw)
    while at < last:
        starts.append(int(at))
        at += 1
        left: i64 = 0
        while raw[at] != 13:
            left = left * 10 + (raw[at] - 48)
            at += 1
        at += 2
        while left > 0:
            at += 1
            size: i64 = 0
            while raw[at] != 13:
                size = size * 10 + (raw[at] - 48)
                at += 1
            at += size + 4
            left -= 1
    return starts


def needless(raw: bytes, db: int, doomed: dict[int, set[bytes]]) -> tuple[bytes, list[int]]:
    """``raw``, commands of database ``db``, without those that the commands after it make void; and which were kept.

    To be called for the pieces of a transaction from its last to its first: ``doomed`` holds, by database, the keys
    that what comes after overwrites or deletes before anything looks at them, and is brought forward to before ``raw``.
    A command is left out only if it writes to nothing but such a key. Whatever might look at other keys than its first
    argument empties ``doomed``.
    """
    starts = starts_of(raw)
    kept: list[int] = []
    parts: list[bytes] = []
    void = doomed.setdefault(db, set())
    after = len(raw)
    number = len(starts) - 1
    whole = after  # what is kept is contiguous up to here
    while number >= 0:
        start = starts[number]
        argv = words(raw, start)
        kind = KINDS.get(argv[0], 0)
        if kind == 0:
            kind = KINDS.get(argv[0].upper(), 0)
        keep = True
        if kind == WRITES and len(argv) > 1:
            keep = argv[1] not in void
        elif kind == SETS and len(argv) > 2:
            if argv[1] in void:
                keep = False
            elif overwrites(argv):
                void.add(argv[1])
        elif (kind == DELETES and len(argv) > 1) or (kind == PAIRS and len(argv) > 2 and len(argv) % 2 == 1):
            keys = argv[1:] if kind == DELETES else argv[1::2]
            keep = False
            for key in keys:
                if key not in void:
                    keep = True
                    break
            if keep:
                void.update(keys)
        else:
            for one in doomed.values():
                one.clear()
        if keep:
            kept.append(number)
        else:
            if whole > after:
                parts.append(raw[after:whole])
            whole = start
        after = start
        number -= 1
    if len(kept) == len(starts):
        return raw, kept[::-1]
    if whole > after:
        parts.append(raw[after:whole])
    parts.reverse()
    return b"".join(parts), kept[::-1]
