"""Values as they are compared: content counts, encoding and order of unordered types do not."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from sync.content import comparable, describe, read_command, size_command, weight

GROUP = [
    b"name", b"g", b"last-delivered-id", b"1-1", b"entries-read", 1, b"lag", 0, b"pel-count", 1,
    b"pel", [[b"1-1", b"c", 1700000000000, 2]],
    b"consumers", [[b"name", b"c", b"seen-time", 5, b"active-time", 5, b"pel-count", 1, b"pel", []]],
]  # fmt: skip


def stream(**changed: Any) -> list[Any]:
    group = list(GROUP)
    for name, value in changed.items():
        if (wanted := name.replace("_", "-").encode()) in group:
            group[group.index(wanted) + 1] = value
    return [
        b"length", 1, b"radix-tree-keys", changed.get("keys", 1), b"last-generated-id", changed.get("last", b"2-0"),
        b"entries", [[b"1-1", [b"f", b"v"]]], b"groups", [group],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "here", "there"),
    [
        (b"set", [b"a", b"b"], [b"b", b"a"]),
        (b"hash", [b"f", b"1", b"g", b"2"], [b"g", b"2", b"f", b"1"]),
        (b"zset", [b"m", b"3", b"n", b"inf"], [b"m", b"3.0", b"n", b"inf"]),
        (b"stream", stream(), stream(entries_read=7, lag=3, keys=9)),
        (b"stream", stream(), stream(consumers=[])),
    ],
)
def test_what_is_the_same(kind: bytes, here: Any, there: Any) -> None:
    assert comparable(kind, here) == comparable(kind, there)


@pytest.mark.parametrize(
    ("kind", "here", "there", "words"),
    [
        (b"string", b"abc", b"abd", "bytes differ"),
        (b"string", b"abc", b"ab", "3 against 2 bytes"),
        (b"list", [b"a", b"b"], [b"b", b"a"], "element 0 differs"),
        (b"list", [b"a"], [b"a", b"a"], "1 against 2 elements"),
        (b"set", [b"a", b"b"], [b"a", b"c"], "1 only at the first side, one is b'b'; 1 only at the second side"),
        (b"hash", [b"f", b"1"], [b"f", b"2"], "1 fields differ, one is b'f'"),
        (b"hash", [b"f", b"1"], [b"f", b"1", b"g", b""], "1 only at the second side, one is b'g'"),
        (b"zset", [b"m", b"0.10000000000000001"], [b"m", b"0.10000000000000002"], "1 scores differ, one is b'm'"),
        (b"stream", stream(), stream(last=b"3-0"), "last differ"),
        (b"stream", stream(), stream(pel=[]), "groups differ"),
        (b"stream", stream(), stream(pel=[[b"1-1", b"d", 1700000000000, 2]]), "groups differ"),
        (b"stream", stream(), stream(last_delivered_id=b"0-0"), "groups differ"),
        (b"module-x", b"dump1", b"dump2", "bytes differ"),
    ],
)
def test_what_differs_and_how(kind: bytes, here: Any, there: Any, words: str) -> None:
    left, right = comparable(kind, here), comparable(kind, there)
    assert left != right
    assert words in describe(kind, left, right)


def test_a_long_name_is_cut() -> None:
    text = describe(b"set", frozenset([b"x" * 5000]), frozenset())
    assert len(text) < 120


def test_an_error_reply_is_not_equal_to_content() -> None:
    wrong = comparable(b"list", hiredis.ReplyError("WRONGTYPE Operation"))
    assert wrong != comparable(b"list", [])
    assert describe(b"list", (), wrong) == "cannot be read at the second side: WRONGTYPE Operation"
    assert describe(b"list", wrong, ()).startswith("cannot be read at the first side")


def test_commands_and_weights() -> None:
    assert size_command(b"hash", b"k") == [b"HLEN", b"k"]
    assert size_command(b"vectorset", b"k") == [b"EXISTS", b"k"]
    assert read_command(b"vectorset", b"k") == [b"DUMP", b"k"]
    assert weight(b"hash", 100) == 100
    assert weight(b"string", 20 << 20) == 81920
