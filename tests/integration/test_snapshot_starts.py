"""Where a link begins: never, always or when needed with a snapshot; and again after -9 at any moment of one."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canal.journal.transfer import META_NAME
from sync.session import Session
from sync.sessions import Sessions
from tests.conftest import StartServer
from tests.support.compare import assert_equal, differences, wait_equal
from tests.support.links import MODES, Link, LinkProcess
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))  # the long form: 1M keys, 20 kills
KEYS = 1_000_000 if FULL else 100_000
KILLS = 20 if FULL else 6
CHECKPOINT = "redis-canal:checkpoint:test/0"


def write(server: Server, count: int, db: int = 0) -> None:
    with Wire(server) as wire:
        wire.ask("SELECT", db)
        wire.call([("SET", f"k:{number}", number) for number in range(count)])


@pytest.mark.parametrize("version", ["5.0", "7.0", "valkey-9.1"])
def test_never_begins_where_the_source_is(redis_server: StartServer, tmp_path: Path, version: str) -> None:
    """Also where the stream goes on in a database that nothing in it names any more."""
    source, target, replica = redis_server(version), redis_server(version), redis_server(version)
    host, port = source.address
    replica.control.execute_command("REPLICAOF", host, port)
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 20)
    for server in (source, target):
        write(server, 100)
        write(server, 50, db=3)
    target.client(db=3).set("mine", "stays")
    writer = source.client(db=3)
    writer.incr("before")
    target.client(db=3).incr("before")
    full = source.sync_full
    with Link(source, target, tmp_path, snapshot_mode="never") as link:
        link.streaming()
        assert target.client().hget(CHECKPOINT, "pos").decode() == f"{source.replid}:{link.status.applied_offset}"
        writer.incr("before")
        writer.set("k:1", "changed")
        source.client().delete("k:2")
        link.in_step(source)
        assert link.status.snapshot.keys_done == 0
        assert link.status.full_resyncs == 0
    assert target.client(db=3).get("before") == b"2"
    assert differences(source, target) == ["db 3 key b'mine': only in b"]
    writer.incr("before")
    with link.again() as later:  # from its checkpoint, not from where the source is by then
        later.streaming()
        later.in_step(source)
    assert target.client(db=3).get("before") == b"3"
    assert source.sync_full == full + 1


def test_never_takes_a_snapshot_when_the_stream_was_lost(redis_server: StartServer, tmp_path: Path) -> None:
    """It is said of the beginning: later a gap must be filled, or writes would be missing in silence."""
    source, target = redis_server(), redis_server()
    for server in (source, target):
        write(server, 100)
    with Link(source, target, tmp_path, snapshot_mode="never") as link:
        link.streaming()
    source.restart(graceful=False)
    write(source, 90)
    source.client().set("k:0", "new")
    with link.again() as later:  # it may go on streaming before the source says that it has lost the stream
        later.until(lambda: later.status.snapshot.finished, what="a snapshot is applied")
        later.streaming()
        assert later.status.snapshot.stale_deleted == 10
        assert_equal(source, target)


def test_always_takes_one_at_each_start(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    write(source, 100)
    with Link(source, target, tmp_path, snapshot_mode="always") as link:
        link.streaming()
        source.client().incr("counter")
        link.in_step(source)
    assert source.sync_full == 1
    target.client().delete("k:7")
    target.client().set("k:8", "wrong")
    target.client().set("stale", "1")
    with link.again() as later:
        later.streaming()
        assert later.status.full_resync_reasons == {"asked for": 1}
        assert_equal(source, target)
        source.client().incr("counter")
        later.in_step(source)
        assert_equal(source, target)
    assert source.sync_full == 2


def test_auto_takes_one_at_first_contact_alone(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    write(source, 100)
    with Link(source, target, tmp_path) as link:
        link.streaming()
    target.client().set("k:8", "wrong")
    with link.again() as later:
        later.streaming()
    assert target.client().get("k:8") == b"wrong"
    assert source.sync_full == 1


@pytest.mark.slow
@pytest.mark.timeout(900 if FULL else 180)
@pytest.mark.parametrize("writer", MODES)
def test_killed_at_any_moment_of_a_snapshot(redis_server: StartServer, tmp_path: Path, writer: str) -> None:
    """While it is received, applied, swept: it goes on with what is on disk, and the source makes one full sync."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    source, target = redis_server(repl_backlog_size="256mb"), redis_server()
    with Wire(source) as wire:
        for start in range(0, KEYS, 10_000):
            wire.call([("SET", f"k:{n}", f"value of {n}") for n in range(start, start + 9_900)])
            wire.call([("HSET", f"h:{n}", *range(20)) for n in range(start, start + 100)])
        wire.call([("RPUSH", "long", *(f"element {n} {m}" for m in range(1000))) for n in range(200)])
    with Wire(target) as wire:
        for start in range(0, KEYS // 5, 10_000):
            wire.call([("SET", f"stale:{n}", n) for n in range(start, start + 10_000)])
    # slow enough that it lasts: some seconds
    arguments = ("--stale-keys", "delete", "--writer", writer, "--big-key-bytes", "1m", "--snapshot-rate", "1m")
    with LinkProcess(source, target, tmp_path, *arguments) as link:
        # From when it is on disk: before that, what came is torn, and asking again is right.
        wait_until((tmp_path / "state/test/snapshot" / META_NAME).exists, 60, "the snapshot is on disk")
        done = 0
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 3.0 if FULL else 1.5))
            if applied(target):
                break
            link.kill()
            done += 1
            link.start()
            source.client().incr("during")
        wait_until(lambda: applied(target), 300, f"seed {seed}: all is applied after {done} kills")
        wait_equal(source, target, 60)
        assert link.running
    assert source.sync_full == 1, f"seed {seed}"
    assert done >= KILLS // 2


def applied(target: Server) -> bool:
    return bool(target.control.hget(CHECKPOINT, "phase") == b"stream")


def test_a_snapshot_that_breaks_off_just_before_it_is_applied(
    redis_server: StartServer, tmp_path: Path, proxy: Callable[[Server], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is none: the link asks again."""
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("SET", f"k:{number}", os.urandom(1000)) for number in range(2000)])
    door, opened = proxy(source), Sessions.open
    broken = threading.Event()

    async def new_session(self: Sessions, *arguments: Any) -> Session:
        made = await opened(self, *arguments)
        if not broken.is_set():
            door.cut()
            while self._capture.spool.position is not None:  # noqa: ASYNC110 - another thread of work ends it
                await asyncio.sleep(0.01)
            broken.set()
            door.limit(None)
        return made

    monkeypatch.setattr(Sessions, "open", new_session)
    door.limit(200_000)
    with Link(door, target, tmp_path) as link:
        link.streaming()
        assert broken.is_set()
        wait_equal(source, target)
        assert link.status.full_resyncs == 2
