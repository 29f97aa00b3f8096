"""Newer commands in words that an older target knows: keys, lists, sets, sorted sets, strings.

Each rule here is registered (table.py) only for targets that need it.
"""

from __future__ import annotations

from typing import Final

from canal.commands import integer
from sync.rewrite.rules import (
    NO_CHANGE,
    NO_SHARDED_PUBSUB,
    SCRIPT_FLUSH,
    Command,
    Context,
    Result,
    number,
)
from sync.rewrite.scripts import COPY, LMOVE, ZADD_COMPARE, ZDIFFSTORE, ZRANGESTORE, script
from sync.rules import Dropped

_OLD_BITOPS: Final = frozenset({b"AND", b"OR", b"XOR", b"NOT"})


def _has(argv: Command, start: int, *words: bytes) -> bool:
    return any(argument.upper() in words for argument in argv[start:])


# --- keys ----------------------------------------------------------------------------------------------------


def unlink(argv: Command, now_ms: int, context: Context) -> Result:
    """UNLINK → DEL: unknown before 4.0; before 6.0 unlinking a stream of a newer source crashed the server."""
    return [[b"DEL", *argv[1:]]]


def copy(argv: Command, now_ms: int, context: Context) -> Result:
    """COPY src dst [DB n] [REPLACE] before 6.2. It succeeded, so that whatever the destination holds gives way."""
    if len(argv) < 3:
        return [argv]
    db = b""
    for index in range(3, len(argv) - 1):
        if argv[index].upper() == b"DB":
            db = argv[index + 1]
    return [script(COPY, argv[1:3], [db])]


def copy_unconditional(argv: Command, now_ms: int, context: Context) -> Result:
    """COPY → COPY … REPLACE."""
    return [argv] if _has(argv, 3, b"REPLACE") else [[*argv, b"REPLACE"]]


def flush(argv: Command, now_ms: int, context: Context) -> Result:
    """FLUSHALL, FLUSHDB [ASYNC|SYNC]: SYNC came with 6.2, ASYNC with 4.0."""
    kept = [word for word in argv[1:] if word.upper() != b"SYNC" and context.target.at_least((4, 0))]
    return [argv] if len(kept) == len(argv) - 1 else [[argv[0], *kept]]


def read_only(argv: Command, now_ms: int, context: Context) -> Result:
    """What changes nothing that replication carries."""
    return Dropped(NO_CHANGE)


def to_del(argv: Command, now_ms: int, context: Context) -> Result:
    """GETDEL key, DELEX key IFEQ v, DELIFEQ key v: it was deleted."""
    return [[b"DEL", argv[1]]] if len(argv) > 1 else [argv]


def script_command(argv: Command, now_ms: int, context: Context) -> Result:
    """SCRIPT LOAD is passed on, so that EVALSHA finds the script. SCRIPT FLUSH is not: others use the target too."""
    if len(argv) > 2 and argv[1].upper() == b"LOAD":
        return [argv]
    return Dropped(SCRIPT_FLUSH)


def spublish(argv: Command, now_ms: int, context: Context) -> Result:
    """SPUBLISH before 7.0: nobody can listen there."""
    return Dropped(NO_SHARDED_PUBSUB)


# --- conditions that are taken away (two-way tasks) ----------------------------------------------------------

_PLAIN_NAMES: Final = {
    b"SETNX": b"SET",
    b"MSETNX": b"MSET",
    b"HSETNX": b"HSET",
    b"RENAMENX": b"RENAME",
    b"LPUSHX": b"LPUSH",
    b"RPUSHX": b"RPUSH",
}


def unconditional_name(argv: Command, now_ms: int, context: Context) -> Result:
    """SETNX → SET and its like: it succeeded where it was made."""
    return [[_PLAIN_NAMES[argv[0].upper()], *argv[1:]]]


# --- strings -------------------------------------------------------------------------------------------------


def bitop(argv: Command, now_ms: int, context: Context) -> Result:
    """BITOP DIFF, DIFF1, ANDOR and ONE are Redis 8.2's."""
    if len(argv) > 1 and argv[1].upper() not in _OLD_BITOPS:
        return context.lacks(f"BITOP {argv[1].decode('ascii', 'replace')}")
    return [argv]


# --- lists ---------------------------------------------------------------------------------------------------


def pop_count(argv: Command, now_ms: int, context: Context) -> Result:
    """LPOP, RPOP key count → LTRIM."""
    count = integer(argv[2]) if len(argv) > 2 else None
    if count is None:
        return [argv]
    if argv[0].upper() == b"LPOP":
        return [[b"LTRIM", argv[1], number(count), b"-1"]]
    return [[b"LTRIM", argv[1], b"0", number(-count - 1)]]


def lmove(argv: Command, now_ms: int, context: Context) -> Result:
    """LMOVE src dst LEFT|RIGHT LEFT|RIGHT → RPOPLPUSH, or a script."""
    if len(argv) != 5:
        return [argv]
    pop = b"LPOP" if argv[3].upper() == b"LEFT" else b"RPOP"
    push = b"LPUSH" if argv[4].upper() == b"LEFT" else b"RPUSH"
    if pop == b"RPOP" and push == b"LPUSH":
        return [[b"RPOPLPUSH", argv[1], argv[2]]]
    return [script(LMOVE, argv[1:3], [pop, push])]


# --- sorted sets ---------------------------------------------------------------------------------------------


def zpop(argv: Command, now_ms: int, context: Context) -> Result:
    """ZPOPMIN, ZPOPMAX key [count] → ZREMRANGEBYRANK."""
    count = integer(argv[2]) if len(argv) > 2 else 1
    if count is None or count <= 0:
        return [argv]
    if argv[0].upper() == b"ZPOPMIN":
        return [[b"ZREMRANGEBYRANK", argv[1], b"0", number(count - 1)]]
    return [[b"ZREMRANGEBYRANK", argv[1], number(-count), b"-1"]]


def zadd(argv: Command, now_ms: int, context: Context) -> Result:
    """ZADD key GT|LT … before 6.2; with INCR there is no answer."""
    index, words = 2, set()
    while index < len(argv) and argv[index].upper() in (b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"):
        words.add(argv[index].upper())
        index += 1
    compare = words & {b"GT", b"LT"}
    if not compare:
        return [argv]
    if b"INCR" in words:
        return context.lacks("ZADD GT|LT INCR")
    exists = b"XX" if b"XX" in words else b""
    return [script(ZADD_COMPARE, [argv[1]], [compare.pop(), exists, *argv[index:]])]


def zrangestore(argv: Command, now_ms: int, context: Context) -> Result:
    """ZRANGESTORE dst src min max [BYSCORE|BYLEX] [REV] [LIMIT o n] by the older reading commands."""
    if len(argv) < 5:
        return [argv]
    destination, source, low, high = argv[1:5]
    options = argv[5:]
    reverse = _has(options, 0, b"REV")
    limit: Command = []
    for index in range(len(options) - 2):
        if options[index].upper() == b"LIMIT":
            limit = options[index : index + 3]
    if _has(options, 0, b"BYLEX"):
        reading = [b"ZREVRANGEBYLEX" if reverse else b"ZRANGEBYLEX", low, high, *limit]
    elif _has(options, 0, b"BYSCORE"):
        reading = [b"ZREVRANGEBYSCORE" if reverse else b"ZRANGEBYSCORE", low, high, b"WITHSCORES", *limit]
    else:
        reading = [b"ZREVRANGE" if reverse else b"ZRANGE", low, high, b"WITHSCORES"]
    scores = b"1" if b"WITHSCORES" in reading else b"0"
    return [script(ZRANGESTORE, [destination, source], [scores, *reading])]


def zdiffstore(argv: Command, now_ms: int, context: Context) -> Result:
    """ZDIFFSTORE dst numkeys key …"""
    count = integer(argv[2]) if len(argv) > 2 else None
    if count is None or count <= 0 or len(argv) != 3 + count:
        return [argv]
    return [script(ZDIFFSTORE, [argv[1], *argv[3:]], [])]


# --- geo -----------------------------------------------------------------------------------------------------


def georadius(argv: Command, now_ms: int, context: Context) -> Result:
    """GEORADIUS … COUNT n ANY: ANY came with 6.2, and what it picks cannot be foretold."""
    return context.lacks("COUNT … ANY") if _has(argv, 5, b"ANY") else [argv]


def geosearchstore(argv: Command, now_ms: int, context: Context) -> Result:
    """GEOSEARCHSTORE dst src FROM… BYRADIUS … → GEORADIUS[BYMEMBER] … STORE[DIST]; a box has no older form."""
    if len(argv) < 8:
        return [argv]
    origin: Command = []
    circle: Command = []
    rest: Command = []
    member = store_distance = False
    index = 3
    while index < len(argv):
        word = argv[index].upper()
        if word in (b"BYBOX", b"BYPOLYGON", b"ANY"):
            return context.lacks(f"GEOSEARCHSTORE {word.decode()}")
        size = _GEO_SIZES.get(word, 1)
        if word == b"FROMMEMBER":
            origin, member = argv[index + 1 : index + 2], True
        elif word == b"FROMLONLAT":
            origin = argv[index + 1 : index + 3]
        elif word == b"BYRADIUS":
            circle = argv[index + 1 : index + 3]
        elif word == b"STOREDIST":
            store_distance = True
        else:
            rest += argv[index : index + size]
        index += size
    name = b"GEORADIUSBYMEMBER" if member else b"GEORADIUS"
    return [[name, argv[2], *origin, *circle, *rest, b"STOREDIST" if store_distance else b"STORE", argv[1]]]


_GEO_SIZES: Final = {b"FROMMEMBER": 2, b"FROMLONLAT": 3, b"BYRADIUS": 3, b"COUNT": 2}
