"""Times relative to now become absolute at the moment they were received; and TTL spellings of older targets.

A relative TTL replayed later than it was received would make the key live longer by the delay (an hour in the journal,
an hour more). Redis since 7.0 and Valkey propagate absolute times by themselves; older sources do not.
"""

from __future__ import annotations

from typing import Final

from canal.commands import integer
from sync.rewrite.rules import NO_CHANGE, NO_FIELD_TTL, Command, Commands, Context, Expiry, Result, deadline, number
from sync.rewrite.scripts import HSET_KEEPTTL, SET_KEEPTTL, script
from sync.rules import Dropped

_CONDITIONS: Final = frozenset({b"NX", b"XX"})
_COMPARISONS: Final = frozenset({b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"})
_FIELD_CONDITIONS: Final = frozenset({b"NX", b"XX", b"FNX", b"FXX"})


# --- strings -------------------------------------------------------------------------------------------------


def set_(argv: Command, now_ms: int, context: Context) -> Result:
    """SET key value [NX|XX|IFEQ v …] [GET] [EX|PX|EXAT|PXAT n|KEEPTTL].

    What stands in the stream succeeded, so a condition that the target does not know can go; so can GET. Before 6.2
    there is no PXAT: SET, then PEXPIREAT of the same deadline.
    """
    if len(argv) == 3:
        return [argv]
    expiry, conditions, dropped, index = Expiry(), [], False, 3
    while index < len(argv):
        used = expiry.take(argv, index, now_ms)
        if used:
            index += used
            continue
        word = argv[index].upper()
        size = 2 if word in _COMPARISONS else 1
        if word == b"GET" or (word in _CONDITIONS | _COMPARISONS and _condition_goes(word, context)):
            dropped = True
        else:
            conditions += argv[index : index + size]
        index += size
    if expiry.at_ms is None:
        return _set_without_deadline(argv, conditions, expiry.keep, dropped, context)
    if context.target.at_least((6, 2)):
        if expiry.spelled == b"PXAT" and not dropped:
            return [argv]
        return [[b"SET", argv[1], argv[2], *conditions, b"PXAT", number(expiry.at_ms)]]
    return _set_and_expire(argv[1], argv[2], expiry.at_ms)


def _condition_goes(word: bytes, context: Context) -> bool:
    if context.unconditional:
        return True
    if word == b"IFEQ":
        return not context.target.at_least((8, 4), (8, 1))
    return word in _COMPARISONS and not context.target.at_least((8, 4), None)


def _set_without_deadline(argv: Command, conditions: Command, keep: bool, dropped: bool, context: Context) -> Result:
    if keep and not context.target.at_least((6, 0)):
        return [script(SET_KEEPTTL, [argv[1]], [argv[2]])]
    if not dropped:
        return [argv]
    return [[b"SET", argv[1], argv[2], *conditions, *([b"KEEPTTL"] if keep else [])]]


def _set_and_expire(key: bytes, value: bytes, at_ms: int) -> Commands:
    return [[b"SET", key, value], [b"PEXPIREAT", key, number(at_ms)]]


def setex(argv: Command, now_ms: int, context: Context) -> Result:
    """SETEX key seconds value, PSETEX key ms value → SET … PXAT."""
    at = deadline(argv[2], 1000 if argv[0].upper() == b"SETEX" else 1, now_ms) if len(argv) == 4 else None
    if at is None:
        return [argv]
    if context.target.at_least((6, 2)):
        return [[b"SET", argv[1], argv[3], b"PXAT", number(at)]]
    return _set_and_expire(argv[1], argv[3], at)


def msetex(argv: Command, now_ms: int, context: Context) -> Result:
    """MSETEX numkeys key value … [NX|XX] [EX … |KEEPTTL]; older targets get MSET and a deadline for each key."""
    count = integer(argv[1]) if len(argv) > 1 else None
    if count is None or count <= 0 or len(argv) < 2 + 2 * count:
        return [argv]
    pairs, options = argv[2 : 2 + 2 * count], argv[2 + 2 * count :]
    expiry, conditions, index = Expiry(), [], 0
    while index < len(options):
        used = expiry.take(options, index, now_ms)
        if not used and options[index].upper() not in _CONDITIONS:
            return [argv]
        if not used:
            conditions.append(options[index])
        index += used or 1
    if context.target.at_least((8, 4), (9, 1)):
        if not expiry.relative and not (conditions and context.unconditional):
            return [argv]
        kept = [] if context.unconditional else conditions
        return [[b"MSETEX", argv[1], *pairs, *kept, *_ttl_words(expiry)]]
    return _msetex_in_parts(pairs, expiry, now_ms, context)


def _ttl_words(expiry: Expiry) -> Command:
    if expiry.keep:
        return [b"KEEPTTL"]
    return [] if expiry.at_ms is None else [b"PXAT", number(expiry.at_ms)]


def _msetex_in_parts(pairs: Command, expiry: Expiry, now_ms: int, context: Context) -> Result:
    if expiry.keep:
        parts: Commands = []
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            one = set_([b"SET", key, value, b"KEEPTTL"], now_ms, context)
            parts += one if isinstance(one, list) else []
        return parts
    ends = [] if expiry.at_ms is None else [[b"PEXPIREAT", key, number(expiry.at_ms)] for key in pairs[::2]]
    return [[b"MSET", *pairs], *ends]


def getex(argv: Command, now_ms: int, context: Context) -> Result:
    """GETEX is never propagated under its name; should it come, what it does to the deadline is sent."""
    expiry = Expiry()
    if len(argv) > 2:
        expiry.take(argv, 2, now_ms)
    if expiry.persist:
        return [[b"PERSIST", argv[1]]]
    if expiry.at_ms is None:
        return Dropped(NO_CHANGE)
    return [[b"PEXPIREAT", argv[1], number(expiry.at_ms)]]


# --- keys ----------------------------------------------------------------------------------------------------


def expire(argv: Command, now_ms: int, context: Context) -> Result:
    """EXPIRE, PEXPIRE key n [NX|XX|GT|LT] → PEXPIREAT."""
    at = deadline(argv[2], 1000 if argv[0].upper() == b"EXPIRE" else 1, now_ms) if len(argv) > 2 else None
    if at is None:
        return [argv]
    return [[b"PEXPIREAT", argv[1], number(at), *_expire_conditions(argv, context)]]


def expireat(argv: Command, now_ms: int, context: Context) -> Result:
    """EXPIREAT, PEXPIREAT: only conditions that the target does not know, or must not see, are taken away."""
    if len(argv) <= 3 or _expire_conditions(argv, context):
        return [argv]
    return [argv[:3]]


def _expire_conditions(argv: Command, context: Context) -> Command:
    known = context.target.at_least((7, 0)) and not context.unconditional
    return argv[3:] if known else []


# --- hash fields ---------------------------------------------------------------------------------------------


def fields_of(argv: Command, width: int) -> tuple[Command, Command] | None:
    """Options, and what follows ``FIELDS n`` (``width`` arguments for each field); None: not of that form."""
    for index in range(2, len(argv) - 1):
        if argv[index].upper() == b"FIELDS":
            count = integer(argv[index + 1])
            end = index + 2 + (count or 0) * width
            if count is None or count <= 0 or end > len(argv):
                return None
            return argv[2:index] + argv[end:], argv[index + 2 : end]
    return None


def hexpire(argv: Command, now_ms: int, context: Context) -> Result:
    """HEXPIRE, HPEXPIRE, HEXPIREAT, HPEXPIREAT key n [NX|XX|GT|LT] FIELDS … → HPEXPIREAT."""
    if not context.field_ttl:
        return Dropped(NO_FIELD_TTL)
    name = argv[0].upper()
    found = fields_of(argv, 1)
    unit = 1000 if name in (b"HEXPIRE", b"HEXPIREAT") else 1
    at = deadline(argv[2], unit, 0 if name.endswith(b"AT") else now_ms) if found else None
    if found is None or at is None:
        return [argv]
    options, fields = found
    # Valkey sends on all fields that were named, those for which the condition did not hold too
    held = len(fields) == 1 or (context.source is not None and context.source.flavor == "redis")
    conditions = [] if context.unconditional and held else options[1:]
    if name == b"HPEXPIREAT" and conditions == options[1:]:
        return [argv]
    return [[b"HPEXPIREAT", argv[1], number(at), *conditions, b"FIELDS", number(len(fields)), *fields]]


def hpersist(argv: Command, now_ms: int, context: Context) -> Result:
    """HPERSIST key FIELDS …"""
    return [argv] if context.field_ttl else Dropped(NO_FIELD_TTL)


def hgetex(argv: Command, now_ms: int, context: Context) -> Result:
    """HGETEX key EX …|PERSIST FIELDS … does to deadlines what HPEXPIREAT and HPERSIST do."""
    found = fields_of(argv, 1)
    expiry = Expiry()
    if found is None:
        return [argv]
    options, fields = found
    if options:
        expiry.take(options, 0, now_ms)
    if expiry.at_ms is None and not expiry.persist:
        return Dropped(NO_CHANGE)
    if not context.field_ttl:
        return Dropped(NO_FIELD_TTL)
    tail = [b"FIELDS", number(len(fields)), *fields]
    if expiry.at_ms is None:
        return [[b"HPERSIST", argv[1], *tail]]
    return [[b"HPEXPIREAT", argv[1], number(expiry.at_ms), *tail]]


def hgetdel(argv: Command, now_ms: int, context: Context) -> Result:
    """HGETDEL key FIELDS n f … → HDEL key f …"""
    found = fields_of(argv, 1)
    return [argv] if found is None else [[b"HDEL", argv[1], *found[1]]]


def hsetex(argv: Command, now_ms: int, context: Context) -> Result:
    """HSETEX key [FNX|FXX|NX|XX] [EX … |KEEPTTL] FIELDS n f v …; older targets get HSET, and HPEXPIREAT if they can."""
    found = fields_of(argv, 2)
    if found is None:
        return [argv]
    options, pairs = found
    expiry, conditions, index = Expiry(), [], 0
    while index < len(options):
        used = expiry.take(options, index, now_ms)
        if not used and options[index].upper() not in _FIELD_CONDITIONS:
            return [argv]
        if not used:
            conditions.append(options[index])
        index += used or 1
    if not context.target.at_least((8, 0), (9, 0)):
        return _hset_with_deadline(argv[1], pairs, expiry, context)
    goes = [word for word in conditions if context.unconditional or _unknown_field_condition(word, context)]
    if not expiry.relative and not goes:
        return [argv]
    kept = [word for word in conditions if word not in goes]
    return [[b"HSETEX", argv[1], *kept, *_ttl_words(expiry), b"FIELDS", number(len(pairs) // 2), *pairs]]


def _unknown_field_condition(word: bytes, context: Context) -> bool:
    """NX and XX of the whole key are Valkey's own."""
    return word.upper() in _CONDITIONS and context.target.flavor == "redis"


def _hset_with_deadline(key: bytes, pairs: Command, expiry: Expiry, context: Context) -> Commands:
    if context.field_ttl and expiry.keep:
        return [script(HSET_KEEPTTL, [key], pairs)]
    commands = hset([b"HSET", key, *pairs], 0, context)
    assert isinstance(commands, list)
    if context.field_ttl and expiry.at_ms is not None:
        fields = pairs[::2]
        ends = [b"HPEXPIREAT", key, number(expiry.at_ms), b"FIELDS", number(len(fields)), *fields]
        commands = [*commands, ends]
    return commands


def hset(argv: Command, now_ms: int, context: Context) -> Result:
    """HSET with several fields is HMSET before 4.0."""
    if len(argv) > 4 and not context.target.at_least((4, 0)):
        return [[b"HMSET", *argv[1:]]]
    return [argv]
