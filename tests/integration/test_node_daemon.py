"""One node over the embedded coordinator: a task's life, and what can happen to worker, daemon and configuration."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.nodes import LEASE_S, Site
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.workload import COUNTING, Workload

pytestmark = [pytest.mark.servers]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


def test_a_task_s_life(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    node = site.node("a").start()
    source.control.set("k", 1)
    file = site.write_task("sh-bj", source, target)
    created = site.cli("task", "create", "-f", str(file))
    assert created.stdout == "" and "task sh-bj created" in created.stderr
    assert site.shard("sh-bj")["state"] == "created" and node.shards() == []
    again = site.cli("task", "create", "-f", str(file), check=False)
    assert again.returncode == 1 and "task sh-bj exists already" in again.stderr

    site.cli("task", "start", "sh-bj", "--wait")
    shard = site.shard("sh-bj")
    assert (shard["node"], shard["state"], shard["run"], shard["epoch"]) == ("a", "streaming", 1, 1)
    assert source.sync_full == 1
    wait_equal(source, target)

    site.cli("task", "pause", "sh-bj", "--wait")
    source.control.incr("k")
    wait_until(lambda: site.shard("sh-bj")["lag_bytes"] > 0, 10, "the paused task captures")
    assert target.control.get("k") == b"1" and site.shard("sh-bj")["state"] == "paused"
    site.cli("task", "resume", "sh-bj", "--wait")
    wait_equal(source, target)
    assert site.shard("sh-bj")["run"] == 2

    site.cli("task", "stop", "sh-bj", "--wait")
    assert node.shards() == [] and node.workers() == []
    source.control.incr("k")
    site.cli("task", "start", "sh-bj", "--wait")
    wait_equal(source, target)
    assert source.sync_full == 1, "a stop and a start must not cost a full resync"

    job = site.cli("task", "resync", "sh-bj", "--yes", "--wait").stdout.strip()
    [listed] = json.loads(site.cli("task", "jobs", "-o", "json").stdout)
    assert (listed["id"], listed["state"], listed["node"]) == (job, "succeeded", "a")
    assert source.sync_full == 2
    wait_equal(source, target)

    assert [event["what"] for event in site.describe("sh-bj")["events"]] == [
        "created, to be stopped",
        "to be running",
        "to be paused",
        "to be running",
        "to be stopped",
        "to be running",
        "full resync asked for",
    ]
    assert "full resync" in site.cli("task", "logs", "sh-bj").stdout
    assert [row["task"] for row in json.loads(site.cli("task", "list", "-o", "json").stdout)] == ["sh-bj"]
    assert json.loads(site.cli("node", "list", "-o", "json").stdout)[0]["shards"] == 1
    site.cli("task", "delete", "sh-bj", "--yes")
    assert site.cli("task", "describe", "sh-bj", check=False).returncode == 3
    assert "rediscanal_" in node.get("/metrics")


def test_a_killed_worker_is_started_again_and_the_state_says_how_often_and_why(
    site: Site, pair: tuple[Server, Server]
) -> None:
    source, target = pair
    node = site.node("a").start()
    site.create("sh-bj", source, target)
    with Workload(source, rate=300, commands=COUNTING) as load:
        for number in range(1, 4):
            load.wait(100 * number)
            [worker] = node.workers()
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda worker=worker: node.workers() not in ([], [worker]), 20, "another worker")
            site.wait_state("sh-bj", "streaming")
    wait_equal(source, target)
    shard = site.shard("sh-bj")
    assert shard["restarts"] == 3 and shard["restart_reason"] == "the worker was killed by signal 9"
    assert shard["run"] >= 4 and source.sync_full == 1
    assert node.log().count("killed by signal 9; starting again in") == 3


def test_workers_die_with_a_killed_daemon_and_a_restart_waits_for_its_own_session(
    site: Site, pair: tuple[Server, Server]
) -> None:
    source, target = pair
    node = site.node("a").start()
    site.create("sh-bj", source, target)
    with Workload(source, rate=300, commands=COUNTING) as load:
        load.wait(100)
        family = node.family()
        assert len(family) == 3
        node.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in family), 5, "all of them are gone")
        started = time.monotonic()
        node.start(wait=False)
        node.wait_ready()
        assert time.monotonic() - started < LEASE_S + 15
        site.wait_state("sh-bj", "streaming")
        load.wait(300)
    wait_equal(source, target)
    assert source.sync_full == 1
    second = site.shard("sh-bj")
    assert second["epoch"] >= 2 and second["run"] >= 2


def test_sigterm_gives_leases_back_after_a_clean_stop(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    node = site.node("a").start()
    site.create("sh-bj", source, target)
    source.control.set("last", "write")
    assert node.stop() == 0
    assert target.control.get("last") == b"write"
    shard = site.shard("sh-bj")
    assert (shard["node"], shard["state"], shard["phase"]) == (None, "stopped", "a was stopped")
    assert json.loads(site.cli("node", "list", "-o", "json").stdout) == []
    node.start()
    site.wait_state("sh-bj", "streaming")
    assert source.sync_full == 1


def test_a_second_daemon_of_the_same_name_or_state_directory_is_refused(site: Site) -> None:
    site.node("a").start()
    twin = site.node("b")
    twin.configure(node="a")
    twin.start(wait=False)
    assert twin.process is not None and twin.process.wait(20) == 1
    assert "error: node a is already running on this machine as process" in twin.log()
    twin.configure(node="b", state_dir=str(site.nodes[0].directory))
    twin.start(wait=False)
    assert twin.process.wait(20) == 2
    assert "is in use by" in twin.log().splitlines()[-1]


def test_what_needs_a_person_fails_the_task_with_one_clear_line(
    site: Site, pair: tuple[Server, Server], redis_server: StartServer
) -> None:
    source, target = pair
    node = site.node("a").start()
    file = site.write_task("cred", source, target)
    file.write_text(file.read_text().replace("datacenter: bj", "datacenter: bj, credentials: nobody"))
    site.cli("task", "create", "-f", str(file), "--start")
    site.wait_state("cred", "failed")
    waited = site.cli("task", "start", "cred", "--wait", check=False)
    assert waited.returncode == 1
    assert "credential 'nobody' is not known on this node (known: none); add it under credentials:" in waited.stderr
    assert waited.stderr.count("\n") == 1

    same = site.write_task("same", source, source)
    refused = site.cli("task", "create", "-f", str(same), check=False)
    assert refused.returncode == 2 and "source and target are the same server" in refused.stderr
    by_name = site.write_task("by-name", source, source)
    by_name.write_text(by_name.read_text().replace("127.0.0.1", "localhost", 1))
    site.cli("task", "create", "-f", str(by_name), "--start")
    assert "are the same server" in site.wait_state("by-name", "failed")["error"]

    twice = site.write_task("twice", source, target)
    refused = site.cli("task", "create", "-f", str(twice), check=False)
    assert refused.returncode == 1 and "twice: by cred and by twice" in refused.stderr

    other = redis_server()
    other.control.set("precious", 1)
    site.create("full", source, other, wait=False)
    assert "holds 1 keys and no checkpoint of task full" in site.wait_state("full", "failed")["error"]
    assert node.get("/readiness") == "ready\n", "a failed task is no reason to restart the node"

    node.configure(credentials="{nobody: {}}")
    node.signal(signal.SIGHUP)
    site.wait_state("cred", "streaming")
    source.control.set("x", 1)
    wait_until(lambda: target.control.get("x") == b"1", 10, "it works with the new configuration")


def test_sighup_keeps_the_old_configuration_on_error_and_says_what_needs_a_restart(site: Site) -> None:
    node = site.node("a").start()
    node.configure(max_shrads="5")
    node.signal(signal.SIGHUP)
    wait_until(lambda: "configuration not changed:" in node.log(), 5, "the error is logged")
    assert f"{node.config}:8:1: unknown key max_shrads; did you mean max_shards?" in node.log()
    del node.settings["max_shrads"]
    node.configure(lease_timeout_seconds="9", publish_seconds="2")
    node.signal(signal.SIGHUP)
    wait_until(lambda: "configuration read again" in node.log(), 5, "the new one is read")
    assert "configuration: lease_timeout_seconds takes effect with the next restart" in node.log()
    assert "publish_seconds takes effect" not in node.log()
    assert node.stop() == 0


def test_a_job_is_cancelled_and_a_waiting_one_times_out(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    site.node("a").start()
    file = site.write_task("sh-bj", source, target)
    site.cli("task", "create", "-f", str(file))
    not_running = site.cli("task", "resync", "sh-bj", "--yes", check=False)
    assert not_running.returncode == 1 and "start it first" in not_running.stderr
    assert site.cli("task", "cancel", "nothing", check=False).returncode == 3
    site.cli("task", "start", "sh-bj", "--wait")
    source.stop()
    job = site.cli("task", "resync", "sh-bj", "--yes", "--job-timeout", "4").stdout.strip()

    def state() -> str:
        [row] = json.loads(site.cli("task", "jobs", "-o", "json").stdout)
        assert row["id"] == job
        return str(row["state"])

    wait_until(lambda: state() == "timed-out", 15, "the job times out", every=0.2)
    over = site.cli("task", "cancel", job, check=False)
    assert over.returncode == 1 and "has already run out of time" in over.stderr
