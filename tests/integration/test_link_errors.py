"""What a person has to look at: commands that the target refuses for good, wrong targets, a second task."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canal.errors import ReplayError
from canal.resp import encode
from sync import troubles as troubles_module
from sync.deadletter import FILE_NAME
from tests.conftest import StartServer
from tests.support.compare import differences, wait_equal
from tests.support.links import MODES, Link
from tests.support.process import wait_until
from tests.support.proxy import Connection, Proxy
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers


def letters(link: Link) -> list[dict[str, Any]]:
    """What the dead-letter file holds."""
    path = link.config.state_dir / FILE_NAME
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- commands that the target refuses


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_wrongtype_with_stop_fails_with_all_that_is_known(
    redis_server: StartServer, tmp_path: Path, writer: str, version: str
) -> None:
    source, target = redis_server(version), redis_server(version)
    source.client().rpush("victim", "old")
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        target.client().set("victim", "not a list")
        first, refused, last = ("INCR", "before"), ("LPUSH", "victim", "x\r\n"), ("INCR", "after")
        with Wire(source) as wire:
            wire.call([first, refused, last])
        end = source.offset - len(encode([b"INCR", b"after"]))
        error = link.failed()
        assert isinstance(error, ReplayError)
        text = str(error)
        assert all(part in text for part in ("LPUSH", "victim", "WRONGTYPE", str(end), FILE_NAME)), text
        (letter,) = letters(link)
        assert letter["command"] == "LPUSH"
        assert letter["key"] == "victim"
        assert letter["error"].startswith("WRONGTYPE")
        assert letter["offset"] == end
        assert letter["db"] == 0
        assert base64.b64decode(letter["raw"]) == encode([word.encode() for word in refused])
        assert link.status.dead_letters == 1
    target.client().delete("victim")
    with link.again() as link:  # what was refused is left to the person, the rest goes on
        link.streaming()
        link.in_step(source)
        found = differences(source, target)
        assert len(found) == 1
        assert "victim" in found[0]


@pytest.mark.parametrize("writer", MODES)
def test_wrongtype_with_continue_goes_on_and_the_rest_is_exact(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    source.client().rpush("victim", "old")
    with Link(source, target, tmp_path, writer=writer, on_error="continue") as link:
        link.streaming()
        target.client().set("victim", "not a list")
        with Wire(source) as wire:
            wire.call([("INCR", "a"), ("LPUSH", "victim", 1), ("INCR", "a"), ("MULTI",)])
            wire.call([("INCR", "b"), ("RPUSH", "victim", 2), ("INCR", "b"), ("EXEC",), ("INCR", "c")])
        link.in_step(source)
        assert link.status.dead_letters == link.status.commands_failed == 2
        assert [letter["command"] for letter in letters(link)] == ["LPUSH", "RPUSH"]
        (found,) = differences(source, target)
        assert "victim" in found
        assert target.control.mget("a", "b", "c") == [b"2", b"2", b"1"]


@pytest.mark.parametrize("writer", MODES)
def test_failures_of_batches_that_were_on_their_way_are_written_down_too(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    source.client().rpush("victim", "old")
    far = proxy(target)
    with Link(source, far, tmp_path, writer=writer, batch_commands=1) as link:
        link.streaming()
        target.client().set("victim", "not a list")
        far.delay(0.1)
        for number in range(5):
            source.client().lpush("victim", number)
            time.sleep(0.02)  # so that their replies come one by one
        error = link.failed()
        assert "LPUSH" in str(error)
        applied = int(target.control.hget("redis-canal:checkpoint:test/0", "pos").partition(b":")[2])
        size = len(encode([b"LPUSH", b"victim", b"0"]))
        first = letters(link)[0]["offset"]
        assert len(letters(link)) == (applied - first) // size + 1


@pytest.mark.parametrize("writer", MODES)
def test_every_refused_command_of_a_transaction_becomes_a_dead_letter(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server(rename_command='LPUSH ""')
    with Link(source, target, tmp_path, writer=writer, on_error="continue") as link:
        link.streaming()
        with Wire(source) as wire:
            wire.call([("MULTI",), ("LPUSH", "one", 1), ("INCR", "a"), ("LPUSH", "two", 1), ("EXEC",)])
        link.in_step(source)
        assert [letter["key"] for letter in letters(link)] == ["one", "two"]
        assert target.control.get("a") == b"1"


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_command_that_the_target_does_not_have_is_found_and_named(
    redis_server: StartServer, tmp_path: Path, writer: str, on_error: str
) -> None:
    """It is refused when it is queued, so the whole transaction is: the rest has to be applied without it."""
    source, target = redis_server(), redis_server(rename_command='LPUSH ""')
    with Link(source, target, tmp_path, writer=writer, on_error=on_error) as link:
        link.streaming()
        with Wire(source) as wire:
            wire.call([*[("INCR", "a")] * 20, ("LPUSH", "list", 1), *[("INCR", "a")] * 20])
        if on_error == "stop":
            error = link.failed()
            assert "LPUSH list" in str(error)
            assert int(target.control.get("a") or 0) >= 20
        else:
            link.in_step(source)
            (found,) = differences(source, target)
            assert "list" in found
            assert target.control.get("a") == b"40"
            assert source.client().incr("a") == 41
            link.in_step(source)
            assert target.control.get("a") == b"41"
        assert [letter["key"] for letter in letters(link)] == ["list"]


def test_what_was_read_after_a_unit_that_stops_the_link_is_applied_after_the_restart(
    redis_server: StartServer, tmp_path: Path
) -> None:
    source, target = redis_server(databases=32), redis_server(databases=16)
    with Link(source, target, tmp_path) as link:
        link.streaming()
        with Wire(source) as wire:
            before, after = [("INCR", "a")] * 20, [("INCR", "a")] * 20
            wire.call([*before, ("SELECT", 20), ("SET", "x", 1), ("SELECT", 0), *after])
        error = link.failed()
        assert "SET x" in str(error)
        assert target.control.get("a") == b"20"
    again = Link(source, target, tmp_path, on_error="continue")
    with again:
        again.in_step(source)
        assert target.control.get("a") == b"40"


class Poison:
    """A target that dies of a command: killed when the proxy sees it, and started again."""

    def __init__(self, proxy: Proxy, target: Server, mark: bytes) -> None:
        self.deaths = 0
        self._proxy, self._target, self._mark = proxy, target, mark
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._revive, daemon=True)

    def __enter__(self) -> Poison:
        self._proxy.on_data = self._look
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()

    def _look(self, connection: Connection, direction: str, data: bytes) -> None:
        if direction == "to_server" and self._mark in data:
            connection.to_server.discard = True
            self._news.set()

    def _revive(self) -> None:
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            self._target.restart(graceful=False)
            self.deaths += 1


@pytest.mark.slow
def test_with_continue_the_link_goes_on_after_a_poisonous_transaction(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    source, target = redis_server(), redis_server(appendonly="yes", appendfsync="always")
    far = proxy(target)
    with Link(source, far, tmp_path, on_error="continue") as link, Poison(far, target, b"poison"):
        link.streaming()
        with Wire(source) as wire:
            wire.call([*[("INCR", "a")] * 20, ("MULTI",), ("SET", "poison", 1), ("INCR", "b"), ("EXEC",)])
            wire.call([("INCR", "a")] * 20)
        link.in_step(source, 60)
        assert [letter["command"] for letter in letters(link)] == ["SET", "INCR"]
        assert target.control.mget("a", "b", "poison") == [b"40", None, None]


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_a_command_of_which_the_target_dies_is_sent_alone_and_then_named(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server(appendonly="yes", appendfsync="always")
    far = proxy(target)
    with Link(source, far, tmp_path, writer=writer) as link, Poison(far, target, b"poison") as poison:
        link.streaming()
        with Wire(source) as wire:
            wire.call([*[("INCR", "a")] * 50, ("SET", "poison", 1), *[("INCR", "a")] * 50])
        error = link.failed(60)
    assert isinstance(error, ReplayError)
    assert "SET poison" in str(error)
    assert 4 <= poison.deaths <= 10
    assert target.control.get("a") == b"50"  # all before it is applied, nothing after it
    (letter,) = letters(link)
    assert letter["key"] == "poison"


def test_a_line_that_breaks_often_is_not_a_poisonous_command(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(troubles_module, "_LOSSES_POISON", 3)
    source, target = redis_server(), redis_server()
    far = proxy(target)
    client = source.client()
    with Link(source, far, tmp_path) as link:
        link.streaming()
        for _ in range(15):
            client.incr("counter")
            far.cut()
            link.in_step(source)
        assert target.control.get("counter") == b"15"
        assert link.status.dead_letters == 0


# --- the wrong target


def test_a_target_with_keys_is_refused_with_their_number_and_left_alone(
    redis_server: StartServer, tmp_path: Path
) -> None:
    source, target = redis_server(), redis_server()
    source.client().set("key", "of the source")
    target.client().mset({"key": "theirs", "other": "theirs"})
    target.client(db=3).set("third", "theirs")
    with Link(source, target, tmp_path) as link:
        error = link.failed()
    assert "3 keys" in str(error)
    assert "keep" in str(error)
    assert "delete" in str(error)
    assert error.exit_code == 1
    assert target.client().mget("key", "other") == [b"theirs", b"theirs"]
    assert target.control.keys("redis-canal:*") == []
    assert source.sync_full == 0


def test_keep_overwrites_what_the_snapshot_has_and_leaves_the_rest(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    source.client().set("key", "of the source")
    target.client().mset({"key": "theirs", "other": "theirs"})
    with Link(source, target, tmp_path, snapshot_stale_keys="keep") as link:
        link.streaming()
        assert target.client().mget("key", "other") == [b"of the source", b"theirs"]
        source.client().set("key", "new")
        link.in_step(source)
    with link.again() as link:  # now there is a checkpoint: no question any more
        link.streaming()
        assert target.client().mget("key", "other") == [b"new", b"theirs"]
    assert source.sync_full == 1


def test_a_target_that_lost_its_checkpoint_but_holds_data_is_refused(redis_server: StartServer, tmp_path: Path) -> None:
    """Within the life of a link too: it is not the target that it was."""
    source, target = redis_server(), redis_server()
    source.client().set("key", 1)
    with Link(source, target, tmp_path) as link:
        link.streaming()
        target.client().flushall()
        target.client().set("foreign", 1)
        target.client().client_kill_filter(_type="normal", skipme=True)
        error = link.failed()
    assert "1 keys" in str(error)
    assert target.client().get("foreign") == b"1"


def test_a_target_that_lost_everything_gets_it_again(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("SET", f"key:{n}", n) for n in range(100)])
    with Link(source, target, tmp_path) as link:
        link.streaming()
        target.restart(graceful=False)
        wait_equal(source, target, 15)
        source.client().incr("counter")
        link.in_step(source)
        wait_equal(source, target, 5)
    assert source.sync_full == 2


def test_a_second_task_for_the_same_source_and_target_is_refused(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    client = source.client()
    with Link(source, target, tmp_path) as link:
        link.streaming()
        client.incr("counter")
        with Link(source, target, tmp_path, task="second", snapshot_stale_keys="keep") as second:
            error = second.failed()
        assert "redis-canal:checkpoint:test/0" in str(error)
        assert "DEL" in str(error)
        client.incr("counter")
        link.in_step(source)
        assert target.control.get("counter") == b"2"
    assert source.sync_full == 1
    assert target.control.exists("redis-canal:checkpoint:second/0") == 0


@pytest.mark.parametrize("info", ["+info", "-info"])
def test_source_and_target_the_same_server_is_refused(redis_server: StartServer, tmp_path: Path, info: str) -> None:
    """By run id, or, where the source's user may not ask for it, by its replication id."""
    server = redis_server()
    server.control.execute_command("ACL", "SETUSER", "feed", "on", ">pw", "+@all", "~*", info)

    class AsFeed:
        url = server.url.replace("redis://", "redis://feed:pw@")

    with Link(AsFeed(), server, tmp_path) as link:  # type: ignore[arg-type]
        error = link.failed()
    assert error.exit_code == 2
    assert "same server" in str(error)


def test_a_replica_of_the_source_is_refused_as_target(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    target.control.replicaof("127.0.0.1", str(source.port))
    wait_until(lambda: target.info("replication")["master_link_status"] == "up", 10)
    with Link(source, target, tmp_path) as link:
        error = link.failed()
    assert error.exit_code == 2
    assert "REPLICAOF NO ONE" in str(error)
