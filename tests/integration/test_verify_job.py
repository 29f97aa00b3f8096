"""``task verify``: comparison and repair as jobs of nodes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.coordination.embedded import EmbeddedStore
from node.jobs import JobQueue
from tests.conftest import StartServer
from tests.support.nodes import Site
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


@contextlib.contextmanager
def queue_of(site: Site) -> Iterator[JobQueue]:
    """The jobs at the coordinator, without a command for each look."""
    store = EmbeddedStore(site.directory / "coordination.db", timeout_s=10.0)
    store.start()
    try:
        yield JobQueue(store)
    finally:
        store.close()


def result(site: Site, *arguments: str) -> dict[str, Any]:
    done = site.cli("task", "verify", "t", "--wait", "--pause", "0.2", "-o", "json", *arguments, check=False)
    assert done.returncode in (0, 1), done.stderr
    (found,) = json.loads(done.stdout)
    assert found["equal"] is (done.returncode == 0)
    return dict(found)


@pytest.mark.slow
def test_a_task_is_compared_and_repaired_by_its_node(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    source.control.mset({f"user:{number}": number for number in range(500)})
    source.control.mset({f"other:{number}": number for number in range(500)})
    node = site.node("a").start()
    extra = "filter: {include: {keys: ['prefix:user:']}}\nmap: {remove_prefix: 'user:', add_prefix: 'copy:'}\n"
    site.create("t", source, target, extra)
    target.control.set("copy:7", "other")
    target.control.delete("copy:8")
    target.control.set("copy:9999", "extra")
    target.control.set("not ours", 1)
    found = result(site)
    assert found["second_keys"] == 501  # names that no key of the task can have are passed over
    assert {one["key"]: one["kind"] for one in found["differences"]} == {
        "user:7": "value", "user:8": "missing", "user:9999": "extra",
    }  # fmt: skip
    asked = site.cli("task", "verify", "t", "--repair", check=False)
    assert asked.returncode == 130 and "sh wins" in asked.stderr
    repaired = result(site, "--repair", "--yes")
    assert (repaired["equal"], repaired["repaired"], repaired["means"]) == (True, 3, "echo")

    target.control.set("copy:7", "other")
    target.control.set("copy:9999", "extra")
    fetched = result(site, "--repair", "--yes", "--by", "fetch")
    assert (fetched["equal"], fetched["repaired"], fetched["means"]) == (True, 2, "fetch")
    assert target.control.get("copy:7") == b"7" and target.control.get("not ours") == b"1"
    assert len(node.workers()) == 1  # no process is left


@pytest.mark.slow
def test_cancelled_timed_out_failed_and_gone_on_with(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    source.control.mset({f"k{number}": number for number in range(1500)})
    node = site.node("a").start()
    site.create("t", source, target)
    with queue_of(site) as queue:

        def start(timeout_s: float = 600.0) -> str:
            job = queue.put("verify", "t", timeout_s=timeout_s, rate=250.0, page=50)
            wait_until(lambda: "keys," in queue.get(job.id).progress or queue.get(job.id).over, 30, "it runs")
            return job.id

        cancelled = start()
        assert queue.cancel(cancelled).state == "running"
        wait_until(lambda: queue.get(cancelled).state == "cancelled", 30, "cancelled")
        overdue = start(timeout_s=4.0)
        wait_until(lambda: queue.get(overdue).state == "timed-out", 30, "timed out")
        wait_until(lambda: len(node.workers()) == 1, 10, "its process has ended")

        resumed = start()
        wait_until(lambda: queue.get(resumed).saved, 30, "it has remembered where it is")
        node.kill()
        node.start(wait=False)
        node.wait_ready()
        wait_until(lambda: queue.get(resumed).over, 60, "another process went on and finished")
        job = queue.get(resumed)
        assert (job.state, job.attempts, job.saved) == ("succeeded", 2, {})
        assert job.result["equal"] and job.result["keys"] == 1500

        target.kill()
        failed = queue.put("verify", "t")
        wait_until(lambda: queue.get(failed.id).over, 60, "failed")
        assert queue.get(failed.id).state == "failed" and "connection refused" in queue.get(failed.id).error
    site.cli("task", "stop", "t")
    refused = site.cli("task", "verify", "t", check=False)
    assert refused.returncode == 1 and "start it first" in refused.stderr
