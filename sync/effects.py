"""Two ways: which replies of a target say that a write found another state than the one it was made on. No I/O.

What stands in a stream changed something where it was made. Where the target answers 0 or nil to such a command, its
key is not what it was there: a COPY without a source, an LPOP of an empty list, a deadline for a key that is not there.
That is told apart from 0 and nil that say nothing (HSET of a field that was there, SETBIT of a bit that was 0), and
from commands after which both sides are the same whatever was there before (DEL, SADD, SREM, HDEL of the same members).

Errors are judged elsewhere (`sync.replies.of_state`). See docs/architecture/two-way.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from canal.commands import COMMANDS
from canal.keyscan import command_keys
from canal.resp import parse
from sync.batch import Batch
from sync.conditional import is_conditional

_Rule = Callable[[list[bytes]], bool]


def _always(argv: list[bytes]) -> bool:
    return True


def _counts_additions(argv: list[bytes]) -> bool:
    """ZADD and GEOADD answer how many members are new: only with these options is that all they do."""
    return any(word.upper() in (b"NX", b"CH", b"INCR") for word in argv[2:6])


def _stores(argv: list[bytes]) -> bool:
    return any(word.upper() in (b"STORE", b"STOREDIST") for word in argv[2:])


_STORES: Final = (
    "SUNIONSTORE SINTERSTORE SDIFFSTORE ZUNIONSTORE ZINTERSTORE ZDIFFSTORE ZRANGESTORE GEOSEARCHSTORE BITOP"
)
_NEEDS: Final[dict[str, _Rule]] = {
    # an element, a key or a pivot has to be there
    "LPOP RPOP RPOPLPUSH BRPOPLPUSH LMOVE BLMOVE LREM LINSERT LPUSHX RPUSHX": _always,
    "SMOVE ZPOPMIN ZPOPMAX ZREMRANGEBYRANK COPY MOVE RENAMENX": _always,
    "EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST": _always,
    _STORES: _always,
    "SORT GEORADIUS GEORADIUSBYMEMBER": _stores,
    "ZADD GEOADD": _counts_additions,
    "EVAL": is_conditional,  # an expired key that lives on at the target
}
_RULES: Final = {name.encode(): rule for names, rule in _NEEDS.items() for name in names.split()}

_STORING: Final = frozenset(f"{_STORES} SORT GEORADIUS GEORADIUSBYMEMBER".encode().split())

JUDGED: Final = frozenset(_RULES)
"""Upper-case names of commands whose replies are looked at."""

_OTHERS: Final = {
    spelling: 1 for info in COMMANDS if info.name not in JUDGED for spelling in (info.name, info.name.lower())
}
_SIGNS: Final = (b"\r\n:0\r\n", b"\r\n$-1\r\n", b"\r\n*0\r\n", b"\r\n*-1\r\n", b"\r\n:-1\r\n")


def is_usual(argv: list[bytes]) -> bool:
    """Commands that store nothing where their sources are empty, as they were at the source perhaps: 0 says little."""
    return argv[0].upper() in _STORING


def may_be_empty(replies: bytes, start: int) -> bool:
    """Is there, from ``start`` on, a reply of RESP2 that `nothing` would take for nothing? Yes may be wrong."""
    return any(replies.find(sign, start) >= 0 for sign in _SIGNS)


def nothing(reply: Any) -> bool:
    """0, -1, nil, or an empty array."""
    return reply is None or (isinstance(reply, int) and reply in (0, -1)) or (isinstance(reply, list) and not reply)


def without_effect(batch: Batch, numbers: Sequence[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Of the user's commands of these numbers, which all answered `nothing`: (db, argv) of those that had to do more.

    ``numbers`` in order.
    """
    wanted = set(numbers)
    first = 0
    last = max(wanted, default=-1)
    for piece in batch.pieces():
        if first > last:
            return
        raw, number, at = piece.raw, first, 0
        begins = command_keys(raw, _OTHERS)[1] if any(first <= one < first + piece.commands for one in wanted) else []
        for begin in begins:
            number += len(command_keys(raw[at:begin], {})[1])
            at = begin
            if number in wanted:
                found = parse(raw, begin, len(raw))
                assert found is not None
                rule = _RULES.get(found[0][0].upper())
                if rule is not None and rule(found[0]):
                    yield piece.db, found[0]
        first += piece.commands
