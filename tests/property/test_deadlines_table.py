"""The compact table of deadlines against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sync.expiry import Deadlines
from tests.support.effort import share

STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.binary(max_size=2), st.integers(-(10**13), 10**13)), min_size=1, max_size=400
)


@given(STEPS)
def test_it_holds_what_a_dictionary_holds(steps: list[tuple[int, bytes, int]]) -> None:
    table, model = Deadlines(), {}
    for db, key, deadline in steps:
        table.set((db, key), deadline)
        model[(db, key)] = deadline
    assert {place: table.get(place) for place in model} == model
    assert len(table) == sum(deadline != 0 for deadline in model.values())
    assert table.get((9, b"never set")) == 0


def test_at_most_40_bytes_a_key() -> None:
    table = Deadlines()
    for i in range(20_000 + share(80_000)):
        table.set((0, b"session:%d" % i), 1_700_000_000_000 + i)
        if i % 1000 == 999 and i > 20_000:
            assert table.nbytes / len(table) <= 40


def test_beyond_the_bound_nothing_new_is_tracked() -> None:
    table = Deadlines(max_keys=10)
    for i in range(20):
        table.set((0, b"%d" % i), 5)
    assert (len(table), table.untracked) == (10, 10)
    table.set((0, b"0"), 7)
    assert table.get((0, b"0")) == 7
