"""The state table itself, and every order in which two writers can write."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from node.coordination.state import (
    LEVELS,
    Backward,
    Known,
    ShardPhase,
    ShardState,
    Stale,
    check,
    follows,
    moved,
    new_run,
)

ORDER: tuple[ShardPhase, ...] = ("created", "assigned", "snapshot", "streaming", "paused", "stopped", "failed")


class Record:
    """What a coordinator promises of a versioned record: a write names the version it replaces, or is refused."""

    def __init__(self) -> None:
        self.state = ShardState()
        self.version = 0
        self.history: list[tuple[str, ShardState]] = [("", self.state)]

    def write(self, writer: str, new: ShardState, version: int) -> int:
        if version != self.version:
            raise Stale(f"version {self.version} expected, {version} came")
        self.state, self.version = new, version + 1
        self.history.append((writer, new))
        return self.version


def write(record: Record, writer: str, known: Known, new: ShardState) -> Known:
    check(known.state, new)
    return Known(new, record.write(writer, new, known.version))


def test_levels_are_the_design_s() -> None:
    assert [LEVELS[state] for state in ORDER] == [0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("old", ORDER)
@pytest.mark.parametrize("new", ORDER)
def test_within_a_run_every_pair_of_states(old: ShardPhase, new: ShardPhase) -> None:
    allowed = old == new if old in ("paused", "stopped", "failed") else ORDER.index(new) >= ORDER.index(old)
    assert follows(ShardState(old, run=3), ShardState(new, run=3)) is allowed


@pytest.mark.parametrize("old", ORDER)
def test_a_new_run_may_start_from_every_state_but_not_at_created(old: ShardPhase) -> None:
    assert follows(ShardState(old, run=3), ShardState("assigned", run=4))
    assert follows(ShardState(old, run=3), ShardState("failed", run=4))
    assert not follows(ShardState(old, run=3), ShardState("created", run=4))


@pytest.mark.parametrize("run", [0, 2, 5, 99])
def test_older_and_invented_runs_are_refused(run: int) -> None:
    with pytest.raises(Backward, match=f"streaming of run 3 cannot become streaming of run {run}"):
        check(ShardState("streaming", run=3), ShardState("streaming", run=run))


def test_a_new_run_goes_on_from_the_published_positions() -> None:
    old = ShardState(
        "failed", run=2, node="a", replid="f" * 40, applied_offset=77, error="boom", restarts=4, lag_seconds=1.0
    )
    new = new_run(old, node="b", epoch=9, now=50.0)
    assert (new.state, new.run, new.node, new.epoch) == ("assigned", 3, "b", 9)
    assert (new.replid, new.applied_offset) == ("f" * 40, 77)
    assert (new.error, new.restarts, new.lag_seconds) == ("", 0, None)
    assert new_run(old, node="a", epoch=9, now=50.0).restarts == 4


def test_moving_keeps_since_within_a_state_and_the_last_error() -> None:
    first = moved(ShardState("assigned", run=1), "streaming", now=10.0, error="was cut")
    second = moved(first, "streaming", now=20.0)
    assert (second.since, second.updated, second.error) == (10.0, 20.0, "was cut")
    with pytest.raises(Backward):
        moved(second, "snapshot", now=30.0)


def interleavings(left: int, right: int) -> Iterator[tuple[str, ...]]:
    """Every order of ``left`` steps of writer A and ``right`` steps of writer B."""
    total = left + right
    for places in combinations(range(total), left):
        yield tuple("A" if step in places else "B" for step in range(total))


STORY: tuple[ShardPhase, ...] = ("snapshot", "streaming", "failed")


@pytest.mark.parametrize("order", list(interleavings(5, 5)), ids="".join)
def test_every_order_of_two_writers(order: tuple[str, ...]) -> None:
    """Each writer reads once, starts a run, and tells its story; a refused writer stops, as a worker does.

    Whatever the order: accepted writes move forward, runs only grow, and once the second run has begun not one write of
    the first run's writer is accepted.
    """
    record = Record()
    known: dict[str, Known] = {}
    steps: dict[str, int] = {"A": 0, "B": 0}
    refused: set[str] = set()
    for writer in order:
        step = steps[writer]
        steps[writer] += 1
        if writer in refused:
            continue
        try:
            if step == 0:
                known[writer] = Known(record.state, record.version)
            elif step == 1:
                now = known[writer]
                known[writer] = write(record, writer, now, new_run(now.state, node=writer, epoch=1, now=0.0))
            else:
                known[writer] = write(
                    record, writer, known[writer], moved(known[writer].state, STORY[step - 2], now=0.0)
                )
        except Stale:
            refused.add(writer)
    for (_, old), (_, new) in zip(record.history, record.history[1:], strict=False):
        assert follows(old, new)
    owners = [writer for writer, _ in record.history[1:]]
    runs = [state.run for _, state in record.history]
    assert runs == sorted(runs)
    for run in set(runs) - {0}:
        assert len({writer for writer, state in record.history if state.run == run}) == 1
    assert owners, "somebody must win"
    takeover = next((i for i, writer in enumerate(owners) if writer != owners[0]), len(owners))
    assert owners[0] not in owners[takeover:], "a writer whose run was replaced wrote again"


def test_a_new_run_says_when_it_began_and_what_it_does() -> None:
    old = ShardState("failed", run=2, node="a", restart_reason="was killed", phase="streams", since=1.0, updated=2.0)
    new = new_run(old, node="a", epoch=9, now=50.0)
    assert (new.since, new.updated, new.phase, new.restart_reason) == (50.0, 50.0, "", "was killed")
    assert new_run(old, node="a", epoch=9, now=50.0, phase="waits").phase == "waits"
    assert new_run(old, node="b", epoch=9, now=50.0).restart_reason == ""


def test_moving_says_what_is_done_now() -> None:
    old = ShardState("assigned", run=1, phase="starts")
    assert moved(old, "streaming", now=10.0).phase == ""
    assert moved(old, "streaming", now=10.0, phase="streams").phase == "streams"


def test_what_goes_backward_is_told_how_it_could_go() -> None:
    with pytest.raises(Backward, match=r"\(a new start is a new run\)$"):
        check(ShardState("streaming", run=1), ShardState("assigned", run=1))


def test_what_an_older_release_did_not_write_says_nothing() -> None:
    new = ShardState()
    assert (new.state, new.level, new.ended) == ("created", 0, False)
    assert (new.node, new.phase, new.replid, new.error, new.slots, new.restart_reason) == ("",) * 6
    assert (new.run, new.epoch, new.restarts, new.full_resyncs, new.spec_version) == (0,) * 5
    assert (new.source_offset, new.journaled_offset, new.applied_offset, new.lag_bytes) == (0,) * 4
    assert (new.lag_seconds, new.since, new.updated) == (None, 0.0, 0.0)
    assert Known() == Known(new, -1)
