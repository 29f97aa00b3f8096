"""The deadlines of fields, kept by numbers of hashes, against dictionaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sync.fieldexpiry import FieldDeadlines
from tests.support.effort import share

PLACES = st.tuples(st.integers(0, 1), st.sampled_from([b"h", b"i", b"j"]))
FIELDS = st.sampled_from([b"f", b"g", b"x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), PLACES, FIELDS, st.integers(0, 10**13)),
        st.tuples(st.just("forget"), PLACES),
        st.tuples(st.just("move"), PLACES, PLACES),
        st.tuples(st.just("clear")),
    ),
    max_size=200,
)


@given(STEPS)
def test_it_holds_what_dictionaries_hold(steps: list[tuple[object, ...]]) -> None:
    table = FieldDeadlines()
    model: dict[object, dict[object, int]] = {}
    for name, *words in steps:
        getattr(table, str(name))(*words)
        if name == "set":
            place, field, deadline = words
            assert isinstance(deadline, int)
            model.setdefault(place, {})[field] = deadline
        elif name == "forget":
            model.pop(words[0], None)
        elif name == "move":
            if words[0] != words[1]:
                model[words[1]] = model.pop(words[0], {})
        else:
            model.clear()
    for db in (0, 1):
        for key in (b"h", b"i", b"j"):
            number = table.known((db, key))
            mine = {field: at for field, at in model.get((db, key), {}).items() if at}
            assert {field: at for field in (b"f", b"g", b"x") if (at := table.get(number, field))} == mine
            assert bool(number) == bool(mine), "a hash is remembered while a field of it is"


def test_at_most_40_bytes_a_field_and_as_many_a_hash() -> None:
    table = FieldDeadlines()
    for i in range(20_000 + share(40_000)):
        table.set((0, b"session:%d" % (i // 10)), b"%d" % (i % 10), 1_700_000_000_000 + i)
        if i % 1000 == 999 and i > 20_000:
            assert table.nbytes / len(table) <= 44
