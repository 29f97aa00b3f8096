"""RESTORE and FUNCTION RESTORE of the stream, for a target of another version."""

from __future__ import annotations

import pytest

from canal.errors import RdbError
from canal.rdb.dump import dump_payload, function_payload, payload_version, split_payload
from canal.rdb.restore import Restore, adapt_function_restore, adapt_restore
from canal.rdb.target import NotLoadable, Target
from tests.support.rdb_build import listpack, lp_int, lp_text, string

OLD = Target.of("redis", "6.2.14")
NEW = Target.of("redis", "8.2.3")
STRING_12 = dump_payload(0, b"\x01a", 12)
HASH_12 = dump_payload(16, string(listpack(lp_text(b"f"), lp_int(7))), 12)


def restore(payload: bytes, *rest: bytes, ttl: bytes = b"0") -> list[bytes]:
    return [b"restore", b"k", ttl, payload, *rest]


def test_what_the_target_loads_is_left_as_it_is() -> None:
    argv = restore(STRING_12, b"replace", b"IDLETIME", b"5")
    assert adapt_restore(argv, NEW) == [argv]


def test_a_payload_of_a_newer_version_is_stamped_anew() -> None:
    ((*head, payload, replace, absolute),) = adapt_restore(restore(STRING_12, b"REPLACE", b"ABSTTL", ttl=b"99"), OLD)
    assert (head, replace, absolute) == ([b"restore", b"k", b"99"], b"REPLACE", b"ABSTTL")
    assert (split_payload(payload).version, split_payload(payload).value) == (9, b"\x01a")


@pytest.mark.parametrize(("rest", "verb"), [((b"ABSTTL",), b"PEXPIREAT"), ((), b"PEXPIRE")])
def test_an_encoding_that_the_target_does_not_know_becomes_commands(rest: tuple[bytes, ...], verb: bytes) -> None:
    made = [[b"DEL", b"k"], [b"HSET", b"k", b"f", b"7"]]
    assert adapt_restore(restore(HASH_12, *rest), OLD) == made
    assert adapt_restore(restore(HASH_12, *rest, ttl=b"99"), OLD) == [*made, [verb, b"k", b"99"]]


def test_a_checksum_of_0_is_accepted() -> None:
    argv = restore(HASH_12[:-8] + b"\0" * 8)
    assert adapt_restore(argv, OLD)[1] == [b"HSET", b"k", b"f", b"7"]


def test_valkey_9_to_redis_and_back() -> None:
    of_valkey = restore(dump_payload(0, b"\x01a", 80))
    assert payload_version(adapt_restore(of_valkey, NEW)[0][3]) == 11
    assert payload_version(adapt_restore(restore(STRING_12), Target.of("valkey", "9.1.2"))[0][3]) == 11
    assert adapt_restore(of_valkey, Target.of("valkey", "9.1.2")) == [of_valkey]


def test_redis_4_knows_neither_absolute_deadlines_nor_hints() -> None:
    four = Target.of("redis", "4.0.14")
    argv = restore(dump_payload(0, b"\x01a", 8), b"ABSTTL", b"FREQ", b"3", b"REPLACE", ttl=b"99")
    assert adapt_restore(argv, four) == [[b"RESTORE", b"k", b"0", argv[3], b"REPLACE"], [b"PEXPIREAT", b"k", b"99"]]


def test_a_module_is_never_forged() -> None:
    with pytest.raises(NotLoadable, match=r"key b'k': .* a module's value cannot be converted"):
        adapt_restore(restore(dump_payload(7, b"\x05\x00", 12)), OLD)


def test_a_broken_payload_is_an_error_where_it_must_be_read() -> None:
    with pytest.raises(RdbError, match="checksum"):
        adapt_restore(restore(HASH_12[:-1] + b"x"), OLD)


@pytest.mark.parametrize(
    "argv",
    [
        [b"RESTORE"],
        restore(b"short"),
        restore(STRING_12, b"WHAT"),
        restore(STRING_12, b"FREQ"),
        restore(STRING_12, ttl=b"x"),
    ],
)
def test_what_is_not_understood_is_left_to_the_target(argv: list[bytes]) -> None:
    assert adapt_restore(argv, OLD) == [argv]


def test_all_arguments_are_read() -> None:
    argv = restore(STRING_12, b"Replace", b"absttl", b"idletime", b"7", b"freq", b"9", ttl=b"5")
    assert Restore.parse(argv) == Restore(b"k", 5, STRING_12, True, True, 7, 9)


def test_function_payloads_are_stamped_anew() -> None:
    argv = [b"FUNCTION", b"RESTORE", function_payload([b"\x03abc"], 12), b"FLUSH"]
    assert adapt_function_restore(argv, NEW) == argv
    stamped = adapt_function_restore(argv, Target.of("redis", "7.0.15"))
    assert (payload_version(stamped[2]), stamped[2][:5], stamped[3]) == (10, b"\xf5\x03abc", b"FLUSH")
    assert payload_version(adapt_function_restore(argv, Target.of("valkey", "9.1.2"))[2]) == 11
    with pytest.raises(NotLoadable, match="functions need"):
        adapt_function_restore(argv, OLD)
