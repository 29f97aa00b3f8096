"""Rewriting of single commands: times become absolute when received, words fit the target."""

from __future__ import annotations

import pytest

from canal.commands import COMMANDS, PLAIN, ServerKind, all_keys
from canal.errors import ReplayError
from canal.framing import SET_AT
from canal.rdb.dump import decode_string, dump_payload, split_payload
from canal.rdb.target import Target
from sync.rewrite import REASONS, Dropped, Impossible, Payloads, Rewriter, plain_for
from sync.rewrite.payloads import function_loads
from sync.rewrite.streams import before

NOW = 1_700_000_000_000
FAR = 4102444800000


def kind(text: str) -> ServerKind:
    flavor, _, version = text.rpartition("-")
    return ServerKind.parse(flavor or "redis", version)


def argv(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


def rewritten(text: str, source: str, target: str, *, unconditional: bool = False) -> str:
    """The commands as text, `=` for the same object, `drop:` or `no:` and the reason."""
    command = argv(text)
    result = Rewriter(kind(source), kind(target), unconditional=unconditional).command(command, NOW)
    if isinstance(result, Dropped):
        assert result.reason in REASONS
        return f"drop:{result.reason}"
    if isinstance(result, Impossible):
        return f"no:{result.reason}"
    if len(result) == 1 and result[0] is command:
        return "="
    return "; ".join(b" ".join(out).decode() for out in result)


RELATIVE = [
    ("SET k v", "="),
    ("SET k v EX 100", f"SET k v PXAT {NOW + 100_000}"),
    ("set k v px 100", f"SET k v PXAT {NOW + 100}"),
    ("SET k v EXAT 4102444800", f"SET k v PXAT {FAR}"),
    ("SET k v PXAT 5", "="),
    ("SET k v XX EX 1", f"SET k v XX PXAT {NOW + 1000}"),
    ("SET k v KEEPTTL", "="),
    ("SET k v GET", "SET k v"),
    ("SET k v NX GET PX 5", f"SET k v NX PXAT {NOW + 5}"),
    ("SET k EX PX 5", f"SET k EX PXAT {NOW + 5}"),
    ("SET k v EX notanumber", "="),
    ("SET k v EX 9223372036854775807", f"SET k v PXAT {(1 << 63) - 1}"),
    ("SETEX k 100 v", f"SET k v PXAT {NOW + 100_000}"),
    ("PSETEX k 100 v", f"SET k v PXAT {NOW + 100}"),
    ("EXPIRE k 100", f"PEXPIREAT k {NOW + 100_000}"),
    ("EXPIRE k -1", f"PEXPIREAT k {NOW - 1000}"),
    ("pexpire k 100 GT", f"PEXPIREAT k {NOW + 100} GT"),
    ("PEXPIREAT k 5 GT", "="),
    ("EXPIREAT k 5", "="),
    ("GETEX k EX 1", f"PEXPIREAT k {NOW + 1000}"),
    ("GETEX k PERSIST", "PERSIST k"),
    ("GETEX k", "drop:no-change"),
    ("MSETEX 2 a 1 EX 2 PX 5", f"MSETEX 2 a 1 EX 2 PXAT {NOW + 5}"),
    ("MSETEX 1 a 1 PXAT 5", "="),
    ("HEXPIRE h 1 FIELDS 1 f", f"HPEXPIREAT h {NOW + 1000} FIELDS 1 f"),
    ("HPEXPIRE h 1 NX FIELDS 2 f g", f"HPEXPIREAT h {NOW + 1} NX FIELDS 2 f g"),
    ("HEXPIREAT h 5 FIELDS 1 f", "HPEXPIREAT h 5000 FIELDS 1 f"),
    ("HPEXPIREAT h 5 FIELDS 1 f", "="),
    ("HSETEX h EX 1 FIELDS 1 f EX", f"HSETEX h PXAT {NOW + 1000} FIELDS 1 f EX"),
    ("HSETEX h FXX PX 1 FIELDS 1 f v", f"HSETEX h FXX PXAT {NOW + 1} FIELDS 1 f v"),
    ("HSETEX h FIELDS 1 f v PX 1", f"HSETEX h PXAT {NOW + 1} FIELDS 1 f v"),
    ("HSETEX h KEEPTTL FIELDS 1 f v", "="),
    ("HGETEX h PX 1 FIELDS 1 f", f"HPEXPIREAT h {NOW + 1} FIELDS 1 f"),
    ("HGETEX h PERSIST FIELDS 1 f", "HPERSIST h FIELDS 1 f"),
    ("HGETEX h FIELDS 1 f", "drop:no-change"),
    ("RESTORE k 0 payload", "="),
    ("RESTORE k 100 payload", f"RESTORE k {NOW + 100} payload ABSTTL"),
    ("RESTORE k 100 payload REPLACE FREQ 5", f"RESTORE k {NOW + 100} payload REPLACE ABSTTL FREQ 5"),
    ("RESTORE k 100 payload ABSTTL IDLETIME 5", "="),
    ("RESTORE-ASKING k 0 payload REPLACE", "RESTORE k 0 payload REPLACE"),
]


@pytest.mark.parametrize(("text", "expected"), RELATIVE)
def test_relative_times_become_absolute(text: str, expected: str) -> None:
    assert rewritten(text, "8.10.2", "8.10.2") == expected


OLDER = [
    # strings and keys
    ("SET k v EX 1", "6.0.16", "6.0.16", f"SET k v; PEXPIREAT k {NOW + 1000}"),
    ("SET k v NX PXAT 5", "7.0", "6.0", "SET k v; PEXPIREAT k 5"),
    ("SETEX k 1 v", "5.0", "5.0", f"SET k v; PEXPIREAT k {NOW + 1000}"),
    ("SET k v IFEQ w", "8.10", "8.2", "SET k v"),
    ("SET k v IFEQ w", "8.10", "valkey-8.1", "="),
    ("SET k v IFNE w PXAT 5", "8.10", "valkey-9.1", "SET k v PXAT 5"),
    ("MSETEX 2 a 1 b 2 PXAT 5", "8.10", "8.2", "MSET a 1 b 2; PEXPIREAT a 5; PEXPIREAT b 5"),
    ("MSETEX 1 a 1 KEEPTTL", "8.10", "8.2", "SET a 1 KEEPTTL"),
    ("MSETEX 1 a 1 EX 1", "8.10", "valkey-9.1", f"MSETEX 1 a 1 PXAT {NOW + 1000}"),
    ("PEXPIREAT k 5 GT", "7.0", "6.2", "PEXPIREAT k 5"),
    ("EXPIRE k 1 NX", "7.0", "6.2", f"PEXPIREAT k {NOW + 1000}"),
    ("UNLINK a b", "valkey-9.1", "5.0.10", "DEL a b"),
    ("UNLINK a b", "7.0", "6.0", "="),
    ("UNLINK a", "7.0", "3.2.6", "DEL a"),
    ("RESTORE k 5 payload ABSTTL REPLACE", "4.0", "4.0", "RESTORE k 0 payload REPLACE; PEXPIREAT k 5"),
    ("RESTORE k 0 payload REPLACE", "2.8", "2.8", "DEL k; RESTORE k 0 payload"),
    ("FLUSHALL ASYNC", "7.0", "3.2", "FLUSHALL"),
    ("FLUSHDB SYNC", "7.0", "6.0", "FLUSHDB"),
    ("FLUSHDB ASYNC", "7.0", "6.0", "="),
    ("DELIFEQ k v", "valkey-9.1", "valkey-9.1", "DEL k"),
    ("TOUCH k", "7.0", "7.0", "drop:no-change"),
    ("BITOP AND d a", "8.10", "7.0", "="),
    ("BITOP DIFF d a b", "8.10", "valkey-9.1", "no:valkey 9.1 has no BITOP DIFF"),
    # lists and sorted sets
    ("LPOP l 2", "6.2", "6.0", "LTRIM l 2 -1"),
    ("rpop l 2", "6.2", "6.0", "LTRIM l 0 -3"),
    ("LPOP l", "6.2", "6.0", "="),
    ("LMOVE a b right LEFT", "7.0", "6.0", "RPOPLPUSH a b"),
    ("ZPOPMIN z", "6.2", "4.0", "ZREMRANGEBYRANK z 0 0"),
    ("zpopmax z 3", "6.2", "4.0", "ZREMRANGEBYRANK z -3 -1"),
    ("ZADD z CH 1 a", "7.0", "6.0", "="),
    ("ZADD z GT INCR 1 a", "7.0", "6.0", "no:redis 6.0 has no ZADD GT|LT INCR"),
    ("ZADD z GT 1 a", "7.0", "6.2", "="),
    (
        "GEOSEARCHSTORE d s FROMLONLAT 15 37 BYRADIUS 200 km ASC COUNT 3",
        "7.0",
        "6.0",
        "GEORADIUS s 15 37 200 km ASC COUNT 3 STORE d",
    ),
    (
        "GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 2 km STOREDIST",
        "7.0",
        "6.0",
        "GEORADIUSBYMEMBER s m 2 km STOREDIST d",
    ),
    # hashes
    ("HPEXPIREAT h 5 FIELDS 1 f", "8.10", "7.2", "drop:no-field-ttl"),
    ("HPERSIST h FIELDS 1 f", "8.10", "valkey-8.1", "drop:no-field-ttl"),
    ("HSETEX h PXAT 5 FIELDS 1 f v", "8.10", "7.4", "HSET h f v; HPEXPIREAT h 5 FIELDS 1 f"),
    ("HSETEX h PXAT 5 FIELDS 2 f v g w", "8.10", "7.2", "HSET h f v g w"),
    ("HSETEX h KEEPTTL FIELDS 1 f v", "8.10", "7.2", "HSET h f v"),
    ("HSETEX h NX FXX KEEPTTL FIELDS 1 f v", "valkey-9.1", "8.10", "HSETEX h FXX KEEPTTL FIELDS 1 f v"),
    ("HSETEX h PXAT 5 FIELDS 2 f v g w", "8.10", "3.2", "HMSET h f v g w"),
    ("HGETDEL h FIELDS 2 a b", "valkey-9.1", "valkey-9.0", "HDEL h a b"),
    ("HGETDEL h FIELDS 2 a b", "valkey-9.1", "8.2", "="),
    ("HSET h a 1 b 2", "7.0", "3.2", "HMSET h a 1 b 2"),
    # streams
    ("XADD x IDMP p i 1-1 f v", "8.10.2", "8.10.2", "XADD x 1-1 f v; XIDMPRECORD x p i 1-1"),
    ("XADD x IDMP p i 1-1 f v", "8.10.2", "8.2.3", "XADD x 1-1 f v"),
    ("XADD x IDMPAUTO p MAXLEN = 5 1-1 f v", "8.10.2", "8.10.2", "XADD x MAXLEN = 5 1-1 f v"),
    ("XADD x IDMP p i * f v", "8.10.2", "8.10.2", "drop:duplicate-message"),
    ("XADD x IDMP p i * f v", "8.10.2", "valkey-9.1", "drop:duplicate-message"),
    ("XADD x NOMKSTREAM KEEPREF MAXLEN = 5 1-1 f v", "8.2", "7.0", "XADD x NOMKSTREAM MAXLEN = 5 1-1 f v"),
    ("XADD x NOMKSTREAM 1-1 f v", "7.0", "6.0", "XADD x 1-1 f v"),
    ("XADD x ACKED MAXLEN = 5 1-1 f v", "8.2", "7.0", "no:redis 7.0 has no XADD ACKED"),
    ("XADD x 1-1 IDMP v", "8.10.2", "6.2", "="),
    ("XTRIM x MAXLEN = 3 KEEPREF", "8.2", "7.0", "XTRIM x MAXLEN = 3"),
    ("XTRIM x MINID = 3-0 LIMIT 1", "7.0", "7.0", "XTRIM x MINID = 3-0"),
    ("XTRIM x MAXLEN = 3 LIMIT 1 DELREF", "8.2", "8.2", "XTRIM x MAXLEN = 3 DELREF"),
    ("XTRIM x MAXLEN ~ 3 LIMIT 1", "7.0", "7.0", "="),
    ("XADD x MINID = 3-0 LIMIT 10 5-1 f v", "7.0", "valkey-9.1", "XADD x MINID = 3-0 5-1 f v"),
    ("XADD x NOMKSTREAM MAXLEN = 3 LIMIT 10 5-1 f v", "6.2", "7.0", "XADD x NOMKSTREAM MAXLEN = 3 5-1 f v"),
    ("XADD x 5-1 LIMIT 1 f v f v f v f v", "7.0", "7.0", "="),
    ("XSETID x 5-5 ENTRIESADDED 3 MAXDELETEDID 2-2", "7.0", "6.2", "XSETID x 5-5"),
    ("XGROUP SETID x g 5-5 ENTRIESREAD 3", "8.2", "6.2", "XGROUP SETID x g 5-5"),
    ("XGROUP CREATE x g $ MKSTREAM ENTRIESREAD 3", "8.2", "6.2", "XGROUP CREATE x g $ MKSTREAM"),
    ("XGROUP CREATE x g $ MKSTREAM", "8.2", "6.2", "="),
    ("XGROUP CREATECONSUMER x g c", "7.0", "6.0", "XREADGROUP GROUP g c COUNT 1 STREAMS x 0"),
    ("XDELEX x IDS 1 1-1", "8.2", "valkey-9.1", "XDEL x 1-1"),
    ("XCFGSET x IDMP-DURATION 60", "8.6", "8.2", "drop:no-idmp"),
    ("XNACK x g FAIL IDS 1 1-1", "8.10", "8.6", "no:redis 8.6 has no XNACK"),
    # the rest
    ("VADD v VALUES 1 1 e", "8.10", "valkey-9.1", "no:valkey 9.1 has no VADD"),
    ("ARSET r 0 a", "8.10", "8.6", "no:redis 8.6 has no ARSET"),
    ("FUNCTION LOAD code", "7.0", "7.0", "FUNCTION LOAD REPLACE code"),
    ("FUNCTION LOAD REPLACE code", "7.0", "7.0", "="),
    ("FUNCTION LOAD code", "7.0", "6.2", "drop:no-functions"),
    ("FUNCTION DELETE lib", "7.0", "7.2", "="),
    ("SCRIPT LOAD code", "5.0", "7.0", "="),
    ("SCRIPT FLUSH", "5.0", "7.0", "drop:script-flush"),
    ("PUBLISH c m", "7.0", "5.0", "="),
    ("SPUBLISH c m", "7.0", "6.2", "drop:no-sharded-pubsub"),
    ("MODULE.COMMAND a b", "7.0", "5.0", "="),
    ("EVAL code 1 k", "4.0", "7.0", "="),
]


@pytest.mark.parametrize(("text", "source", "target", "expected"), OLDER)
def test_words_that_the_target_knows(text: str, source: str, target: str, expected: str) -> None:
    assert rewritten(text, source, target) == expected


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("SET k v KEEPTTL", "5.0"),
        ("MSETEX 1 k v KEEPTTL", "5.0"),
        ("COPY a b DB 3", "6.0"),
        ("LMOVE a b LEFT LEFT", "6.0"),
        ("ZADD z LT XX 1 a", "6.0"),
        ("ZRANGESTORE d s 0 1", "6.0"),
        ("ZDIFFSTORE d 2 a b", "6.0"),
        ("XTRIM x MINID = 5", "6.0"),
        ("XACKDEL x g IDS 1 1-1", "8.0"),
        ("XDELEX x ACKED IDS 1 1-1", "valkey-9.1"),
        ("HSETEX h KEEPTTL FIELDS 1 f v", "7.4"),
    ],
)
def test_scripts_stand_in_and_name_every_key(text: str, target: str) -> None:
    result = Rewriter(kind("8.10"), kind(target)).command(argv(text), NOW)
    assert isinstance(result, list)
    assert result[-1][0] == b"EVAL"
    assert {key for _, key in all_keys(argv(text))} == {key for out in result for _, key in all_keys(out)}


UNCONDITIONAL = [
    ("SET k v NX", "SET k v"),
    ("SET k v XX KEEPTTL", "SET k v KEEPTTL"),
    ("SET k v IFEQ w PXAT 5", "SET k v PXAT 5"),
    ("SETNX k v", "SET k v"),
    ("MSETNX a 1 b 2", "MSET a 1 b 2"),
    ("HSETNX h f v", "HSET h f v"),
    ("RENAMENX a b", "RENAME a b"),
    ("COPY a b", "COPY a b REPLACE"),
    ("COPY a b REPLACE", "="),
    ("LPUSHX l a", "LPUSH l a"),
    ("PEXPIREAT k 5 GT", "PEXPIREAT k 5"),
    ("PEXPIREAT k 5", "="),
    ("HPEXPIREAT h 5 NX FIELDS 1 f", "HPEXPIREAT h 5 FIELDS 1 f"),
    ("HPEXPIREAT h 5 FIELDS 1 f", "="),
    ("HSETEX h FNX KEEPTTL FIELDS 1 f v", "HSETEX h KEEPTTL FIELDS 1 f v"),
    ("MSETEX 1 a 1 NX PXAT 5", "MSETEX 1 a 1 PXAT 5"),
    ("RESTORE k 0 payload", "RESTORE k 0 payload REPLACE"),
    ("ZADD z GT 1 a", "="),
]


@pytest.mark.parametrize(("text", "expected"), UNCONDITIONAL)
def test_conditions_are_taken_away_in_two_way_tasks(text: str, expected: str) -> None:
    assert rewritten(text, "8.10", "8.10", unconditional=True) == expected


def test_valkey_names_fields_for_which_a_condition_did_not_hold() -> None:
    """A field of these that had no deadline would get one at the other side alone."""
    text = "HPEXPIREAT h 5 GT FIELDS 2 f g"
    assert rewritten(text, "valkey-9.1", "valkey-9.1", unconditional=True) == "="
    assert rewritten(text, "8.2", "valkey-9.1", unconditional=True) == "HPEXPIREAT h 5 FIELDS 2 f g"
    text = "HPEXPIREAT h 5 GT FIELDS 1 f"
    assert rewritten(text, "valkey-9.1", "valkey-9.1", unconditional=True) == "HPEXPIREAT h 5 FIELDS 1 f"


# --- plain names ---------------------------------------------------------------------------------------------

KINDS = ["2.8.17", "5.0.10", "6.0.16", "6.2.14", "7.0.15", "7.4.1", "8.2.3", "8.10.2", "valkey-8.1.8", "valkey-9.1.2"]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_plain_names_are_the_ones_that_no_rule_changes(source: str, target: str) -> None:
    plain = plain_for(kind(source), kind(target))
    for text, _ in RELATIVE + [(text, "") for text, *_ in OLDER]:
        command = argv(text)
        wanted = plain.get(command[0], -1)
        if wanted in (0, len(command)) and _may_send(source, command):
            assert rewritten(text, source, target) == "=", text


def _may_send(source: str, command: list[bytes]) -> bool:
    """Options that the source does not know do not come from it."""
    newest = {
        b"XADD": (8, 6),
        b"BITOP": (8, 2),
        b"ZADD": (6, 2),
        b"LPOP": (6, 2),
        b"rpop": (6, 2),
        b"PEXPIREAT": (7, 0),
    }
    since = {b"XGROUP": (7, 0), b"XSETID": (7, 0), b"XTRIM": (8, 2), b"FLUSHDB": (6, 2), b"HSET": (4, 0)} | newest
    return kind(source).at_least(since.get(command[0], (0,)), None)


def test_plain_of_the_same_version_is_the_documented_set_and_plain_set() -> None:
    plain = plain_for(kind("8.6"), kind("8.6"))
    known = {name for name in PLAIN if Rewriter(None, kind("8.6")).command([name], 0) == [[name]]}
    assert known <= set(plain)
    assert plain[b"SET"] == plain[b"set"] == SET_AT
    assert plain_for(kind("5.0"), kind("6.0"))[b"SET"] == 3  # PXAT came with 6.2
    assert plain[b"INCR"] == plain[b"incr"] == 0
    assert b"XADD" not in plain and b"EVAL" not in plain and b"FLUSHALL" not in plain


def test_xadd_is_plain_where_no_idempotent_ids_can_come() -> None:
    assert plain_for(kind("5.0"), kind("7.0"))[b"XADD"] == plain_for(kind("6.0"), kind("6.2"))[b"xadd"] == -10
    assert plain_for(kind("7.0"), kind("7.0"))[b"XADD"] == plain_for(kind("7.0"), kind("valkey-9.1"))[b"XADD"] == -10
    assert plain_for(kind("valkey-9.1"), kind("valkey-9.1"))[b"XADD"] == -10
    assert b"XADD" not in plain_for(kind("8.2"), kind("8.2"))
    assert b"XADD" not in plain_for(None, kind("7.0"))


def test_with_a_transform_nothing_is_plain() -> None:
    assert plain_for(kind("7.0"), kind("7.0"), identity=False) == {}


def test_pexpireat_is_plain_without_conditions_only_in_two_way_tasks() -> None:
    plain = Rewriter(kind("7.0"), kind("7.0"), unconditional=True).plain()
    assert plain[b"PEXPIREAT"] == 3 and b"SETNX" not in plain
    assert plain_for(kind("7.0"), kind("7.0"))[b"PEXPIREAT"] == 0


# --- payloads ------------------------------------------------------------------------------------------------

LISTPACK_SET = (20, b"\x0d\x0d\x00\x00\x00\x02\x00\x81a\x02\x81b\x02\xff")  # type 20 of RDB 11: {a, b}


def payload_rewriter(source: str, target: str) -> Rewriter:
    to = kind(target)
    return Rewriter(kind(source), to, restore=Payloads(Target.of(to.flavor, ".".join(map(str, to.version)))))


def restored(rewriter: Rewriter, payload: bytes, *options: bytes) -> list[list[bytes]]:
    result = rewriter.command([b"RESTORE", b"k", b"0", payload, *options], NOW)
    assert isinstance(result, list)
    return result


def test_a_payload_that_the_target_loads_passes_as_it_is() -> None:
    payload = dump_payload(0, b"\x01v", 10)
    command = [b"RESTORE", b"k", b"0", payload]
    result = payload_rewriter("7.0", "7.2").command(command, NOW)
    assert isinstance(result, list) and result[0] is command


def test_a_payload_of_a_newer_version_with_an_old_encoding_is_stamped_anew() -> None:
    (command,) = restored(payload_rewriter("8.10", "7.0"), dump_payload(0, b"\x01v", 15), b"REPLACE")
    assert command[:3] == [b"RESTORE", b"k", b"0"] and command[4:] == [b"REPLACE"]
    taken = split_payload(command[3])
    assert (taken.type, decode_string(taken.value), taken.version) == (0, b"v", 10)


def test_a_payload_with_a_new_encoding_becomes_commands_and_a_deadline() -> None:
    rewriter = payload_rewriter("8.10", "7.0")
    payload = dump_payload(*LISTPACK_SET, 15)
    result = rewriter.command([b"RESTORE", b"k", b"100", payload], NOW)
    assert result == [[b"DEL", b"k"], [b"SADD", b"k", b"a", b"b"], [b"PEXPIREAT", b"k", b"%d" % (NOW + 100)]]


def test_a_payload_without_checksum_passes_and_one_too_short_is_impossible() -> None:
    payload = dump_payload(0, b"\x01v", 10)[:-8] + bytes(8)
    assert restored(payload_rewriter("8.10", "7.0"), payload)[0][3] is payload
    result = payload_rewriter("8.10", "7.0").command([b"RESTORE", b"k", b"0", b"short"], NOW)
    assert isinstance(result, Impossible) and "at least 10 bytes" in result.reason


def test_an_array_cannot_be_brought_to_an_older_server() -> None:
    result = payload_rewriter("8.10", "8.6").command([b"RESTORE", b"k", b"0", dump_payload(28, b"\x00", 15)], NOW)
    assert isinstance(result, Impossible) and "arrays" in result.reason


def test_without_a_converter_payloads_pass_to_the_same_flavor_and_no_older_version_only() -> None:
    assert rewritten("RESTORE k 0 payload", "7.0", "7.2") == "="
    assert rewritten("RESTORE k 0 payload", "7.2", "7.0").startswith("no:redis 7.0 cannot load")


def test_functions_of_a_newer_version_are_loaded_one_by_one() -> None:
    payload = b"\xf5\x05code1\xf5\x05code2" + (80).to_bytes(2, "little") + bytes(8)  # CRC 0: not computed
    rewriter = payload_rewriter("valkey-9.1", "8.2")
    loads = [[b"FUNCTION", b"LOAD", b"REPLACE", b"code1"], [b"FUNCTION", b"LOAD", b"REPLACE", b"code2"]]
    assert rewriter.command([b"FUNCTION", b"RESTORE", payload], NOW) == loads
    assert rewriter.command([b"FUNCTION", b"RESTORE", payload, b"FLUSH"], NOW) == [[b"FUNCTION", b"FLUSH"], *loads]
    same = payload_rewriter("valkey-9.1", "valkey-9.1").command([b"FUNCTION", b"RESTORE", payload], NOW)
    assert same == [[b"FUNCTION", b"RESTORE", payload, b"REPLACE"]]


@pytest.mark.parametrize("body", [b"\xf5\x05cod", b"\xf4\x01a", b"\xf5"])
def test_a_broken_payload_of_functions_is_impossible_not_a_crash(body: bytes) -> None:
    with pytest.raises(ReplayError, match="payload of functions"):
        function_loads(body + bytes(10))


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [(b"5-3", b"5-2"), (b"5-0", b"4-18446744073709551615"), (b"5", b"4-18446744073709551615"), (b"0-0", b"0-0")],
)
def test_the_id_before(identifier: bytes, expected: bytes) -> None:
    assert before(identifier) == expected


@pytest.mark.parametrize("target", KINDS)
def test_malformed_commands_never_raise(target: str) -> None:
    rewriter = Rewriter(None, kind(target), unconditional=True)
    for info in COMMANDS:
        for size in range(9):
            for filler in (b"", b"1", b"x", b"EX", b"FIELDS", b"IDMP", b"MINID", b"IDS", b"ENTRIESREAD", b"LOAD"):
                rewriter.command([info.name, *[filler] * size], NOW)
