"""What the guard of a late link puts before commands, given what a look at the servers said."""

from __future__ import annotations

import time

from canal.commands import ServerKind
from canal.endpoint import parse_url
from canal.framing import KEY_AT, SET_AT
from canal.rdb.target import Target
from canal.resp import encode
from sync.look import Look, Stretch
from sync.refetch import Fetched, Refetch
from sync.rewrite import Payloads
from sync.rules import Adjusted, Dropped, Rules
from sync.sieve import Sieve
from sync.ttl import TtlGuard, deadline_index
from sync.unit import UnitReader

HERE = b"0123456789" * 4
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


def stretch(*commands: bytes) -> Stretch:
    return Stretch.of(b"".join(encode(command.split()) for command in commands), 0)


def keys(wanted: dict[tuple[int, bytes], tuple[int, bytes]]) -> set[bytes]:
    return {key for _, key in wanted}


def test_what_is_on_its_way_is_not_looked_at_again() -> None:
    """Its keys were made safe when it was fed, and what a look would say of them may be over by then."""
    made, _ = guard(Look())
    made.take(Look(), stretch(b"INCR a", b"SET b v"), 100)
    assert keys(made.wanted(stretch(b"INCR a", b"INCR b", b"INCR c"))) == {b"c"}


def test_where_not_all_keys_on_their_way_are_known_a_look_waits() -> None:
    made, _ = guard(Look())
    assert made.may_look(idle=False)
    made.take(Look(), stretch(b"INCR a", b"SWAPDB 0 1"), 100)
    assert not made.may_look(idle=False)
    assert made.may_look(idle=True)
    assert keys(made.wanted(stretch(b"INCR a"))) == {b"a"}


def test_what_the_target_wrote_itself_is_not_looked_at() -> None:
    """Its copy may be ahead of the source's: fetched from there it would be set back."""
    tag = [b"HSET", b"redis-canal:checkpoint:b-a/0", b"v", b"1", b"origin", b"b", b"pos", HERE + b":7", b"at", b"1"]
    echoed = encode([b"MULTI"]) + encode(tag) + encode([b"LPOP", b"theirs"]) + encode([b"EXEC"])
    ours = encode([b"INCR", b"ours"])
    made, _ = guard(Look())
    for drop, seen in (((), {b"ours", b"theirs"}), (("c",), {b"ours", b"theirs"}), (("b",), {b"ours"})):
        assert keys(made.wanted(Stretch.of(ours + echoed + ours, 0, drop))) == seen
    cut = echoed.index(b"*2\r\n$4\r\nLPOP")
    assert keys(made.wanted(Stretch.of(echoed[cut:] + ours, 0, ("b",), within=True))) == {b"ours"}
    for begun, dropping in ((0, False), (len(encode([b"MULTI"])), True), (cut, True), (len(echoed), False)):
        units = UnitReader(0, 0, Rules("a", frozenset({"b"}), {}, lambda *_: Dropped("known")))
        units.feed(0, echoed[:begun], 0)
        buf, _ = units.ahead(echoed[begun:])
        assert units.dropping(buf) is dropping, begun


def test_what_was_applied_later_than_its_keys_were_sure_to_live_is_looked_at_again() -> None:
    made, _ = guard(Look())
    made.take(Look(), stretch(b"INCR a", b"SET b v"), 100)
    made.take(Look(), stretch(b"INCR c"), 200)
    made.committed(100)
    assert not made.memory.suspects
    made._under_way[0] = (200, time.monotonic() - 1, made._under_way[0][2])
    made.committed(200)
    assert made.memory.suspects == {(0, b"c")}


def test_keys_that_are_gone_are_noted_before_the_stretch_and_passed_over_in_it() -> None:
    made, rules = guard(Look())
    before = made.take(Look(gone={(0, b"k")}, databases=(0,)), stretch(b"HSET k f v"), 100)
    assert [argv[0] for _, argv in before] == [b"SADD", b"SADD"]
    assert rules.over is not None
    assert rules.over(0, [b"HSET", b"k", b"f", b"v"]) == "refetched"
    assert rules.over(1, [b"HSET", b"k", b"f", b"v"]) == ""
    assert rules.look_at == {b"k"}


def test_a_hash_whose_fields_get_deadlines_is_fetched_whole() -> None:
    _, rules = guard(Look())
    assert sent(rules, b"HPEXPIREAT k 5 FIELDS 1 f")[-1] == b"SADD redis-canal:refetch:t/0"


def test_only_commands_of_the_keys_are_looked_at() -> None:
    rules = Rules(
        "a",
        frozenset(),
        {b"INCR": 0, b"MSET": 0, b"SET": SET_AT, b"PEXPIREAT": 0, b"DEL": 0, b"EXPIREAT": 3},
        _as_it_is,
    )
    plain, sieve = rules.plain, Sieve(rules)
    sieve.late = True
    sieve.settle()
    assert (rules.plain, rules.look_at) == (
        {b"INCR": 0, b"MSET": 0, b"SET": SET_AT, b"PEXPIREAT": KEY_AT, b"DEL": 0},
        None,
    )
    wanted = {b"k"}
    sieve.owned(lambda name: name in wanted)
    sieve.add([b"k"])
    assert rules.plain == {b"INCR": 0, b"SET": SET_AT, b"PEXPIREAT": KEY_AT, b"DEL": 2}
    assert rules.look_at == {b"k"}
    sieve.release(b"k")
    assert rules.look_at == {b"k"}, "somebody still wants it"
    wanted.clear()
    sieve.release(b"k")
    assert rules.look_at is None
    sieve.late = False
    sieve.settle()
    assert rules.plain is plain


def _as_it_is(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
    return [(db, argv)]


def test_what_was_fetched_lands_in_pieces_that_do_not_hold_the_target_up() -> None:
    places = [(0, b"key:%d" % number) for number in range(1200)]
    refetch = Refetch(b"redis-canal:refetch:t/0", set(places), Payloads(Target.of("redis", "7.0.15")))
    refetch.fetched = {place: Fetched(place, 10, None, 0) for place in places}
    assert refetch.laden
    assert refetch.due(9) == []
    sizes = []
    while commands := refetch.due(10):
        sizes.append(sum(argv[0] == b"DEL" for _, argv in commands))
    assert sum(sizes) == 1200 and max(sizes) <= 201
    assert not refetch.keys and not refetch.laden
