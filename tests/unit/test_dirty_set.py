"""The set of keys that one side wrote, its file, and whose state wins by it."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.position import Position
from sync.dirtyfile import DirtyFile, Stored
from sync.dirtyset import DirtySet, Winner, key_hash, winner
from sync.homes import Place

PLACES = st.tuples(st.integers(0, 15), st.binary(max_size=12))
AT = Position("a" * 40, 100)


@given(st.lists(st.lists(PLACES, max_size=40), max_size=6), st.lists(PLACES, max_size=20))
def test_it_holds_what_a_set_would_and_tells_what_is_new_once(steps: list[list[Place]], others: list[Place]) -> None:
    keys, told = DirtySet(), DirtySet()
    model: set[Place] = set()
    for step in steps:
        for place in step:
            keys.add(place)
        new = keys.take_new()
        assert len(new) == 8 * len(set(step) - model)
        model |= set(step)
        told.take_packed(new)
    assert len(keys) == len(told) == len(model)
    assert keys.packed() == told.packed()
    for place in [*model, *others]:
        assert (place in keys) == (place in told) == (place in model)


def test_many_keys_of_one_database() -> None:
    keys = DirtySet(max_keys=100_000)
    for start in range(0, 100_000, 1000):
        keys.add_keys(3, [b"key:%d" % number for number in range(start, start + 1000)] * 2)
    assert len(keys) == 100_000 and not keys.over
    assert all((3, b"key:%d" % number) in keys for number in range(0, 100_000, 997))
    assert not any((0, b"key:%d" % number) in keys for number in range(0, 100_000, 997))
    keys.add((3, b"one more"))
    assert len(keys) == 100_001 and keys.over


def test_hashes_are_the_same_in_every_process() -> None:
    asked = [sys.executable, "-c", "from sync.dirtyset import key_hash; print(key_hash(7, b'some key'))"]
    assert int(subprocess.run(asked, capture_output=True, check=True).stdout) == key_hash(7, b"some key")


@pytest.mark.parametrize("home", ["first", "second"])
def test_whose_state_wins(home: Winner) -> None:
    for missing in (True, False, None):
        assert winner(True, False, home, missing) == "first"
        assert winner(False, True, home, missing) == "second"
        assert winner(True, True, home, missing) == home
    assert winner(False, False, home, None) == home
    assert winner(False, False, home, True) == "first"
    assert winner(False, False, home, False) == "second"


def test_both_links_decide_alike() -> None:
    """What is first for one is second for the other."""
    other: dict[Winner, Winner] = {"first": "second", "second": "first"}
    for first, second, home, missing in product((True, False), (True, False), other, (True, False, None)):
        back = winner(second, first, other[home], None if missing is None else not missing)
        assert winner(first, second, home, missing) == other[back]


def _written(directory: Path) -> tuple[list[int], list[set[int]]]:
    """A file of some records: (its size after each, the keys known by then)."""
    file, keys = DirtyFile(directory), DirtySet()
    model: set[int] = set()
    sizes, known = [], []
    path = directory / "dirty.log"
    file.begin(Stored(AT, 0), keys)
    for step in range(3):
        sizes.append(path.stat().st_size)
        known.append(set(model))
        for number in range(step * 3, step * 3 + 4):
            keys.add((0, b"%d" % number))
            model.add(number)
        file.go_on(Stored(Position("a" * 40, 100 + step), step), keys)
    sizes.append(path.stat().st_size)
    known.append(set(model))
    return sizes, known


def test_a_file_cut_off_anywhere_is_one_that_knows_less_far(tmp_path: Path) -> None:
    sizes, known = _written(tmp_path)
    path = tmp_path / "dirty.log"
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        keys, file = DirtySet(), DirtyFile(tmp_path)
        stored = file.load(keys)
        number = max((index for index, one in enumerate(sizes) if one <= size), default=-1)
        if number < 0:
            assert stored is None
            continue
        assert stored is not None and stored.position.offset == (100 if number == 0 else 99 + number)
        assert {one for one in range(30) if (0, b"%d" % one) in keys} == known[number]
        keys.add((0, b"later"))
        file.go_on(Stored(Position("b" * 40, 900), 2), keys)
        again = DirtySet()
        assert DirtyFile(tmp_path).load(again) == Stored(Position("b" * 40, 900), 2)
        assert again.packed() == keys.packed()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    sizes, known = _written(tmp_path)
    path = tmp_path / "dirty.log"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        keys = DirtySet()
        DirtyFile(tmp_path).load(keys)
        sound = max((index for index, one in enumerate(sizes) if one <= at), default=-1)
        assert len(keys) == (0 if sound < 0 else len(known[sound])), at


def test_it_does_not_grow_with_time(tmp_path: Path) -> None:
    file, keys = DirtyFile(tmp_path), DirtySet()
    keys.add_keys(0, [b"%d" % number for number in range(1000)])
    file.begin(Stored(AT, 0), keys)
    for offset in range(3000):
        file.go_on(Stored(Position("a" * 40, offset), 0), keys)
    assert (tmp_path / "dirty.log").stat().st_size < 400_000
    again = DirtySet()
    assert file.load(again) == Stored(Position("a" * 40, 2999), 0)
    assert again.packed() == keys.packed()


def test_that_nothing_is_known_is_kept_too(tmp_path: Path) -> None:
    file, keys = DirtyFile(tmp_path), DirtySet()
    keys.add((0, b"k"))
    file.begin(Stored(AT, 0, "FLUSHALL"), keys)
    again = DirtySet()
    assert DirtyFile(tmp_path).load(again) == Stored(AT, 0, "FLUSHALL")
    assert len(again) == 0
    file.forget()
    assert DirtyFile(tmp_path).load(again) is None
