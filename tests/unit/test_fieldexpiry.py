"""What becomes of a server's HDEL of fields whose deadline has passed, and of a user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.commands import ServerKind
from canal.endpoint import parse_url
from canal.resp import encode, parse
from sync.adjust import make_rules
from sync.conditional import FIELDS_IF, MOST_FIELDS, is_conditional
from sync.config import LinkConfig
from sync.expiry import Deadlines, ExpiryRule
from sync.fieldexpiry import FieldDeadlines, FieldRule
from sync.transform import Transform
from sync.unit import UnitReader

NOW = 1_700_000_000_000
REDIS = ServerKind("redis", (8, 2, 0))
VALKEY = ServerKind("valkey", (9, 1, 0))


class Stream:
    """A stream as the rules of a two-way link see it."""

    def __init__(self, kind: ServerKind = REDIS, max_fields: int = 1000) -> None:
        config = LinkConfig(
            "t",
            parse_url("redis://a"),
            parse_url("redis://b"),
            Path("/nowhere"),
            source_dc="a",
            target_dc="b",
            two_way=True,
            flush="replay",
        )
        self.fields = FieldRule(FieldDeadlines(max_fields), kind.flavor)
        self.rules = make_rules(
            config, kind, kind, Transform(config.transform), ExpiryRule(Deadlines(), b""), self.fields
        )
        self.reader = UnitReader(0, 0, self.rules)
        self._at = 0

    def send(self, *lines: str | list[bytes], at: int = NOW) -> list[list[bytes]]:
        """What goes to the target for these commands."""
        raw = b"".join(encode(line.encode().split() if isinstance(line, str) else line) for line in lines)
        units = self.reader.feed(self._at, raw, at)
        self._at += len(raw)
        out = []
        for unit in units:
            for piece in unit.pieces:
                rest = piece.raw
                while rest:
                    argv = _first(rest)
                    out.append(argv)
                    rest = rest[len(encode(argv)) :]
        return out


def _first(raw: bytes) -> list[bytes]:
    found = parse(raw, 0, len(raw))
    assert found is not None
    return found[0]


def conditional(key: str, *ends: tuple[str, int]) -> list[bytes]:
    words = [word for field, at in ends for word in (field.encode(), b"%d" % (at + 2))]
    return [b"EVAL", FIELDS_IF, b"1", key.encode(), b"fields", *words]


def words(line: str) -> list[bytes]:
    return line.encode().split()


def test_until_a_field_has_a_deadline_nothing_is_looked_at() -> None:
    stream = Stream()
    assert {b"HSET", b"hset", b"HDEL", b"HMSET", b"HINCRBY"} <= set(stream.rules.plain)
    stream.send("HSET h f v", "HDEL h f")
    assert stream.fields.conditional == 0
    stream.send(f"HSETEX h PXAT {NOW + 5} FIELDS 1 f v")
    assert not {b"HSET", b"hset", b"HDEL", b"HMSET"} & set(stream.rules.plain)
    assert b"HINCRBY" in stream.rules.plain


def test_a_passed_deadline_makes_the_delete_conditional_and_others_go_as_they_are() -> None:
    stream = Stream()
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 2 f 1 g 2", f"HPEXPIREAT h {NOW + 9999} FIELDS 1 later")
    assert stream.send("HDEL h f") == [conditional("h", ("f", NOW - 5))]
    assert stream.send("HDEL h later g user") == [words("HDEL h later user"), conditional("h", ("g", NOW - 5))]
    assert stream.send("HDEL h f") == [words("HDEL h f")], "it went, so this one is of another life"
    assert stream.fields.conditional == 2
    assert is_conditional(conditional("h", ("f", 1)))


@pytest.mark.parametrize(
    "line",
    [
        "HSET h x 1 f 2",
        "HMSET h f 2",
        "HSETEX h FIELDS 1 f 2",
        "HPERSIST h FIELDS 1 f",
        f"HPEXPIREAT h {NOW + 10_000} FIELDS 1 f",
        f"HSETEX h PXAT {NOW + 10_000} FIELDS 2 x 1 f 2",
        "DEL h",
        "UNLINK x h",
        "RENAME x h",
        "COPY x h REPLACE",
        "FLUSHALL",
    ],
)
def test_what_takes_a_deadline_away_or_puts_it_off(line: str) -> None:
    stream = Stream()
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f v", line)
    assert stream.send("HDEL h f") == [words("HDEL h f")]


def test_increments_and_values_that_keep_their_ttl_keep_it() -> None:
    stream = Stream()
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1", "HINCRBY h f 1", "HSETEX h KEEPTTL FIELDS 1 f 2.5")
    assert stream.send("HDEL h f") == [conditional("h", ("f", NOW - 5))]


def test_a_hash_takes_its_deadlines_along() -> None:
    stream = Stream()
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1", "RENAME h i", "MOVE i 3", "SELECT 3")
    assert stream.send("HDEL i f") == [conditional("i", ("f", NOW - 5))]


def test_what_the_stream_brings_first_counts_and_not_the_clock_of_today() -> None:
    stream = Stream()
    stream.fields.offset_ms = -2000  # the source's clock is behind
    stream.send(f"HSETEX h PXAT {NOW - 500} FIELDS 1 f 1")
    assert stream.send("HDEL h f") == [words("HDEL h f")]


def test_the_unlink_that_valkey_adds_is_left_out_and_a_users_is_not() -> None:
    stream = Stream(VALKEY)
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 2 f 1 g 2")
    ends = conditional("h", ("g", NOW - 5), ("f", NOW - 5))
    assert stream.send("MULTI", "HDEL h g f", "UNLINK h", "EXEC") == [ends]
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1")
    assert stream.send("HDEL h f", "UNLINK h") == [conditional("h", ("f", NOW - 5)), words("UNLINK h")]
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1")
    sent = stream.send("MULTI", "HDEL h f user", "UNLINK h", "EXEC")
    assert sent == [words("HDEL h user"), conditional("h", ("f", NOW - 5)), words("UNLINK h")]
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1")
    sent = stream.send("MULTI", "HDEL h f", "SET x 1", "UNLINK h", "EXEC")
    assert sent == [conditional("h", ("f", NOW - 5)), words("SET x 1"), words("UNLINK h")]


def test_redis_names_a_field_that_it_has_just_taken_away_once_more() -> None:
    stream = Stream()
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 a 1")
    sent = stream.send("MULTI", "HDEL h a", "HDEL h a b", "EXEC")  # HGETDEL h FIELDS 2 a b
    ends = conditional("h", ("a", NOW - 5))
    assert sent == [ends, words("HDEL h b"), ends]


def test_valkey_sends_on_fields_that_a_command_did_nothing_to() -> None:
    stream = Stream(VALKEY)
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1")
    stream.send(f"HPEXPIREAT h {NOW + 60_000} FIELDS 2 f g")  # f had expired: only g was changed
    assert stream.send("HDEL h user f") == [words("HDEL h user"), conditional("h", ("f", NOW - 5))]
    assert stream.send("HGETDEL h FIELDS 2 user f") == [words("HDEL h user"), conditional("h", ("f", NOW - 5))]
    assert stream.send("HDEL h f") == [conditional("h", ("f", NOW - 5))], "now its cycle has taken it away"
    stream.send(f"HPEXPIREAT h {NOW - 5} GT FIELDS 2 g none", f"HPEXPIREAT h {NOW - 5} NX FIELDS 2 g none")
    assert stream.send("HDEL h g") == [words("HDEL h g")], "its deadline was later, and it had one"
    assert stream.send("HDEL h none") == [conditional("h", ("none", NOW - 5))]


def test_many_fields_go_in_several_calls() -> None:
    stream = Stream(max_fields=5000)
    names = [b"%d" % i for i in range(1200)]
    pairs = [word for name in names for word in (name, b"v")]
    stream.send([b"HSETEX", b"h", b"PXAT", b"%d" % (NOW - 5), b"FIELDS", b"1200", *pairs])
    sent = stream.send([b"HDEL", b"h", *names])
    assert [(len(argv) - 5) // 2 for argv in sent] == [MOST_FIELDS, MOST_FIELDS, 200]


def test_beyond_the_bound_deletes_are_unconditional_and_counted() -> None:
    stream = Stream(max_fields=2)
    stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 3 a 1 b 2 c 3")
    assert stream.fields.deadlines.untracked == 1
    ends = conditional("h", ("a", NOW - 5), ("b", NOW - 5))
    assert stream.send("HDEL h a b c") == [words("HDEL h c"), ends]


def test_deadlines_of_hashes_that_are_gone_make_room_an_hour_later() -> None:
    stream = Stream(max_fields=5000)
    pairs = " ".join(f"{i} v" for i in range(5000))
    stream.send(f"HSETEX h PXAT {NOW + 1000} FIELDS 5000 {pairs}", "DEL h")
    stream.send(f"HSETEX i PXAT {NOW + 1000} FIELDS 5000 {pairs}", at=NOW + 5000)
    assert stream.fields.deadlines.untracked == 5000
    stream.send(f"HSETEX i PXAT {NOW + 9_000_000} FIELDS 5000 {pairs}", at=NOW + 7_200_000)
    assert stream.fields.deadlines.untracked <= 5000 + 256, "a table a turn is looked at"
    number = stream.fields.deadlines.known((0, b"i"))
    assert sum(stream.fields.deadlines.get(number, b"%d" % i) == NOW + 9_000_000 for i in range(5000)) >= 5000 - 256


def test_commands_of_a_key_that_is_fetched_are_followed_though_they_are_passed_over() -> None:
    stream = Stream()
    stream.rules.over = lambda db, argv: "fetched"
    assert stream.send(f"HSETEX h PXAT {NOW - 5} FIELDS 2 f 1 g 2", "HSET h g 3") == []
    stream.rules.over = None
    assert stream.send("HDEL h f g") == [words("HDEL h g"), conditional("h", ("f", NOW - 5))]


def test_what_is_dropped_as_an_echo_is_followed() -> None:
    stream = Stream()
    tag = "HSET redis-canal:checkpoint:b-a/0 v 1 origin b pos 0123456789012345678901234567890123456789:5"
    assert stream.send("MULTI", tag, f"HSETEX h PXAT {NOW - 5} FIELDS 1 f 1", "EXEC") == []
    assert stream.send("HDEL h f") == [conditional("h", ("f", NOW - 5))]
