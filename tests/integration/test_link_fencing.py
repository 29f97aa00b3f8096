"""A writer that lost its connection, its turn or its target's attention: nothing late is applied, and nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sync import session as session_module
from sync.target.fence import Fenced
from tests.conftest import StartServer
from tests.support import proxy_pipe
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workload import COUNTING, Workload

pytestmark = pytest.mark.servers

BATCH = {"gated": b"*1\r\n$5\r\nMULTI\r\n", "guarded": b"EVALSHA"}


@dataclass
class As:
    """A proxy's address with a user and password."""

    proxy: Proxy
    user: str

    @property
    def url(self) -> str:
        return self.proxy.url.replace("redis://", f"redis://{self.user}@")


@pytest.mark.parametrize("writer", MODES)
def test_a_batch_that_arrives_after_the_connection_was_lost_is_not_applied(
    redis_server: StartServer, server_version: str, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(server_version), redis_server(server_version)
    far = proxy(target)
    client = source.client()
    with Link(source, far, tmp_path, writer=writer) as link:
        link.streaming()
        client.incr("counter")
        link.in_step(source)
        held = far.hold(BATCH[writer])
        client.incr("counter")
        held.wait()
        held.cut_client()
        client.incr("counter")
        link.in_step(source)
        assert target.control.get("counter") == b"3"
        with pytest.raises(ConnectionError):  # the new connection had the server close the old one
            held.deliver()
            time.sleep(0.2)
            held.deliver()
        client.incr("counter")
        link.in_step(source)
        wait_equal(source, target, 5)
        assert target.control.get("counter") == b"4"


def test_without_the_right_to_kill_the_guard_alone_keeps_late_batches_out(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    source, target = redis_server(), redis_server()
    target.control.execute_command("ACL", "SETUSER", "canal", "on", ">pw", "~*", "&*", "+@all", "-client|kill")
    far = proxy(target)
    client = source.client()
    with Link(source, As(far, "canal:pw"), tmp_path) as link:
        link.streaming()
        assert link.status.writer == "guarded"
        client.incr("counter")
        link.in_step(source)
        held = far.hold(BATCH["guarded"])
        client.incr("counter")
        held.wait()
        held.cut_client()
        client.incr("counter")
        link.in_step(source)
        calls = commandstats(target)
        held.deliver()
        wait_until(lambda: commandstats(target) > calls, 5, "the late batch has arrived")
        assert target.control.get("counter") == b"3"
        client.incr("counter")
        link.in_step(source)
        assert target.control.get("counter") == b"4"


def commandstats(server: Server) -> int:
    """How many scripts it was sent."""
    return int(server.control.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def test_gated_writing_without_the_right_to_kill_is_refused(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    target.control.execute_command("ACL", "SETUSER", "default", "-client|kill")
    with Link(source, target, tmp_path, writer="gated") as link:
        error = link.failed()
    assert "+client|kill" in str(error)
    assert error.exit_code == 4


@pytest.mark.parametrize("writer", MODES)
def test_a_user_who_may_not_use_transactions_is_refused(redis_server: StartServer, tmp_path: Path, writer: str) -> None:
    source, target = redis_server(), redis_server()
    target.control.execute_command("ACL", "SETUSER", "default", "-multi")
    with Link(source, target, tmp_path, writer=writer) as link:
        error = link.failed()
    assert error.exit_code == 4
    assert "MULTI" in str(error)


@pytest.mark.parametrize("writer", MODES)
def test_a_newer_owner_takes_over_and_the_older_one_stops(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    with Workload(source, rate=1000, commands=COUNTING) as load:
        with Link(source, target, tmp_path / "a", writer=writer, uid="one", epoch=1) as older:
            older.streaming()
            load.wait(300)
            with Link(source, target, tmp_path / "b", writer=writer, uid="one", epoch=2) as newer:
                error = older.failed()
                newer.streaming()
                load.wait(300)
                load.stop()
                newer.in_step(source)
                wait_equal(source, target, 10)
        assert isinstance(error, Fenced)
        assert "2" in str(error)
        with Link(source, target, tmp_path / "a", writer=writer, uid="one", epoch=1) as again:
            assert isinstance(again.failed(), Fenced)
    assert source.sync_full == 1  # the newer one went on at the checkpoint, without a journal of its own


@pytest.mark.parametrize("writer", MODES)
def test_a_target_that_accepts_and_never_answers_is_connected_to_anew(
    redis_server: StartServer,
    proxy: Callable[[Server], Proxy],
    tmp_path: Path,
    writer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "REPLY_TIMEOUT_S", 1.0)
    source, target = redis_server(), redis_server()
    far = proxy(target)
    with Link(source, far, tmp_path, writer=writer) as link:
        link.streaming()
        for connection in far.connections:
            connection.stall("to_client")
        source.client().incr("counter")
        link.in_step(source, 10)
        assert link.status.target_reconnects == 1
        assert "neither taken nor answered" in str(link.status.last_error)
        wait_equal(source, target, 5)


@pytest.mark.parametrize("writer", MODES)
def test_a_target_that_is_busy_for_long_is_waited_for(
    redis_server: StartServer, tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the time-out passes: it says nothing against the commands that were on their way."""
    monkeypatch.setattr(session_module, "REPLY_TIMEOUT_S", 0.3)
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        with Workload(source, rate=1000, commands=COUNTING) as load:
            for _ in range(4):
                load.wait(200)
                errors = link.status.errors
                target.pause()
                link.until(lambda errors=errors: link.status.errors > errors, 60, "the time-out has passed")
                target.resume()
        link.in_step(source)
        wait_equal(source, target, 10)
        assert link.status.dead_letters == 0
        assert link.product is not None
        assert link.product._replay is not None
        assert link.product._replay._troubles.losses == 0


def test_a_slow_line_is_not_taken_for_a_dead_one(
    redis_server: StartServer,
    proxy: Callable[[Server], Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "REPLY_TIMEOUT_S", 3.0)
    monkeypatch.setattr(proxy_pipe, "_QUEUE_BYTES", 256 * 1024)
    source, target = redis_server(), redis_server()
    far = proxy(target)
    with Link(source, far, tmp_path) as link:
        link.streaming()
        far.limit(8_000_000, "to_server")
        source.client().set("big", b"x" * 40_000_000)
        link.in_step(source, 30)
        assert link.status.target_reconnects == 0
        wait_equal(source, target, 10)


@pytest.mark.parametrize("writer", MODES)
def test_of_two_owners_with_one_epoch_the_second_at_the_target_is_turned_away(
    redis_server: StartServer, server_version: str, tmp_path: Path, writer: str
) -> None:
    """A coordinator that lost its data while the target was away gives the same epoch to a second owner."""
    source, target = redis_server(server_version), redis_server(server_version)
    settings = {"writer": writer, "epoch": 1, "uid": "u", "epoch_unused": True}
    with Link(source, target, tmp_path / "a", **settings) as first:
        first.streaming()
        second = Link(source, target, tmp_path / "b", **settings).start()
        error = second.failed()
        assert isinstance(error, Fenced)
        assert error.epoch == 1
        source.client().incr("counter")
        first.in_step(source)
        assert first.status.target_reconnects == 0, "who writes was not disturbed"
    settings["epoch_unused"] = False  # a worker started again in the same owner's care
    with Link(source, target, tmp_path / "a", **settings) as again:
        again.streaming()
    wait_equal(source, target)


def test_of_two_owners_that_come_at_once_with_one_epoch_one_gets_it(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    settings = {"epoch": 1, "uid": "u", "epoch_unused": True}
    both = [Link(source, target, tmp_path / name, **settings) for name in ("a", "b")]
    for link in both:
        link.start()
    wait_until(lambda: any(not link.running for link in both), 30, "one is turned away")
    [away] = [link for link in both if not link.running]
    [stays] = [link for link in both if link.running]
    assert isinstance(away.failed(), Fenced)
    stays.streaming()
    source.client().incr("counter")
    stays.in_step(source)
    stays.stop()
    wait_equal(source, target)
