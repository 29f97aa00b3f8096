"""Which arguments of a command are keys, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable

from canal.commands.keyspec import OLD, READ, WRITE, Argv, Found, find, integer
from canal.commands.table import Flag, lookup

Keys = list[tuple[int, bytes]]


def key_positions(argv: Argv) -> Found:
    """``[(index, access)]`` of every key; access is a sum of READ, WRITE and OLD. Empty for unknown commands."""
    info = lookup(argv[0])
    if info is None:
        return []
    return find(info.keys, argv) if info.finder is None else info.finder(argv)


def _with_access(argv: Argv, access: int) -> Keys:
    return [(index, argv[index]) for index, how in key_positions(argv) if how & access]


def all_keys(argv: Argv) -> Keys:
    """``[(index, key)]`` of every key the command names."""
    return [(index, argv[index]) for index, _ in key_positions(argv)]


def written_keys(argv: Argv) -> Keys:
    """``[(index, key)]`` of keys that the command changes, replaces or removes in the database it runs in.

    MOVE and COPY … DB write into another database: ``destination_db``. FLUSHALL and the like name no keys.
    """
    return _with_access(argv, WRITE)


def read_keys(argv: Argv) -> Keys:
    """``[(index, key)]`` of keys whose value flows into other keys (sources of RENAME, COPY, SUNIONSTORE …)."""
    return _with_access(argv, READ)


def needed_keys(argv: Argv) -> Keys:
    """``[(index, key)]`` of keys whose former value decides the outcome: INCR's, HSET's, SUNIONSTORE's sources."""
    return _with_access(argv, OLD)


def builds_on_old_value(argv: Argv) -> bool:
    """Does the outcome depend on what a key held before? INCR, HSET, EXPIRE, RENAME: yes; SET, DEL: no."""
    return any(how & OLD for _, how in key_positions(argv))


def with_keys(argv: Argv, mapping: Callable[[bytes], bytes]) -> list[bytes]:
    """A copy of ``argv`` with ``mapping`` applied to every key; other arguments are the same objects."""
    out = list(argv)
    for index, _ in key_positions(argv):
        out[index] = mapping(out[index])
    return out


def destination_db(argv: Argv) -> int | None:
    """The other database that MOVE key db or COPY src dst DB db writes into; None for everything else."""
    at = destination_db_index(argv)
    return None if at is None else integer(argv[at])


def destination_db_index(argv: Argv) -> int | None:
    """Where in ``argv`` that database number stands, or None."""
    info = lookup(argv[0])
    if info is None:
        return None
    if info.name == b"MOVE":
        return 2 if len(argv) == 3 else None
    if info.name == b"COPY":
        for index in range(3, len(argv) - 1):
            if argv[index].upper() == b"DB":
                return index + 1
    return None


def written_in(db: int, argv: Argv) -> list[tuple[int, bytes]]:
    """``[(database, key)]`` of everything written by ``argv`` when it runs in ``db``."""
    other = destination_db(argv)
    written = written_keys(argv)
    if other is None:
        return [(db, key) for _, key in written]
    if argv[0].upper() == b"MOVE":
        return [place for _, key in written for place in ((db, key), (other, key))]
    return [(other, key) for _, key in written]


def is_write(argv: Argv) -> bool:
    """Does the command change data? Unknown commands count as writes: the stream holds nothing else by intent."""
    info = lookup(argv[0])
    return info is None or bool(info.flags & Flag.WRITE)
