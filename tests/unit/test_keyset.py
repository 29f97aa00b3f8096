"""The set of keys that a sweep asks: what is in it, what is not, and how much memory it takes."""

from __future__ import annotations

import tracemalloc

import pytest

from sync.keyset import KeySet


def test_it_holds_what_was_added_and_nothing_else() -> None:
    keys = KeySet()
    for number in range(5000):
        keys.add(number % 3, b"key:%d" % number)
    assert len(keys) == 5000
    assert all((number % 3, b"key:%d" % number) in keys for number in range(5000))
    assert not any(((number + 1) % 3, b"key:%d" % number) in keys for number in range(5000))
    assert (0, b"") not in keys


def test_missing_names_the_others_in_their_order() -> None:
    keys = KeySet()
    for name in (b"b", b"d", b""):
        keys.add(7, name)
    assert keys.missing(7, [b"a", b"b", b"", b"c", b"d", b"e"]) == [b"a", b"c", b"e"]
    assert keys.missing(6, [b"b"]) == [b"b"]
    assert KeySet().missing(0, [b"a"]) == [b"a"]


def test_hashes_of_both_signs_are_found() -> None:
    keys, names = KeySet(), [b"%d" % number for number in range(1000)]
    signs = {hash((0, name)) < 0 for name in names}
    for name in names:
        keys.add(0, name)
    assert signs == {True, False}
    assert keys.missing(0, names) == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [1_000_000])
def test_it_takes_at_most_16_bytes_a_key(count: int) -> None:
    tracemalloc.start()
    try:
        keys = KeySet()
        for number in range(count):
            keys.add(0, b"some:rather:long:name:of:a:key:%d" % number)
        keys.seal()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / count <= 16, f"{peak / count:.1f} bytes a key"
