"""Commands grouped by slot and bundled to transactions: in each slot what was there before, in the same order."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal import grouping
from canal.cluster import SLOTS, slot_of
from canal.resp import encode, parse
from canal.routing import Lane
from sync.batch import Batch
from sync.target.cluster.bulk import operations
from sync.target.cluster.lanes import SINGLE, Lanes
from sync.unit import Piece, Unit
from tests.support.process import ROOT


def plain_grouping() -> ModuleType:
    """`canal/grouping.py` as plain Python, whatever the package uses."""
    spec = importlib.util.spec_from_file_location("plain_grouping", ROOT / "canal" / "grouping.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FORMS = (plain_grouping(), *([grouping] if grouping.compiled() else []))
both = pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])

keys = st.one_of(
    st.sampled_from([b"a", b"b", b"{a}1", b"{a}2", b"{}x", b"x{", b"}{a}", b"{{a}}", b"", b"\r\n", b"\xff{a"]),
    st.binary(max_size=12),
)
values = st.one_of(st.binary(max_size=12), st.sampled_from([b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n", b"y" * 300]))
sets = st.tuples(st.sampled_from([b"SET", b"set", b"sEt"]), keys, values).map(list)
others = st.one_of(
    st.tuples(st.sampled_from([b"INCR", b"DEL", b"unlink"]), keys).map(list),
    st.tuples(st.sampled_from([b"APPEND", b"MSET", b"lpush"]), keys, values).map(list),
    st.tuples(st.just(b"SET"), keys, values, st.just(b"PXAT"), st.just(b"1")).map(list),
)
streams = st.lists(st.one_of(sets, sets, sets, others), max_size=40)
KEYS = [b"$5\r\n%05d\r\n" % slot for slot in range(SLOTS)]
OPENING, WORDS = b"*4\r\n$4\r\nHSET\r\n", b"$3\r\npos\r\n$1\r\n7\r\n"
GROUPS: list[list[bytes]] = [[] for _ in range(SLOTS)]


def parsed(raw: bytes) -> list[list[bytes]]:
    out, at = [], 0
    while at < len(raw):
        found = parse(raw, at, len(raw))
        assert found is not None
        argv, at = found
        out.append(argv)
    return out


def expanded(commands: list[list[bytes]]) -> list[list[bytes]]:
    """Each MSET as SETs, and all spelled alike."""
    out: list[list[bytes]] = []
    for argv in commands:
        if argv[0] == b"MSET":
            out += [[b"SET", key, value] for key, value in zip(argv[1::2], argv[2::2], strict=True)]
        else:
            out.append([b"SET", *argv[1:]] if argv[0].upper() == b"SET" else argv)
    return out


def model(stream: list[list[bytes]]) -> dict[int, list[list[bytes]]]:
    out: dict[int, list[list[bytes]]] = {}
    for argv in stream:
        out.setdefault(slot_of(argv[1]), []).append(argv)
    return out


@both
@given(streams)
def test_each_slot_gets_its_commands_in_one_transaction(form: ModuleType, stream: list[list[bytes]]) -> None:
    raw = b"".join(map(encode, stream))
    used: list[int] = []
    met: list[int] = []
    assert form.gather(raw, 0, 3, GROUPS, used, SINGLE, met) == (len(raw), 3 + len(stream))
    wanted = model(stream)
    assert used == list(wanted)
    assert met == [slot_of(argv[1]) for argv in stream]
    if not used:
        return
    data, replies, plain = form.bundle(used, GROUPS, KEYS, OPENING, WORDS)
    assert not any(GROUPS)
    commands = parsed(data)
    assert replies == len(commands)
    for slot in used:
        assert commands[:2] == [[b"MULTI"], [b"HSET", b"%05d" % slot, b"pos", b"7"]]
        end = commands.index([b"EXEC"])
        assert expanded(commands[2:end]) == expanded(wanted[slot])
        if plain:
            assert end == 3 and commands[2][0] in (b"SET", b"MSET")
        commands = commands[end + 1 :]
    assert commands == []


@both
@given(streams)
def test_which_commands_one_was_joined_of(form: ModuleType, stream: list[list[bytes]]) -> None:
    """`operations` says it from the lanes, `bundle` did it: failures are named by it."""
    raw = b"".join(map(encode, stream))
    batch = Batch(len(raw), 0, [Unit(len(raw), 0, [Piece(0, raw, len(stream))], 0)], len(stream), len(raw))
    lanes: dict[int, Lane] = Lanes("t", "0", lambda db, key: key).by_slot(batch) if stream else {}
    used: list[int] = []
    form.gather(raw, 0, 0, GROUPS, used, SINGLE, None)
    for slot in used:
        data, _, _ = form.bundle([slot], GROUPS, KEYS, OPENING, WORDS)
        sent = parsed(data)[2:-1]
        found = operations(lanes[slot])
        assert len(found) == len(sent)
        for indexes, argv in zip(found, sent, strict=True):
            of = [stream[lanes[slot].numbers[index]] for index in indexes]
            assert expanded([argv]) == expanded(of)


@both
def test_the_walk_stops_at_what_has_no_one_key(form: ModuleType) -> None:
    first, second = encode([b"SET", b"a", b"1"]), encode([b"MSET", b"{a}", b"1", b"{a}2", b"2"])
    used: list[int] = []
    assert form.gather(first + second, 0, 0, GROUPS, used, SINGLE, None) == (len(first), 1)
    assert used == [slot_of(b"a")]
    GROUPS[used[0]].clear()
