"""Failover as commands, on two real servers and a real node: promote, reverse, and what is refused or lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.nodes import Site
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.servers]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        site.node("a").start()
        yield site
    finally:
        site.close()


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    pair = redis_server(), redis_server()
    pair[0].client().mset({f"k{number}": number for number in range(200)})
    pair[0].client().expire("k1", 3600)
    return pair


def test_reverse_and_back_again(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    site.create("sh-bj", source, target)
    source.client().incr("k7")
    done = site.cli("task", "reverse", "sh-bj", "--yes", "--pause-writes", "--timeout", "30")
    assert "equal: 201 keys" in done.stderr or "equal: 200 keys" in done.stderr
    assert "bj-sh is streaming, without a snapshot" in done.stderr
    assert site.describe("sh-bj")["desired"] == "stopped"
    source.client().execute_command("CLIENT", "UNPAUSE")
    target.client().set("k7", "written in bj")
    wait_until(lambda: source.client().get("k7") == b"written in bj", 20, "the other way it goes")
    wait_until(lambda: site.shard("bj-sh")["state"] == "streaming", 30, "with its later specification")
    target.client().incr("after")
    wait_until(lambda: source.client().get("after") == b"1", 20, "still")
    assert source.client().ttl("k1") > 3000
    done = site.cli("task", "reverse", "bj-sh", "--yes", "--timeout", "60")
    assert "the stopped task sh-bj of an earlier turn is replaced" in done.stderr
    assert "checkpoint of sh-bj/0 removed" in done.stderr
    source.client().incr("after")
    wait_until(lambda: target.client().get("after") == b"2", 20, "and back")


def test_promote_refuses_while_the_source_is_written_to(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    site.create("sh-bj", source, target)
    stop = threading.Event()

    def write() -> None:
        client = source.client()
        while not stop.wait(0.01):
            client.incr("busy")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = site.cli("task", "promote", "sh-bj", "--yes", check=False)
    finally:
        stop.set()
        writer.join()
    assert done.returncode == 1 and "still written to" in done.stderr
    assert site.describe("sh-bj")["desired"] == "running"
    site.cli("task", "promote", "sh-bj", "--yes")
    assert target.client().get("busy") == source.client().get("busy")
    assert site.describe("sh-bj")["desired"] == "stopped"


def test_promote_refuses_sides_that_differ(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    site.create("sh-bj", source, target)
    target.client().set("k3", "somebody wrote here")
    done = site.cli("task", "promote", "sh-bj", "--yes", "--pause-writes", check=False)
    assert done.returncode == 1 and "differ in 1 keys" in done.stderr and "k3" in done.stderr
    assert site.describe("sh-bj")["desired"] == "running"
    source.client(socket_timeout=5).set("k3", "held no longer")


def test_a_source_that_is_gone_needs_force_which_says_what_is_lost(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    site.create("sh-bj", source, target)
    source.kill()
    done = site.cli("task", "reverse", "sh-bj", "--yes", check=False)
    assert done.returncode == 4 and "--force goes on without it" in done.stderr
    done = site.cli("task", "reverse", "sh-bj", "--yes", "--force")
    assert "LOST: what the source took and never sent" in done.stderr and "applied up to" in done.stderr
    described = site.describe("bj-sh")
    assert described["desired"] == "stopped"
    target.client().set("k7", "written in bj")
    source.run()
    source.client().set("only here", "1")
    site.cli("task", "start", "bj-sh", "--wait", "--timeout", "60")
    assert source.client().get("k7") == b"written in bj"
    wait_until(lambda: source.client().get("only here") is None, 20, "what only the old source had is gone")


def test_a_task_with_a_filter_and_other_names_is_turned_round(site: Site, pair: tuple[Server, Server]) -> None:
    source, target = pair
    source.client().mset({"user:1": "a", "user:2": "b"})
    source.client().set("other", "not carried")
    target.client().set("own", "of the target, no matter")
    extra = "snapshot: {stale_keys: keep}\nfilter: {include: {keys: ['prefix:user:']}}\nmap: {add_prefix: 'sh:'}\n"
    site.create("sh-bj", source, target, extra)
    target.client().set("sh:user:2", "somebody wrote here")
    done = site.cli("task", "reverse", "sh-bj", "--yes", "--pause-writes", "--timeout", "60", check=False)
    assert done.returncode == 1 and "differ in 1 keys" in done.stderr and "user:2" in done.stderr
    target.client().set("sh:user:2", "b")
    done = site.cli("task", "reverse", "sh-bj", "--yes", "--timeout", "60")
    assert "equal: " in done.stderr
    target.client().set("sh:user:1", "written in bj")
    target.client().set("own", "changed")
    wait_until(lambda: source.client().get("user:1") == b"written in bj", 20, "the other way, under its old name")
    assert target.client().get("sh:other") is None and source.client().get("own") is None
    assert source.client().get("sh:user:1") is None


def test_what_would_refuse_the_way_back_is_said_before_anything_is_done(
    site: Site, pair: tuple[Server, Server]
) -> None:
    source, target = pair
    site.create("sh-bj", source, target, "map: {add_prefix: 'sh:'}\nfilter: {include: {keys: ['regex:^k']}}\n")
    done = site.cli("task", "reverse", "sh-bj", "--yes", check=False)
    assert done.returncode == 1 and "cannot be turned round" in done.stderr
    assert site.describe("sh-bj")["desired"] == "running"
    done = site.cli("task", "reverse", "sh-bj", "--as", "sh-bj", "--yes", check=False)
    assert done.returncode == 1
    assert site.describe("sh-bj")["desired"] == "running"


def test_reverse_at_the_coordinator_of_the_target_s_datacenter(
    site: Site, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair
    far = Site(tmp_path / "bj")
    far.directory.mkdir()
    try:
        node = far.node("b")
        node.configure(datacenter="bj")
        node.start()
        site.create("sh-bj", source, target)
        done = site.cli("task", "reverse", "sh-bj", "--yes", "--at", str(node.config), "--timeout", "60")
        assert "bj-sh is streaming, without a snapshot" in done.stderr
        assert far.shard("bj-sh")["node"] == "b"
        assert "bj-sh" not in site.cli("task", "list").stdout
        target.client().set("k7", "written in bj")
        wait_until(lambda: source.client().get("k7") == b"written in bj", 20, "the other way it goes")
    finally:
        far.close()
