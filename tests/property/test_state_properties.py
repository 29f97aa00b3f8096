"""Any number of writers in any order: versions and runs keep them apart (the enumerated two are in test_state.py)."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.coordination.state import Backward, Known, ShardPhase, ShardState, Stale, check, follows, moved, new_run

PHASES: st.SearchStrategy[ShardPhase] = st.sampled_from(
    ["created", "assigned", "snapshot", "streaming", "paused", "stopped", "failed"]
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["read", "run", "move", "write"]), PHASES), max_size=60)


@given(STEPS)
def test_writers_in_any_order_only_move_it_forward_and_a_replaced_one_never_writes_again(
    steps: list[tuple[int, str, ShardPhase]],
) -> None:
    state, version = ShardState(), 0
    known = [Known(state, version)] * 4
    owner_of_run: dict[int, int] = {}
    for writer, act, phase in steps:
        mine = known[writer]
        try:
            if act == "read":
                known[writer] = Known(state, version)
                continue
            if act == "run":
                new = new_run(mine.state, node=str(writer), epoch=1, now=0.0)
            elif act == "move":
                new = moved(mine.state, phase, now=0.0)
            else:
                new = replace(mine.state, applied_offset=mine.state.applied_offset + 1)
            check(mine.state, new)
            if mine.version != version:
                raise Stale("an old version")
        except (Stale, Backward):
            continue
        assert follows(state, new) and new.run >= state.run
        if new.run > state.run:
            owner_of_run[new.run] = writer
        state, version = new, version + 1
        known[writer] = Known(state, version)
    assert sorted(owner_of_run) == list(range(1, state.run + 1))
