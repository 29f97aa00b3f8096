"""What a worker's figures make of a shard's record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from node.coordination.state import ShardPhase, ShardState, follows
from node.progress import MOVABLE_LAG_BYTES, differs, movable, record_of, urgent
from sync.status import LinkStatus, State


def status(state: State, **more: Any) -> LinkStatus:
    made = LinkStatus("t", "0", "sh", "bj", state=state)
    for name, value in {"source_connected": True, "target_connected": True, **more}.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("old", get_args(ShardPhase))
@pytest.mark.parametrize("reported", get_args(State))
@pytest.mark.parametrize("paused", [False, True])
def test_whatever_is_reported_the_record_may_follow(old: ShardPhase, reported: State, paused: bool) -> None:
    before = ShardState(old, run=4, node="a", epoch=2)
    after = record_of(before, status(reported), paused=paused, now=9.0)
    assert follows(before, after)
    assert (after.node, after.epoch) == ("a", 2)


def test_a_start_goes_through_its_levels_in_one_run() -> None:
    record = ShardState("assigned", run=1)
    for reported, expected in (("connecting", "assigned"), ("snapshot", "snapshot"), ("streaming", "streaming")):
        record = record_of(record, status(reported), paused=False, now=1.0)  # type: ignore[arg-type]
        assert (record.state, record.run) == (expected, 1)


def test_a_reconnect_does_not_move_a_state_back_but_the_phase_says_it() -> None:
    record = ShardState("streaming", run=1, since=1.0)
    after = record_of(record, status("connecting", last_error="cut"), paused=False, now=2.0)
    assert (after.state, after.run, after.phase, after.error, after.since) == ("streaming", 1, "connecting", "cut", 1.0)
    again = record_of(after, status("streaming", last_error="cut"), paused=False, now=3.0)
    assert again.error == "", "an old error of a link that works is no news"
    away = record_of(again, status("streaming", source_connected=False), paused=False, now=4.0)
    assert away.phase == "source unreachable" and away.lag_seconds is None


def test_a_full_resync_in_the_middle_and_a_resume_are_new_runs() -> None:
    streaming = ShardState("streaming", run=1, applied_offset=7)
    resync = record_of(streaming, status("snapshot"), paused=False, now=1.0)
    assert (resync.state, resync.run, resync.applied_offset) == ("snapshot", 2, 7)
    paused = record_of(streaming, status("streaming"), paused=True, now=1.0)
    assert (paused.state, paused.run) == ("paused", 1)
    still = record_of(paused, status("streaming", source_offset=50), paused=True, now=2.0)
    assert (still.run, still.source_offset, still.since) == (1, 50, 1.0)
    resumed = record_of(still, status("streaming"), paused=False, now=3.0)
    assert (resumed.state, resumed.run) == ("streaming", 2)


def test_positions_never_become_zero_again_while_nothing_is_known_yet() -> None:
    known = ShardState("assigned", run=2, replid="f" * 40, source_offset=9, journaled_offset=8, applied_offset=7)
    after = record_of(known, status("connecting"), paused=False, now=1.0)
    assert (after.replid, after.source_offset, after.journaled_offset, after.applied_offset) == ("f" * 40, 9, 8, 7)


def test_what_is_written_and_what_is_urgent() -> None:
    one = record_of(ShardState("streaming", run=1, phase="streaming"), status("streaming"), paused=False, now=1.0)
    assert not differs(one, replace(one, updated=99.0, lag_seconds=3.0))
    assert differs(one, replace(one, applied_offset=1)) and not urgent(one, replace(one, applied_offset=1))
    for change in ({"state": "failed"}, {"run": 2}, {"error": "x"}, {"phase": "source unreachable"}):
        assert urgent(one, replace(one, **change))
    assert not urgent(replace(one, phase="snapshot 1%"), replace(one, phase="snapshot 2%"))


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (None, True),
        (status("streaming"), True),
        (status("snapshot"), False),
        (status("streaming", journal_full="disk full"), False),
        (status("streaming", source_offset=MOVABLE_LAG_BYTES), True),
        (status("streaming", source_offset=MOVABLE_LAG_BYTES + 1), False),
    ],
)
def test_a_shard_moves_only_when_that_costs_no_full_resync(figures: LinkStatus | None, expected: bool) -> None:
    assert movable(figures) is expected
