"""What particular commands mean on their way: transactions, PUBLISH, flushes, databases, and silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal, differences, wait_equal
from tests.support.links import MODES, Link
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Command, Wire

pytestmark = pytest.mark.servers

OTHER = "redis-canal:checkpoint:other/0"


@pytest.mark.parametrize("writer", MODES)
def test_a_source_transaction_is_never_seen_in_part(redis_server: StartServer, tmp_path: Path, writer: str) -> None:
    source, target = redis_server(), redis_server()
    over, torn, seen = threading.Event(), [], set()

    def watch() -> None:
        client = target.client()
        while not over.is_set():
            values = client.mget(*(f"part:{n}" for n in range(10)))
            seen.add(values[0])
            if len(set(values)) > 1:
                torn.append(values)

    watcher = threading.Thread(target=watch)
    with Link(source, target, tmp_path, writer=writer, batch_commands=4) as link:
        link.streaming()
        watcher.start()
        with Wire(source) as wire:
            for number in range(300):
                commands: list[Command] = [("MULTI",)]
                for part in range(10):
                    commands += [("SET", f"part:{part}", number), ("INCR", "outside")]
                wire.call([*commands, ("EXEC",), ("INCR", "between")])
        link.in_step(source)
        over.set()
        watcher.join()
        assert not torn
        assert len(seen) > 10
        assert_equal(source, target)


def test_a_transaction_larger_than_any_batch_stays_whole(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        with Wire(source) as wire:
            wire.call([("MULTI",), *[("RPUSH", "list", "x" * 1000) for _ in range(5000)], ("EXEC",)])
        link.in_step(source)
        assert_equal(source, target)
        assert link.status.batches <= 3


@pytest.mark.parametrize("writer", MODES)
def test_published_messages_reach_subscribers_at_the_target(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        listener = target.client().pubsub(ignore_subscribe_messages=True)
        listener.subscribe("news")
        listener.get_message(timeout=1)
        client = source.client()
        client.publish("news", "one")
        with client.pipeline() as pipe:
            pipe.incr("a").publish("news", b"two\r\n").execute()
        wait_until(lambda: target.control.get("a") == b"1", 10)
        found = [wait_until(lambda: listener.get_message(timeout=0.1), 5)["data"] for _ in range(2)]
        assert found == [b"one", b"two\r\n"]
        listener.close()


FLUSHES: dict[str, list[Command]] = {
    "FLUSHALL": [("FLUSHALL",)],
    "FLUSHALL ASYNC": [("FLUSHALL", "ASYNC")],
    "FLUSHDB 0": [("FLUSHDB",)],
    "FLUSHDB 3": [("SELECT", 3), ("FLUSHDB",), ("SELECT", 0)],
    "SWAPDB 0 3": [("SWAPDB", 0, 3)],
    "SWAPDB 3 0": [("SWAPDB", 3, 0)],
    "in MULTI": [("MULTI",), ("INCR", "lost"), ("FLUSHALL",), ("INCR", "kept"), ("EXEC",)],
    "in a script": [("EVAL", "redis.call('INCR', 'lost') redis.call('FLUSHALL') redis.call('INCR', 'kept')", 0)],
}


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("version", ["6.2", "7.0", "valkey-9.1"])
def test_flushes_keep_the_checkpoints_of_all_links(
    redis_server: StartServer, tmp_path: Path, writer: str, version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        target.client().hset(OTHER, mapping={"v": 1, "pos": "f" * 40 + ":5", "uid": "u"})
        target.client().sadd("redis-canal:links", OTHER)
        for name, flush in FLUSHES.items():
            with Wire(source) as wire:
                wire.call([("SET", "zero", name), ("SELECT", 3), ("SET", "three", name), ("SELECT", 0)])
                wire.call([("INCR", "before"), *flush, ("INCR", "after")])
            link.in_step(source)
            found = differences(source, target)
            assert not found, f"{name}: {found}"
            assert target.control.hget(OTHER, "pos") == b"f" * 40 + b":5", name
            assert target.control.hget("redis-canal:checkpoint:test/0", "uid"), name
            assert target.client(db=3).keys("redis-canal:*") == [], name
        before = target.control.hgetall("redis-canal:checkpoint:test/0")
    with link.again() as link:  # the checkpoint is whole: no snapshot
        link.streaming()
        source.client().incr("after")
        link.in_step(source)
        assert_equal(source, target)
    assert before[b"v"] == b"1"
    assert source.sync_full == 1


def changes(server: Server) -> Any:
    return server.info("persistence")["rdb_changes_since_last_save"]


def test_pings_cause_no_writes_at_the_target(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(repl_ping_replica_period=1), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        source.client().incr("a")
        link.in_step(source)
        before, offset = changes(target), source.offset
        wait_until(lambda: source.offset >= offset + 3 * 14, 10, "three PINGs")
        link.in_step(source)
        assert changes(target) == before
        assert link.status.lag_bytes == 0


def test_pings_move_the_checkpoint_before_the_backlog_is_used_up(redis_server: StartServer, tmp_path: Path) -> None:
    """Per quarter of the source's backlog; here commands that are not replayed stand for hours of PINGs."""
    source, target = redis_server(repl_backlog_size="64kb"), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        with Wire(source) as wire:
            for _ in range(40):
                wire.call([("SET", "redis-canal:not-data", "x" * 1000)])
        link.in_step(source)
        wait_until(lambda: source.offset - checkpoint(target) < 16 * 1024 + 2000, 10, "the checkpoint follows")
        assert target.control.exists("redis-canal:not-data") == 0


def checkpoint(target: Server, task: str = "test") -> int:
    """The offset in a link's checkpoint."""
    found = target.control.hget(f"redis-canal:checkpoint:{task}/0", "pos")
    return int(found.partition(b":")[2]) if found else 0


def test_more_databases_than_the_target_has_are_refused_not_mixed_up(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(databases=32), redis_server(databases=16)
    with Link(source, target, tmp_path, on_error="continue") as link:
        link.streaming()
        with Wire(source) as wire:
            wire.call([("SET", "a", 1), ("SELECT", 20), ("SET", "a", "of database 20"), ("SELECT", 1), ("SET", "b", 2)])
        link.in_step(source)
        assert target.control.get("a") == b"1"
        assert target.client(db=1).get("b") == b"2"
        assert link.status.dead_letters == 1


# --- stopping and pausing


@pytest.mark.parametrize("writer", MODES)
def test_stop_applies_all_that_was_received_and_commits(redis_server: StartServer, tmp_path: Path, writer: str) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        target.pause()
        with Wire(source) as wire:
            wire.call([("INCR", "counter") for _ in range(5000)])
        goal = source.offset
        link.until(lambda: link.status.source_offset >= goal, 10, "all is received")
        link.call("stop", 20.0)
        target.resume()
        link.stop()
        assert link.status.state == "stopped"
        assert checkpoint(target) >= goal
    wait_equal(source, target, 1)


def test_stop_does_not_wait_for_a_source_that_never_pauses(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    source, target = redis_server(repl_backlog_size="64mb"), redis_server()
    far = proxy(target)
    over = threading.Event()

    def write() -> None:
        with Wire(source) as wire:
            while not over.is_set():
                wire.call([("INCR", "counter")] * 20)

    writer = threading.Thread(target=write)
    with Link(source, far, tmp_path) as link:
        link.streaming()
        far.delay(0.05)  # so that there is always something on its way
        writer.start()
        link.more("commands_applied")
        started = time.monotonic()
        link.stop(200.0)
        assert time.monotonic() - started < 100
        over.set()
        writer.join()
    with link.again() as link:
        link.streaming()
        link.in_step(source)
        assert_equal(source, target)
    assert source.sync_full == 1


def test_stop_keeps_its_deadline_when_the_target_is_stuck(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        target.pause()
        source.client().incr("counter")
        started = time.monotonic()
        link.stop(1.0)
        assert time.monotonic() - started < 60
        target.resume()
    with link.again() as link:
        link.streaming()
        link.in_step(source)
        assert_equal(source, target)


def test_pause_stops_replay_and_not_capture(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    client = source.client()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        client.incr("counter")
        link.in_step(source)
        link.call("pause")
        link.until(lambda: link.product is not None and link.product._paused, 5)
        time.sleep(0.2)
        client.incr("counter")
        goal = source.offset
        link.until(lambda: link.status.source_offset >= goal, 10, "it is received")
        time.sleep(0.5)  # that nothing happens cannot be waited for
        assert target.control.get("counter") == b"1"
        link.call("resume")
        link.in_step(source)
        assert target.control.get("counter") == b"2"


@pytest.mark.parametrize("number", [1, 2, 15, 17, 100])
def test_any_number_of_databases_is_found_out(redis_server: StartServer, tmp_path: Path, number: int) -> None:
    source, target = redis_server(databases=number + 1), redis_server(databases=number)
    source.client(db=number - 1).set("last", 1)
    with Link(source, target, tmp_path) as link:
        link.streaming()
        source.client(db=number - 1).incr("last")
        link.in_step(source)
        assert target.client(db=number - 1).get("last") == b"2"
        source.client(db=number).set("beyond", 1)
        error = link.failed()
        assert f"only {number} databases" in str(error)
        assert "SET beyond" in str(error)


def test_a_snapshot_with_more_databases_than_the_target_has_is_refused(
    redis_server: StartServer, tmp_path: Path
) -> None:
    source, target = redis_server(databases=32), redis_server(databases=16)
    source.client(db=20).set("a", 1)
    with Link(source, target, tmp_path) as link:
        error = link.failed()
    assert "only 16" in str(error)
    assert target.client().get("a") is None
