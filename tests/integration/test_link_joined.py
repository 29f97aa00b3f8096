"""Runs of SET reach the target as MSET: the same data and deadlines, the same dead letters, where that is permitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import differences
from tests.support.links import MODES, Link
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers


def msets(target: Server) -> int:
    """How many MSETs the target has carried out."""
    return int(target.info("commandstats").get("cmdstat_mset", {}).get("calls", 0))


def write_behind(link: Link, source: Server) -> None:
    """Commands that wait together, so that they make few batches: runs of SET in three databases, a failing one too."""
    link.call("pause")
    link.until(lambda: link.status.paused, what="the link is paused")
    with Wire(source) as wire:
        for db in (0, 3, 0):
            wire.call([("SELECT", db), *(("SET", f"k{number % 70}", f"{db}-{number}") for number in range(100))])
        wire.call([("LPUSH", "victim", 1), ("SET", "timed", "now without deadline"), ("SET", "last", 1), ("INCR", "n")])
    link.call("resume")
    link.in_step(source)


@pytest.mark.parametrize("version", ["5.0", "7.0", "8.2", "valkey-9.1"])
@pytest.mark.parametrize("writer", MODES)
def test_joined_runs_set_the_same_and_a_failure_after_them_is_named(
    redis_server: StartServer, tmp_path: Path, writer: str, version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    source.client().rpush("victim", "old")
    source.client().set("timed", 1, ex=1000)
    with Link(source, target, tmp_path, writer=writer, on_error="continue") as link:
        link.streaming()
        target.client().set("victim", "not a list")
        before = msets(target)
        write_behind(link, source)
        assert msets(target) > before
        assert link.status.dead_letters == 1
        assert "LPUSH" in str(link.status.last_error)
        (found,) = differences(source, target)
        assert "victim" in found
        assert target.client().ttl("timed") == -1


def test_a_user_who_may_not_mset_gets_sets(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    target.control.execute_command("ACL", "SETUSER", "default", "-mset")
    with Link(source, target, tmp_path) as link:
        link.streaming()
        write_behind(link, source)
        assert not msets(target)
        assert not differences(source, target)


def test_two_ways_every_set_stays_as_it_is(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, two_way=True) as link:
        link.streaming()
        write_behind(link, source)
        assert not msets(target)
        assert not differences(source, target)
