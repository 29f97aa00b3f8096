"""Commands with several keys where a filter carries some of them and not others. No I/O.

What a part of the command means by itself is sent; what would need a value that the target does not have is impossible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.commands import WRITE, Argv, destination_db_index, integer, key_positions
from sync.placing import DATABASE, Placing
from sync.rules import Adjusted, Dropped, Impossible

Command = list[bytes]
_RENAME_OR_DELETE: Final = b"""\
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('RENAME', KEYS[1], KEYS[2]) end
return redis.call('DEL', KEYS[2])"""


class Carried:
    """What the splitters are told: the mapping of keys, and whom to tell of keys that are left out."""

    def __init__(self, placing: Placing, on_filtered: Callable[[str], None]) -> None:
        self.placing = placing
        self.on_filtered = on_filtered

    def send(self, db: int, argv: Command, out: Command) -> Adjusted:
        """``out`` in the place of database ``db``; the same object where nothing changed."""
        return [(self.placing.database(db), argv if out == argv else out)]

    def moved_untyped(self, name: bytes, db: int, argv: Command) -> Adjusted:
        """RENAME and COPY where types are filtered: a source that is not there had a filtered type.

        The destination then holds that type at the source, so that it is removed here.
        """
        result = SPLITTERS[name](self, db, argv)
        if not isinstance(result, list) or result[0][1][0].upper() != name:
            return result
        to_db, out = result[0]
        if name != b"COPY":
            return [(to_db, [b"EVAL", _RENAME_OR_DELETE, b"2", out[1], out[2]])]
        at = destination_db_index(out)
        other = to_db if at is None else integer(out[at])
        replacing = out if b"REPLACE" in [word.upper() for word in out[3:]] else [*out, b"REPLACE"]
        return [(to_db if other is None else other, [b"DEL", out[2]]), (to_db, replacing)]


def _impossible(argv: Command, why: str) -> Impossible:
    return Impossible(f"{argv[0].decode('ascii', 'replace')}: {why}")


def mapped(carried: Carried, db: int, argv: Command, positions: list[tuple[int, int]]) -> Adjusted:
    """A command that cannot be split: carried with all its keys, or filtered when it writes none that is carried."""
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    out = list(argv)
    lost_read = lost_write = ""
    written = False
    for index, access in positions:
        name = carried.placing.name(argv[index])
        if isinstance(name, str):
            if access & WRITE:
                lost_write = lost_write or name
            else:
                lost_read = lost_read or name
        else:
            out[index] = name
            written = written or bool(access & WRITE)
    if not written and (lost_write or lost_read):
        return Dropped(lost_write or lost_read)
    if lost_write:
        return _impossible(argv, "it writes keys that are carried and keys that are not")
    if lost_read:
        return _impossible(argv, "it makes a key that is carried from keys that are not")
    return carried.send(db, argv, out)


def _whole(carried: Carried, db: int, argv: Command) -> Adjusted:
    return mapped(carried, db, argv, key_positions(argv))


def _some(carried: Carried, argv: Command, start: int, end: int, step: int) -> Command:
    """The carried groups of ``step`` arguments in argv[start:end], each beginning with a key."""
    kept: Command = []
    for index in range(start, end, step):
        name = carried.placing.name(argv[index])
        if isinstance(name, str):
            carried.on_filtered(name)
        else:
            kept += [name, *argv[index + 1 : index + step]]
    return kept


def _each_key(carried: Carried, db: int, argv: Command) -> Adjusted:
    """DEL, UNLINK, TOUCH key … and MSET, MSETNX key value …"""
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    step = 2 if argv[0].upper() in (b"MSET", b"MSETNX") else 1
    whole = _all_or_none(carried, argv[1::step])
    if whole:
        return Dropped(whole)
    kept = _some(carried, argv, 1, len(argv), step)
    return carried.send(db, argv, [argv[0], *kept])


def _all_or_none(carried: Carried, keys: Argv) -> str:
    """Why none of these keys is carried (the first one's reason); empty when one is."""
    first = ""
    for key in keys:
        name = carried.placing.name(key)
        if not isinstance(name, str):
            return ""
        first = first or name
    return first


def _msetex(carried: Carried, db: int, argv: Command) -> Adjusted:
    """MSETEX numkeys key value … options"""
    count = integer(argv[1]) if len(argv) > 1 else None
    if count is None or count <= 0 or len(argv) < 2 + 2 * count:
        return _impossible(argv, "its keys cannot be told")
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    end = 2 + 2 * count
    whole = _all_or_none(carried, argv[2:end:2])
    if whole:
        return Dropped(whole)
    kept = _some(carried, argv, 2, end, 2)
    return carried.send(db, argv, [argv[0], b"%d" % (len(kept) // 2), *kept, *argv[end:]])


def _pfcount(carried: Carried, db: int, argv: Command) -> Adjusted:
    """PFCOUNT key …: it renews a cached number in the value; nobody misses it."""
    result = _whole(carried, db, argv)
    return Dropped(_all_or_first(carried, argv)) if isinstance(result, Impossible) else result


def _all_or_first(carried: Carried, argv: Command) -> str:
    for key in argv[1:]:
        name = carried.placing.name(key)
        if isinstance(name, str):
            return name
    return ""


def _rename(carried: Carried, db: int, argv: Command) -> Adjusted:
    """RENAME, RENAMENX src dst: out of what is carried it is a deletion; into it, the value is not known."""
    if len(argv) != 3:
        return _impossible(argv, "its keys cannot be told")
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    source, destination = carried.placing.name(argv[1]), carried.placing.name(argv[2])
    if isinstance(destination, str):
        if isinstance(source, str):
            return Dropped(source)
        carried.on_filtered(destination)
        return carried.send(db, argv, [b"DEL", source])
    if isinstance(source, str):
        return _impossible(argv, "it makes a key that is carried from a key that is not")
    return carried.send(db, argv, [argv[0], source, destination])


def _copy(carried: Carried, db: int, argv: Command) -> Adjusted:
    """COPY src dst [DB n] [REPLACE]"""
    at = destination_db_index(argv)
    other = db if at is None else integer(argv[at])
    if len(argv) < 3 or other is None:
        return _impossible(argv, "its keys cannot be told")
    destination = carried.placing.place(other, argv[2])
    if isinstance(destination, str):
        return Dropped(destination)
    source = carried.placing.place(db, argv[1])
    if isinstance(source, str):
        return _impossible(argv, "it makes a key that is carried from a key that is not")
    out = [argv[0], source[1], destination[1], *argv[3:]]
    if at is not None:
        out[at] = b"%d" % destination[0]
    return carried.send(db, argv, out)


def _move(carried: Carried, db: int, argv: Command) -> Adjusted:
    """MOVE key db"""
    other = integer(argv[2]) if len(argv) == 3 else None
    if other is None:
        return _impossible(argv, "its database cannot be told")
    name = carried.placing.name(argv[1])
    if isinstance(name, str):
        return Dropped(name)
    if not carried.placing.carries(other):
        if not carried.placing.carries(db):
            return Dropped(DATABASE)
        carried.on_filtered(DATABASE)
        return carried.send(db, argv, [b"DEL", name])
    if not carried.placing.carries(db):
        return _impossible(argv, "the key comes from a database that is not carried")
    return carried.send(db, argv, [argv[0], name, b"%d" % carried.placing.database(other)])


def _smove(carried: Carried, db: int, argv: Command) -> Adjusted:
    """SMOVE src dst member: it succeeded, so each half is known."""
    if len(argv) != 4:
        return _impossible(argv, "its keys cannot be told")
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    source, destination = carried.placing.name(argv[1]), carried.placing.name(argv[2])
    if isinstance(source, str):
        if isinstance(destination, str):
            return Dropped(source)
        carried.on_filtered(source)
        return carried.send(db, argv, [b"SADD", destination, argv[3]])
    if isinstance(destination, str):
        carried.on_filtered(destination)
        return carried.send(db, argv, [b"SREM", source, argv[3]])
    return carried.send(db, argv, [argv[0], source, destination, argv[3]])


def _lmove(carried: Carried, db: int, argv: Command) -> Adjusted:
    """RPOPLPUSH src dst, LMOVE src dst LEFT|RIGHT …: out of what is carried it is a pop."""
    if len(argv) < 3:
        return _impossible(argv, "its keys cannot be told")
    if not carried.placing.carries(db):
        return Dropped(DATABASE)
    source, destination = carried.placing.name(argv[1]), carried.placing.name(argv[2])
    if isinstance(source, str):
        if isinstance(destination, str):
            return Dropped(source)
        return _impossible(argv, "it moves an element of a key that is not carried into one that is")
    if isinstance(destination, str):
        carried.on_filtered(destination)
        left = len(argv) > 3 and argv[3].upper() == b"LEFT"
        return carried.send(db, argv, [b"LPOP" if left else b"RPOP", source])
    return carried.send(db, argv, [argv[0], source, destination, *argv[3:]])


def _sort(carried: Carried, db: int, argv: Command) -> Adjusted:
    """SORT … STORE: BY and GET read keys by pattern, which no filter by key can judge."""
    if not carried.placing.whole_databases:
        for index in range(2, len(argv) - 1):
            pattern = argv[index + 1]
            if argv[index].upper() in (b"BY", b"GET") and b"*" in pattern:
                return _impossible(argv, "BY and GET read keys by pattern, which cannot be filtered by key")
    return _whole(carried, db, argv)


def _script(carried: Carried, db: int, argv: Command) -> Adjusted:
    """EVAL, EVALSHA, FCALL: by the keys they declare. A script without keys may write any."""
    positions = key_positions(argv)
    if not positions and carried.placing.carries(db) and not carried.placing.whole_databases:
        return _impossible(argv, "it declares no keys, so that it cannot be filtered by key")
    return mapped(carried, db, argv, positions)


Splitter = Callable[[Carried, int, Command], Adjusted]

SPLITTERS: Final[dict[bytes, Splitter]] = {
    b"DEL": _each_key,
    b"UNLINK": _each_key,
    b"TOUCH": _each_key,
    b"MSET": _each_key,
    b"MSETNX": _each_key,
    b"MSETEX": _msetex,
    b"PFCOUNT": _pfcount,
    b"RENAME": _rename,
    b"RENAMENX": _rename,
    b"COPY": _copy,
    b"MOVE": _move,
    b"SMOVE": _smove,
    b"RPOPLPUSH": _lmove,
    b"LMOVE": _lmove,
    b"SORT": _sort,
    b"EVAL": _script,
    b"EVALSHA": _script,
    b"FCALL": _script,
}
"""Commands that are not simply carried or not: upper-case name → what becomes of them."""
