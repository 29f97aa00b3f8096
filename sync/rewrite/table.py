"""Which rule applies to which command, for which pair of servers. A command without a rule passes unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.commands import ServerKind
from sync.rewrite import deadlines, payloads, spellings, streams
from sync.rewrite.rules import Rule

Version = tuple[int, ...]
When = Callable[[ServerKind | None, ServerKind, bool], bool]


def _always(source: ServerKind | None, target: ServerKind, unconditional: bool) -> bool:
    return True


def _two_way(source: ServerKind | None, target: ServerKind, unconditional: bool) -> bool:
    return unconditional


def _below(redis: Version | None, valkey: Version | None = (0,)) -> When:
    """The target is older than this, and the source may say what the target does not know."""
    return lambda source, target, unconditional: (
        not target.at_least(redis, valkey) and not (source is not None and target.same_or_newer_than(source))
    )


def _below_or_two_way(redis: Version) -> When:
    below = _below(redis)
    return lambda source, target, unconditional: unconditional or below(source, target, unconditional)


def _from(redis: Version | None, valkey: Version | None = (0,)) -> When:
    """The source may be at least this."""
    return lambda source, target, unconditional: source is None or source.at_least(redis, valkey)


def _any_of(*conditions: When) -> When:
    return lambda source, target, two_way: any(condition(source, target, two_way) for condition in conditions)


# Later rows win where several apply to one name.
_RULES: Final[list[tuple[bytes, When, Rule]]] = [
    (b"SET", _always, deadlines.set_),
    (b"SETEX PSETEX", _always, deadlines.setex),
    (b"MSETEX", _always, deadlines.msetex),
    (b"GETEX", _always, deadlines.getex),
    (b"EXPIRE PEXPIRE", _always, deadlines.expire),
    (b"EXPIREAT PEXPIREAT", _below_or_two_way((7, 0)), deadlines.expireat),
    (b"HEXPIRE HPEXPIRE HEXPIREAT", _always, deadlines.hexpire),
    (b"HPEXPIREAT", _below((7, 4), (9, 0)), deadlines.hexpire),
    (b"HPEXPIREAT", _two_way, deadlines.hexpire),
    (b"HPERSIST", _below((7, 4), (9, 0)), deadlines.hpersist),
    (b"HSETEX", _always, deadlines.hsetex),
    (b"HGETEX", _always, deadlines.hgetex),
    (b"HGETDEL", _below((8, 0), (9, 1)), deadlines.hgetdel),
    (b"HSET", _below((4, 0)), deadlines.hset),
    (b"RESTORE RESTORE-ASKING", _always, payloads.restore),
    (b"FUNCTION", _always, payloads.function),
    (b"SCRIPT", _always, spellings.script_command),
    (b"SPUBLISH", _below((7, 0)), spellings.spublish),
    (b"TOUCH", _always, spellings.read_only),
    (b"GETDEL DELEX DELIFEQ", _always, spellings.to_del),
    (b"FLUSHALL FLUSHDB", _below((6, 2)), spellings.flush),
    (b"UNLINK", _below((6, 0)), spellings.unlink),
    (b"COPY", _two_way, spellings.copy_unconditional),
    (b"COPY", _below((6, 2)), spellings.copy),
    (b"SETNX MSETNX HSETNX RENAMENX LPUSHX RPUSHX", _two_way, spellings.unconditional_name),
    (b"BITOP", _below((8, 2), None), spellings.bitop),
    (b"LPOP RPOP", _below((6, 2)), spellings.pop_count),
    (b"LMOVE", _below((6, 2)), spellings.lmove),
    (b"ZPOPMIN ZPOPMAX", _below((5, 0)), spellings.zpop),
    (b"ZADD", _below((6, 2)), spellings.zadd),
    (b"ZRANGESTORE", _below((6, 2)), spellings.zrangestore),
    (b"ZDIFFSTORE", _below((6, 2)), spellings.zdiffstore),
    (b"GEORADIUS GEORADIUSBYMEMBER", _below((6, 2)), spellings.georadius),
    (b"GEOSEARCHSTORE", _below((6, 2)), spellings.geosearchstore),
    (b"XADD", _any_of(_from((6, 2)), _below((6, 2))), streams.xadd),
    (b"XTRIM", _any_of(_from((6, 2)), _below((8, 2), None)), streams.xtrim),
    (b"XGROUP", _below((7, 0)), streams.xgroup),
    (b"XSETID", _below((7, 0)), streams.xsetid),
    (b"XDELEX", _below((8, 2), None), streams.xdelex),
    (b"XACKDEL", _below((8, 2), None), streams.xackdel),
    (b"XCFGSET XIDMPRECORD", _below((8, 6), None), streams.idmp_only),
]


def only_limit(source: ServerKind | None, target: ServerKind) -> bool:
    """Is LIMIT all that an XADD of this source can hold for which it must be looked at?"""
    new = source is None or source.at_least((8, 2), None)
    return not new and target.at_least((6, 2))


def rules_for(source: ServerKind | None, target: ServerKind, unconditional: bool) -> dict[bytes, Rule]:
    """Upper-case name → rule, for this pair."""
    return {name: rule for names, when, rule in _RULES if when(source, target, unconditional) for name in names.split()}
