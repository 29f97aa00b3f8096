"""What the guard of a late link puts before commands, given what a look at the servers said."""

from __future__ import annotations

import time

from canal.commands import ServerKind
from canal.endpoint import parse_url
from canal.rdb.target import Target
from sync.refetch import Refetch
from sync.rewrite import Payloads
from sync.ttl import Look, TtlGuard, deadline_index
from sync.unit import Adjusted, Rules

KIND = ServerKind("redis", (7, 0, 15))


def guard(look: Look) -> tuple[TtlGuard, Rules]:
    """An active guard that has had this look, and the rules that it governs."""

    def as_it_is(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        return [(db, argv)]

    rules = Rules("a", frozenset(), {}, as_it_is)
    refetch = Refetch(b"redis-canal:refetch:t/0", set(), Payloads(Target.of("redis", "7.0.15")))
    refetch.govern(rules)
    url = parse_url("redis://127.0.0.1:1")
    made = TtlGuard(url, url, refetch)
    made.govern(rules)
    made._look = look
    made.active = True
    return made, rules


def sent(rules: Rules, *commands: bytes) -> list[bytes]:
    """What goes to the target for these commands of database 0, names and keys only."""
    out = []
    for command in commands:
        result = rules.adjust(0, command.split(), 0, 1)
        assert isinstance(result, list)
        out += [b" ".join(argv[:2]) for _, argv in result]
    return out


def soon() -> int:
    return time.time_ns() // 1_000_000 + 1000


def test_a_key_near_its_end_is_held_off_before_it_is_built_on_and_once() -> None:
    _, rules = guard(Look(near={(0, b"k"): soon()}))
    assert sent(rules, b"INCR k", b"INCR k") == [b"PEXPIREAT k", b"INCR k", b"INCR k"]


def test_a_key_that_was_overwritten_keeps_no_deadline() -> None:
    """Or a value without a deadline would die with that of the one before."""
    made, rules = guard(Look(near={(0, b"k"): soon()}))
    assert sent(rules, b"SET k v", b"APPEND k w") == [b"SET k", b"APPEND k"]
    assert not made.holding


def test_a_key_that_was_made_anew_is_not_fetched() -> None:
    _, rules = guard(Look(gone={(0, b"k")}))
    assert sent(rules, b"SET k v", b"APPEND k w") == [b"SET k", b"APPEND k"]


def test_a_key_that_is_gone_and_built_on_is_fetched() -> None:
    _, rules = guard(Look(gone={(0, b"k")}))
    assert sent(rules, b"HSET k f v") == [b"SADD redis-canal:links", b"SADD redis-canal:refetch:t/0"]


def test_a_deadline_that_is_near_is_held_off_and_put_right_later() -> None:
    made, rules = guard(Look())
    true = soon() + 5000
    result = rules.adjust(0, [b"SET", b"k", b"v", b"PXAT", b"%d" % true], 0, 1)
    assert isinstance(result, list)
    assert int(result[0][1][4]) > true + 30_000
    made.latency_s = 0.0
    ((db, script),) = made.corrections()
    assert (db, script[0], script[3], script[5]) == (0, b"EVAL", b"k", b"%d" % true)
    assert not made.holding


def test_where_deadlines_stand() -> None:
    cases = {
        b"PEXPIREAT k 5": 2,
        b"EXPIREAT k 5 GT": 2,
        b"SET k v PXAT 5": 4,
        b"SET k v EXAT 5 KEEPTTL": 4,
        b"RESTORE k 5 p ABSTTL": 2,
        b"RESTORE k 0 p ABSTTL": -1,
        b"SET k v": -1,
        b"HSET k f v": -1,
    }
    assert {command: deadline_index(command.split()) for command in cases} == cases
