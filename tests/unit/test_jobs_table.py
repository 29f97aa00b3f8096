"""The job table: every pair of states, and exactly one end."""

from __future__ import annotations

from typing import get_args

import pytest

from node.jobs import ENDS, Job, JobOver, JobState, step

STATES: tuple[JobState, ...] = get_args(JobState)
ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "timed-out"),
    ("queued", "failed"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "timed-out"),
}


@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
def test_every_pair_of_states(old: JobState, new: JobState) -> None:
    job = Job("1", "resync", "t", state=old)
    if (old, new) in ALLOWED:
        after = step(job, new, now=5.0)
        assert after.state == new and after.ended == (5.0 if new in ENDS else 0.0)
    else:
        with pytest.raises(JobOver, match=f"is {old} and cannot become {new}"):
            step(job, new, now=5.0)


def test_the_ends_are_the_design_s_four() -> None:
    assert set(ENDS) == {"succeeded", "failed", "cancelled", "timed-out"}


def test_overdue_counts_from_creation_and_ends_are_never_overdue() -> None:
    job = Job("1", "resync", "t", created=100.0, timeout_s=10.0)
    assert not job.overdue(109.9) and job.overdue(110.0)
    assert not step(job, "cancelled", now=105.0).overdue(1000.0)
