"""Servers that die: a source that comes back with another history, a target replaced by a replica that is behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import differences, wait_equal
from tests.support.links import MODES, Link
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workload import COUNTING, Workload

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def follow(replica: Server, master: Server | Proxy) -> None:
    """REPLICAOF, and wait for the first synchronisation."""
    replica.control.replicaof("127.0.0.1", str(master.port))
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 20)


@pytest.mark.parametrize("writer", MODES)
def test_a_promoted_target_that_lost_the_last_writes_gets_them_again(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    source, target, spare = redis_server(), redis_server(), redis_server()
    between = proxy(target)
    follow(spare, between)
    far = proxy(target)
    with Link(source, far, tmp_path, writer=writer) as link, Workload(source, rate=2000, commands=COUNTING) as load:
        link.streaming()
        load.wait(1000)
        key = "redis-canal:checkpoint:test/0"
        wait_until(lambda: spare.control.hget(key, "phase") == b"stream", 20, "the snapshot is on the spare too")
        between.stall()
        load.wait(2000)
        link.more("applied_offset")
        assert differences(target, spare, limit=1)
        far.refuse()
        target.kill()
        between.cut()
        spare.control.replicaof("NO", "ONE")
        far.target = spare.address
        far.accept()
        load.wait(1000)
        load.stop()
        link.in_step(source)
        wait_equal(source, spare, 20)
        assert link.status.dead_letters == 0
    assert source.sync_full == 1


@pytest.mark.parametrize("writer", MODES)
def test_a_source_that_was_killed_is_taken_over_as_it_comes_back(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    """What it had sent and lost is taken back: the target ends as the source is."""
    source, target = redis_server(appendonly="yes", appendfsync="no"), redis_server()
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        with Workload(source, rate=2000, commands=COUNTING) as load:
            for number in range(2, 5):
                load.wait(700)
                source.restart(graceful=False)
                link.until(lambda number=number: link.status.full_resyncs == number, 30, "a snapshot of each history")
        wait_equal(source, target, 30)
        source.client().incr("counter")
        link.in_step(source)
        wait_equal(source, target, 5)


def test_a_source_that_restarts_in_order_is_continued(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(save="3600 1"), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        source.client().incr("counter")
        link.in_step(source)
        source.restart()
        source.client().incr("counter")
        link.in_step(source)
        wait_equal(source, target, 10)
        assert target.control.get("counter") == b"2"
        assert link.status.full_resyncs == 1
    assert source.sync_full == 0


def test_a_promoted_source_is_continued(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    source, spare, target = redis_server(), redis_server(), redis_server()
    follow(spare, source)
    near = proxy(source)
    with Link(near, target, tmp_path) as link:
        link.streaming()
        source.client().incr("counter")
        wait_until(lambda: spare.offset >= source.offset, 10)
        link.in_step(source)
        near.refuse()
        source.kill()
        near.cut()
        spare.control.replicaof("NO", "ONE")
        near.target = spare.address
        near.accept()
        spare.client().incr("counter")
        link.in_step(spare)
        wait_equal(spare, target, 10)
        assert link.status.full_resyncs == 1
        link.until(lambda: link.status.replid == spare.replid, 5)
    with link.again() as link:
        link.streaming()
        spare.client().incr("counter")
        link.in_step(spare)
        assert target.control.get("counter") == b"3"
        assert link.status.full_resyncs == 0


def test_a_promoted_source_is_continued_by_a_link_that_lost_its_journal(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    """Another node takes over, or the disk was lost: the checkpoint alone has the old id, the source answers with its
    new one.
    """
    source, spare, target = redis_server(), redis_server(), redis_server()
    follow(spare, source)
    near = proxy(source)
    with Link(near, target, tmp_path) as link:
        link.streaming()
        source.client().incr("counter")
        link.in_step(source)
        wait_until(lambda: spare.offset >= source.offset, 10)
    shutil.rmtree(link.config.state_dir / "journal")
    source.kill()
    spare.control.replicaof("NO", "ONE")
    near.target = spare.address
    with link.again() as link:
        link.streaming()
        spare.client().incr("counter")
        link.in_step(spare)
        assert target.control.get("counter") == b"2"
        assert link.status.full_resyncs == 0
