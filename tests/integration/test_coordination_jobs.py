"""Jobs over both coordinators: the fourth founding idea."""

from __future__ import annotations

import threading
import time

import pytest

from node.coordination.tasks import NotFound
from node.jobs import ATTEMPTS, JobOver, JobQueue
from tests.integration.test_coordination import place, zookeeper_server
from tests.support.coordination import Place, wait_for

__all__ = ["place", "zookeeper_server"]


def queues(place: Place, count: int = 2) -> list[JobQueue]:
    return [JobQueue(place.open().store) for _ in range(count)]


def test_idea_4_asynchronous_tasks_whose_status_moves_by_version_with_cancel_and_timeout(place: Place) -> None:
    console, node = queues(place)
    asked = console.put("resync", "sh-bj", by="somebody", confirm=True)
    assert asked.state == "queued" and console.get(asked.id) == asked
    taken = node.take(asked.id, "a")
    assert taken is not None and taken.options == {"confirm": True}
    assert console.get(asked.id).state == "running"
    node.report(asked.id, "a", "half")
    assert console.get(asked.id).progress == "half"
    node.finish(asked.id, "a", "succeeded", result={"keys": 5})
    done = console.get(asked.id)
    assert (done.state, done.result, done.node) == ("succeeded", {"keys": 5}, "a")
    for late in (
        lambda: node.finish(asked.id, "a", "failed"),
        lambda: node.report(asked.id, "a", "more"),
        lambda: console.cancel(asked.id),
    ):
        with pytest.raises(JobOver, match="has already succeeded"):
            late()
    assert console.get(asked.id) == done

    queued = console.put("resync", "sh-bj")
    assert console.cancel(queued.id).state == "cancelled" and node.take(queued.id, "a") is None

    running = console.put("resync", "sh-bj")
    node.take(running.id, "a")
    assert console.cancel(running.id).state == "running"
    assert node.report(running.id, "a", "").cancel
    assert node.finish(running.id, "a", "cancelled").state == "cancelled"

    late_job = console.put("resync", "sh-bj", timeout_s=5)
    node.take(late_job.id, "a")
    assert console.sweep() == []
    [swept] = console.sweep(time.time() + 6)
    assert (swept.id, swept.state, swept.error) == (late_job.id, "timed-out", "not done within 5 s")
    with pytest.raises(JobOver, match="run out of time"):
        node.finish(late_job.id, "a", "succeeded")


def test_a_job_is_taken_by_exactly_one_node(place: Place) -> None:
    everyone = queues(place, 4)
    job = everyone[0].put("resync", "t")
    barrier, won = threading.Barrier(4), []

    def take(number: int) -> None:
        barrier.wait()
        if everyone[number].take(job.id, f"node-{number}") is not None:
            won.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and everyone[0].get(job.id).node == f"node-{won[0]}"


def test_finish_and_cancel_at_once_leave_exactly_one_end(place: Place) -> None:
    console, node = queues(place)
    for _ in range(10):
        job = console.put("resync", "t")
        node.take(job.id, "a")
        barrier, ends = threading.Barrier(2), []

        def finish(job_id: str = job.id, barrier: threading.Barrier = barrier, ends: list[str] = ends) -> None:
            barrier.wait()
            ends.append(node.finish(job_id, "a", "succeeded").state)

        def time_out(job_id: str = job.id, barrier: threading.Barrier = barrier, ends: list[str] = ends) -> None:
            barrier.wait()
            ends.extend(job.state for job in console.sweep(time.time() + 4000) if job.id == job_id)

        threads = [threading.Thread(target=_quietly, args=(what,)) for what in (finish, time_out)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends == [console.get(job.id).state]


def _quietly(what: object) -> None:
    assert callable(what)
    try:
        what()
    except JobOver:
        return


def test_the_job_of_a_lost_node_is_queued_again_and_not_for_ever(place: Place) -> None:
    watcher = JobQueue(place.open().store)
    job = watcher.put("resync", "t")
    for attempt in range(1, ATTEMPTS + 1):
        one = place.open()
        taken = JobQueue(one.store).take(job.id, f"node-{attempt}")
        assert taken is not None and taken.attempts == attempt
        assert watcher.sweep() == []
        place.vanish(one)
        wait_for(watcher.sweep, "the lost node is noticed")
        expected = "queued" if attempt < ATTEMPTS else "failed"
        assert watcher.get(job.id).state == expected
    assert "3 nodes were lost while doing it" in watcher.get(job.id).error


def test_another_node_cannot_end_it_and_unknown_jobs_are_not_found(place: Place) -> None:
    console, node = queues(place)
    job = console.put("resync", "t")
    with pytest.raises(JobOver, match="is queued, not running on a"):
        node.finish(job.id, "a", "succeeded")
    node.take(job.id, "a")
    with pytest.raises(JobOver, match="is running on a, not running on b"):
        node.finish(job.id, "b", "succeeded")
    with pytest.raises(NotFound, match="there is no job 'x'"):
        console.cancel("x")
