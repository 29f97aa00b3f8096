"""Framing: what is stepped over, where it stops and why; the same from plain Python and from compiled code."""

from __future__ import annotations

from types import ModuleType

import pytest

from canal.errors import ProtocolError
from canal.resp import LIMIT, MAX_ARGUMENTS, MAX_BULK, NEED_MORE, SPECIAL, encode, need, parse
from tests.support.framings import FRAMINGS, NAMES

PLAIN = {b"SET": 3, b"INCR": 0}
FAR = 1 << 60

SET = encode([b"SET", b"key", b"value"])
INCR = encode([b"INCR", b"n"])
BINARY = encode([b"SET", b"\r\n", b"*3\r\n$3\r\nSET\r\n\x00"])
EMPTY = encode([b"SET", b"", b""])
SPECIAL_SET = encode([b"SET", b"key", b"value", b"PX", b"100"])
MULTI = encode([b"MULTI"])


@pytest.fixture(params=FRAMINGS, ids=NAMES)
def framing(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def scan(
    framing: ModuleType, buf: bytes, pos: int = 0, stop: int = FAR, commands: int = 1000, size: int = 1 << 20
) -> tuple[int, int, int]:
    found: tuple[int, int, int] = framing.scan(buf, pos, len(buf), stop, commands, size, PLAIN)
    return found


def test_steps_over_plain_commands_to_the_end(framing: ModuleType) -> None:
    buf = SET + INCR + BINARY + EMPTY
    assert scan(framing, buf) == (len(buf), 4, NEED_MORE)


@pytest.mark.parametrize("command", [SPECIAL_SET, MULTI, encode([b"set", b"k", b"v"]), encode([b"SET", b"k"])])
def test_stops_before_what_has_to_be_looked_at(framing: ModuleType, command: bytes) -> None:
    assert scan(framing, SET + command + SET) == (len(SET), 1, SPECIAL)
    assert scan(framing, command) == (0, 0, SPECIAL)


def test_a_command_whose_name_is_not_here_yet_is_not_special(framing: ModuleType) -> None:
    assert scan(framing, SET + MULTI[:-3]) == (len(SET), 1, NEED_MORE)


def test_stops_before_the_command_that_reaches_beyond_the_mark(framing: ModuleType) -> None:
    buf = SET + SET + SET
    assert scan(framing, buf, stop=len(SET) + 5) == (len(SET), 1, SPECIAL)
    assert scan(framing, buf, stop=len(SET)) == (len(SET), 1, SPECIAL)
    assert scan(framing, buf, stop=2 * len(SET)) == (2 * len(SET), 2, SPECIAL)


def test_stops_at_the_number_of_commands_and_of_bytes(framing: ModuleType) -> None:
    buf = SET * 5
    assert scan(framing, buf, commands=2) == (2 * len(SET), 2, LIMIT)
    assert scan(framing, buf, size=2 * len(SET)) == (2 * len(SET), 2, LIMIT)
    assert scan(framing, buf, size=2 * len(SET) + 1) == (2 * len(SET), 2, LIMIT)
    assert scan(framing, buf, size=1) == (len(SET), 1, LIMIT)  # one command always passes


def test_goes_on_from_an_index(framing: ModuleType) -> None:
    assert scan(framing, SET + INCR, pos=len(SET)) == (len(SET + INCR), 1, NEED_MORE)


@pytest.mark.parametrize("whole", [SET, BINARY, EMPTY, INCR])
def test_a_cut_anywhere_waits_for_more(framing: ModuleType, whole: bytes) -> None:
    for cut in range(len(whole)):
        assert scan(framing, SET + whole[:cut]) == (len(SET), 1, NEED_MORE), cut


LIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b"\n",
    b"*0\r\n",
    b"*\r\n",
    b"*-1\r\n",
    b"*x\r\n",
    b"*1x\r\n",
    b"*%d\r\n" % (MAX_ARGUMENTS + 1),
    b"*99999999999999999999",
    b"*1\r\n+OK\r\n",
    b"*1\r\n:5\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$5x\r\n",
    b"*1\r\n$%d\r\n" % (MAX_BULK + 1),
    b"*1\r\n$99999999999999999999",
    b"*3\r\n$3\r\nSET\r\n*1\r\n",
    b"PING\r\n",
]


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_protocol_errors_with_their_index(framing: ModuleType, lie: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        scan(framing, SET + lie)
    assert caught.value.offset is not None
    assert len(SET) <= caught.value.offset < len(SET + lie)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("lie", LIES)
def test_parse_finds_the_same_lies(lie: bytes) -> None:
    with pytest.raises(ProtocolError):
        found = parse(SET + lie, len(SET), len(SET + lie))
        if found is None:  # not enough to be sure yet: more of the same must not help it
            parse(SET + lie + b"x" * 40, len(SET), len(SET + lie) + 40)


def test_a_claimed_length_allocates_nothing(framing: ModuleType) -> None:
    huge = b"*2\r\n$3\r\nSET\r\n$%d\r\n" % MAX_BULK
    assert scan(framing, huge) == (0, 0, NEED_MORE) or scan(framing, huge)[2] == SPECIAL
    assert parse(huge, 0, len(huge)) is None
    assert need(huge, 0, len(huge)) == len(huge) + MAX_BULK + 2


def test_parse_gives_arguments_and_the_index_after() -> None:
    buf = b"xx" + BINARY + SET
    assert parse(buf, 2, len(buf)) == ([b"SET", b"\r\n", b"*3\r\n$3\r\nSET\r\n\x00"], 2 + len(BINARY))
    assert parse(buf, 2 + len(BINARY), len(buf)) == ([b"SET", b"key", b"value"], len(buf))


def test_parse_wants_the_end_of_a_bulk_string() -> None:
    bad = SET[:-2] + b"xy"
    with pytest.raises(ProtocolError, match="end of a bulk string") as caught:
        parse(bad, 0, len(bad))
    assert caught.value.offset == len(bad) - 2


@pytest.mark.parametrize("whole", [SET, BINARY, EMPTY, encode([b"XADD", b"s", b"*", *[b"f"] * 50])])
def test_need_never_asks_for_more_than_there_is_and_always_for_more_than_is_here(whole: bytes) -> None:
    for cut in range(1, len(whole)):
        asked = need(b"__" + whole[:cut], 2, 2 + cut)
        assert cut < asked <= len(whole), cut


def test_need_of_a_long_value_asks_for_all_of_it() -> None:
    whole = encode([b"SET", b"k", b"x" * 100_000])
    assert need(whole[:100], 0, 100) == len(whole)


def test_script_arguments_keep_the_bytes(framing: ModuleType) -> None:
    raw, total = framing.script_arguments(SET + BINARY, 100)
    assert total == 8
    values = parse(b"*%d\r\n" % total + raw, 0, 1 << 20)
    assert values is not None
    assert values[0] == [b"3", b"SET", b"key", b"value", b"3", b"SET", b"\r\n", b"*3\r\n$3\r\nSET\r\n\x00"]
    assert framing.script_arguments(SET, 2) == (b"", -1)
