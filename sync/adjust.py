"""What a link does to each command on its way: the rules of its `UnitReader`, for one pair of servers. No I/O."""

from __future__ import annotations

from canal.commands import COMMANDS, READ, Flag, ServerKind
from canal.framing import SIZE_AT
from sync.config import LinkConfig
from sync.expiry import LOOKED_AT, ExpiryRule
from sync.fieldexpiry import ALWAYS, OBSERVED, WHEN_USED, FieldRule
from sync.restore import target_of
from sync.rewrite import Payloads, Rewriter
from sync.rules import Adjust, Adjusted, Dropped, Rules
from sync.transform import Transform, compose

FLOWING = frozenset(
    spelling
    for info in COMMANDS
    if any(spec.access & READ for spec in info.keys)
    or info.name in (b"COPY", b"SORT", b"GEORADIUS", b"GEORADIUSBYMEMBER")
    for spelling in (info.name, info.name.lower())
)
"""Commands that carry values from one key into another: two ways, they are looked at one by one."""

_TIMED = frozenset(info.name for info in COMMANDS if info.flags & Flag.RELATIVE)
_NOSCRIPT = frozenset(info.name for info in COMMANDS if info.flags & Flag.NOSCRIPT)
_HELLO = b"__sentinel__:hello"
"""Where Sentinels tell each other, by each server that they watch, of masters (Redis documentation, Sentinel)."""


def make_rules(
    config: LinkConfig,
    source: ServerKind | None,
    target: ServerKind,
    transform: Transform,
    expiry: ExpiryRule | None = None,
    fields: FieldRule | None = None,
) -> Rules:
    """The rules of a link between servers of these kinds; ``source`` None: not known, anything may come."""
    # What stands in the stream succeeded where it was made; two ways, a condition that fails here would part the sides.
    rewriter = Rewriter(source, target, restore=Payloads(target_of(target)), unconditional=config.two_way)

    rules = Rules(
        source_dc=config.source_dc,
        drop=frozenset({config.target_dc, *config.direct}),
        plain=_but_hello(rewriter.plain()) if transform.identity else {},
        adjust=_without_hello(compose(transform, rewriter)),
        noscript=_NOSCRIPT,
        flush=("stop" if config.two_way else "replay") if config.flush == "auto" else config.flush,
        max_commands=config.batch_commands,
        max_bytes=config.batch_bytes,
    )
    if config.two_way:
        rules.plain = {name: count for name, count in rules.plain.items() if name not in FLOWING}
    if expiry is not None:
        _mind_expiry(rules, rewriter, expiry)
    if fields is not None:
        _mind_fields(rules, fields)
    return rules


def _but_hello(plain: dict[bytes, int]) -> dict[bytes, int]:
    """PUBLISH passes as it is, but on channels whose name is as long as that of Sentinels."""
    return {name: SIZE_AT - len(_HELLO) if name.upper() == b"PUBLISH" else code for name, code in plain.items()}


def _without_hello(inner: Adjust) -> Adjust:
    """Sentinels' word to one another stays at the source: it enters the stream, and those of a target that call their
    master by the same name would believe it, take the source's master for theirs and make the target its replica.
    """

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        if len(argv) == 3 and argv[1] == _HELLO and argv[0].upper() == b"PUBLISH":
            return Dropped("sentinel")
        return inner(db, argv, received_ms, end)

    return adjust


def _mind_expiry(rules: Rules, rewriter: Rewriter, expiry: ExpiryRule) -> None:
    """Two ways: deadlines are followed, and deletes of what has expired become conditional."""
    inner = rules.adjust
    plain = rules.plain = {name: count for name, count in rules.plain.items() if name.upper() not in LOOKED_AT}
    if not len(expiry.deadlines):  # a SET takes a deadline away, and there are none yet
        plain[b"SET"] = plain[b"set"] = 3

    def observe(db: int, argv: list[bytes], received_ms: int) -> None:
        if argv[0].upper() not in LOOKED_AT and argv[0].upper() not in _TIMED:
            return
        spoken = rewriter.command(argv, received_ms, db)
        for out in spoken if isinstance(spoken, list) else ():
            expiry.observe(db, out)
        if b"SET" in plain and len(expiry.deadlines):
            del plain[b"SET"], plain[b"set"]

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        if argv[0].upper() in (b"DEL", b"UNLINK"):
            judged = expiry.judge(db, argv, received_ms, end)
            expiry.observe(db, argv)
            if judged is not None:
                carried = [inner(db, one, received_ms, end) for one in judged]
                return [piece for one in carried if isinstance(one, list) for piece in one] or Dropped("expired")
        else:
            observe(db, argv, received_ms)
        return inner(db, argv, received_ms, end)

    rules.adjust = adjust
    rules.observe = observe
    rules.expired = expiry.passed


def _mind_fields(rules: Rules, fields: FieldRule) -> None:
    """Two ways, between servers that know deadlines of hash fields: likewise for these.

    Until a field with a deadline is met, nothing is looked at that would pass otherwise.
    """
    inner, below = rules.adjust, rules.observe
    plain = rules.plain
    for name in [name for name in plain if name.upper() in ALWAYS]:
        del plain[name]

    def used() -> None:
        for name in WHEN_USED:
            plain.pop(name, None)
            plain.pop(name.lower(), None)

    def observe(db: int, argv: list[bytes], received_ms: int) -> None:
        if below is not None:
            below(db, argv, received_ms)
        if argv[0].upper() in OBSERVED:
            fields.observe(db, argv, received_ms)
            if len(fields.deadlines):
                used()

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        name = argv[0].upper()
        if name not in OBSERVED:
            return inner(db, argv, received_ms, end)
        judged = None
        if name == b"HDEL" or name == b"HGETDEL":
            judged = fields.judge(db, argv, received_ms, end, rules.transaction)
        left_out = name == b"UNLINK" and fields.follows_from(db, argv, end, rules.transaction)
        fields.observe(db, argv, received_ms)
        if len(fields.deadlines):
            used()
        if left_out:
            if below is not None:
                below(db, argv, received_ms)
            return Dropped("expired")
        if judged is not None:
            carried = [inner(db, one, received_ms, end) for one in judged]
            if all(isinstance(one, list) for one in carried):
                return [piece for one in carried if isinstance(one, list) for piece in one]
        return inner(db, argv, received_ms, end)

    rules.adjust = adjust
    rules.observe = observe
    if len(fields.deadlines):
        used()
