"""Two links back to back, and chains of them: every write once everywhere, and silence when nobody writes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link, LinkProcess, quiet
from tests.support.links import link_between as link
from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Wire
from tests.support.workload import COUNTING, Workload

pytestmark = pytest.mark.servers


def pair(left: Server, right: Server, directory: Path, **changes: Any) -> tuple[Link, Link]:
    """Both directions between a and b."""
    return (
        link(left, right, directory, "a-b", two_way=True, **changes),
        link(right, left, directory, "b-a", two_way=True, **changes),
    )


@pytest.mark.parametrize("writer", MODES)
def test_one_increment_on_each_side_is_two_on_both_and_stays(
    redis_server: StartServer, server_version: str, tmp_path: Path, writer: str
) -> None:
    a, b = redis_server(server_version), redis_server(server_version)
    there, back = pair(a, b, tmp_path, writer=writer)
    with there, back:
        there.streaming()
        back.streaming()
        a.client().incr("counter")
        b.client().incr("counter")
        wait_until(lambda: a.control.get("counter") == b"2" == b.control.get("counter"), 10, "2 on both sides")
        wait_until(lambda: quiet(a, b), 20, "both streams fall silent")
        assert a.control.get("counter") == b"2" == b.control.get("counter")
        assert there.status.loops_dropped >= 1
        assert back.status.loops_dropped >= 1


def test_a_snapshot_is_not_sent_back(redis_server: StartServer, tmp_path: Path) -> None:
    a, b = redis_server(), redis_server()
    with Wire(a) as wire:
        wire.call([("SET", f"key:{n}", n) for n in range(1000)])
        wire.call([("RPUSH", f"list:{n}", n) for n in range(100)])
    there, back = pair(a, b, tmp_path)
    with back:
        back.streaming()
        with there:
            there.streaming()
            wait_until(lambda: back.status.loops_dropped >= 1100, 10, "the snapshot has come round")
            wait_until(lambda: quiet(a, b), 20, "both streams fall silent")
            assert back.status.commands_applied == 0
            wait_equal(a, b, 5)


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_both_sides_write_different_keys_and_end_equal(redis_server: StartServer, tmp_path: Path, writer: str) -> None:
    a, b = redis_server(), redis_server()
    there, back = pair(a, b, tmp_path, writer=writer)
    with there, back:
        there.streaming()
        back.streaming()
        with (
            Workload(a, rate=1500, commands=COUNTING, prefix="a") as one,
            Workload(b, rate=1500, commands=COUNTING, prefix="b", seed=2) as two,
        ):
            one.wait(4000)
            two.wait(2000)
        wait_equal(a, b, 20)
        wait_until(lambda: quiet(a, b), 20, "both streams fall silent")
        wait_equal(a, b, 1)


@pytest.mark.slow
def test_an_idle_direction_needs_no_full_resync_after_a_kill(redis_server: StartServer, tmp_path: Path) -> None:
    """All traffic goes one way, more of it than the other side's backlog holds; then both daemons die and come back."""
    a, b = redis_server(repl_backlog_size="64mb"), redis_server(repl_backlog_size="1mb")
    names = ("--two-way", "--source-dc")
    with (
        LinkProcess(a, b, tmp_path, *names, "a", "--target-dc", "b", name="a-b") as there,
        LinkProcess(b, a, tmp_path, *names, "b", "--target-dc", "a", name="b-a") as back,
    ):
        wait_until(lambda: a.sync_full == b.sync_full == 1, 20, "both have taken their snapshot")
        with Wire(a) as wire:
            for part in range(20):
                wire.call([("SET", f"key:{part}:{n}", "x" * 1000) for n in range(500)])
        wait_equal(a, b, 20)
        wait_until(lambda: quiet(a, b), 20, "both streams fall silent")
        assert b.offset > 8_000_000
        there.kill()
        back.kill()
        a.client().incr("counter")
        b.client().incr("counter")
        there.start()
        back.start()
        wait_until(lambda: a.control.get("counter") == b"2" == b.control.get("counter"), 20, "2 on both sides")
        wait_equal(a, b, 10)
        assert a.sync_full == b.sync_full == 1


def test_a_chain_passes_writes_on_with_their_origin(redis_server: StartServer, tmp_path: Path) -> None:
    a, b, c = redis_server(), redis_server(), redis_server()
    with ExitStack() as stack:
        for one in (link(a, b, tmp_path, "a-b"), link(b, c, tmp_path, "b-c")):
            stack.enter_context(one).streaming()
        a.client().incr("counter")
        wait_until(lambda: c.control.get("counter") == b"1", 10, "c has it")
        tag = c.control.hgetall("redis-canal:checkpoint:b-c/0")
        assert tag[b"origin"] == b"a"
        assert tag[b"opos"].startswith(a.replid.encode())
        b.client().incr("counter")
        wait_until(lambda: c.control.get("counter") == b"2", 10, "c has that of b")
        assert c.control.hget("redis-canal:checkpoint:b-c/0", "origin") == b"b"
        assert a.control.get("counter") == b"1"


def test_in_a_mesh_each_write_comes_by_its_direct_task_only(redis_server: StartServer, tmp_path: Path) -> None:
    servers = {name: redis_server() for name in "abc"}
    with ExitStack() as stack:
        for x in "abc":
            for y in "abc":
                if x != y:
                    other = next(name for name in "abc" if name not in (x, y))
                    one = link(servers[x], servers[y], tmp_path, f"{x}-{y}", two_way=True, direct=(other,))
                    stack.enter_context(one).streaming()
        for one in (servers["a"], servers["b"], servers["c"]):
            one.client().incr("counter")
        wait_until(lambda: {one.control.get("counter") for one in servers.values()} == {b"3"}, 20, "3 everywhere")
        wait_until(lambda: quiet(*servers.values()), 20, "all streams fall silent")
        assert {one.control.get("counter") for one in servers.values()} == {b"3"}


def test_writes_that_come_back_to_their_datacenter_stop_the_link(redis_server: StartServer, tmp_path: Path) -> None:
    """Task c-b was told of another target's name, so that it passes on what b has sent."""
    b, c = redis_server(), redis_server()
    with link(b, c, tmp_path, "b-c") as out, link(c, b, tmp_path, "c-x") as wrong:
        out.streaming()
        wrong.streaming()
        b.client().incr("counter")
        error = out.failed()
        assert "circle" in str(error)
        assert "c-x" in str(error)
        assert out.status.state == "failed"


def test_writes_that_arrive_by_two_tasks_in_turn_stop_the_link(redis_server: StartServer, tmp_path: Path) -> None:
    """a → b ⇄ c without `direct`: what a wrote goes round between b and c until somebody notices."""
    a, b, c = redis_server(), redis_server(), redis_server()
    with ExitStack() as stack:
        there, back = link(b, c, tmp_path, "b-c", two_way=True), link(c, b, tmp_path, "c-b", two_way=True)
        for one in (there, back, link(a, b, tmp_path, "a-b")):
            stack.enter_context(one).streaming()
        client = a.client()
        for _ in range(50):
            client.incr("counter")
            if not there.running:
                break
            time.sleep(0.05)
        error = there.failed()
        assert "two tasks" in str(error)
        assert "direct" in str(error)
