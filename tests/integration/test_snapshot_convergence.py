"""A full resync makes the target what the source is, whatever stood there, and touches nothing that is not its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from canal.errors import Refused
from sync.transform import TransformOptions
from tests.conftest import StartServer
from tests.support.compare import assert_equal, differences
from tests.support.links import MODES, Link
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers

COMMON = 20_000
STALE = 100_000


def names(server: Server, db: int = 0) -> set[bytes]:
    return {name for name in server.client(db=db).scan_iter(count=5000) if not name.startswith(b"redis-canal:")}


def strings(server: Server, pattern: str, count: int, db: int = 0) -> None:
    with Wire(server) as wire:
        wire.ask("SELECT", db)
        for start in range(0, count, 10_000):
            wire.call([("SET", pattern % number, number) for number in range(start, min(count, start + 10_000))])


class Poller:
    """Asks again and again whether keys are there; `missing` are those that were not, at any time."""

    def __init__(self, server: Server, keys: list[bytes]) -> None:
        self._wire = Wire(server)
        self._keys = keys
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.missing: set[bytes] = set()
        self.rounds = 0

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._wire.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for start in range(0, len(self._keys), 500):
                some = self._keys[start : start + 500]
                found = self._wire.call([("EXISTS", key) for key in some])
                self.missing.update(key for key, there in zip(some, found, strict=True) if not there)
            self.rounds += 1


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_stale_keys_and_wrong_types_go_and_no_common_key_is_ever_missing(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "common:%d", COMMON)
    with Wire(source) as wire:
        wire.call([("RPUSH", f"list:{n}", *range(1 + n % 300)) for n in range(1, 1000)])
    with Wire(target) as wire:
        wire.call([("SADD", f"common:{n}", "of another type", n) for n in range(0, COMMON, 2)])
        wire.call([("SET", f"common:{n}", "other") for n in range(1, COMMON, 2)])
        wire.call([("RPUSH", f"list:{n}", "twice", "twice") for n in range(1, 1000)])
        wire.call([("SET", f"list:{n}", "v", "EX", 1000) for n in range(1, 1000, 3)])
    strings(target, "stale:%d", STALE)
    strings(target, "stale:%d", 1000, db=7)
    common = [b"common:%d" % n for n in range(0, COMMON, 10)] + [b"list:%d" % n for n in range(2, 1000, 7)]
    with (
        Poller(target, common) as poller,
        Link(source, target, tmp_path, writer=writer, snapshot_stale_keys="delete") as link,
    ):
        link.streaming(60)
        assert poller.rounds >= 2
    assert poller.missing == set()
    assert_equal(source, target)
    assert link.status.snapshot.stale_deleted == STALE + 1000
    assert link.status.snapshot.stale_kept == 0


def test_stale_keys_may_stay_and_are_counted(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "common:%d", 100)
    strings(target, "stale:%d", 30)
    target.client().set("common:5", "old")
    with Link(source, target, tmp_path, snapshot_stale_keys="keep") as link:
        link.streaming()
        assert (link.status.snapshot.stale_kept, link.status.snapshot.stale_deleted) == (30, 0)
    assert target.client().get("common:5") == b"5"
    assert len(names(target)) == 130


def test_a_mistyped_target_keeps_everything(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "mine:%d", 10)
    strings(target, "theirs:%d", 10, db=3)
    offset = target.offset
    link = Link(source, target, tmp_path).start()
    error = link.failed()
    assert isinstance(error, Refused)
    for part in ("holds 10 keys and no checkpoint of task test", "--stale-keys delete", "--stale-keys keep"):
        assert part in str(error)
    assert (names(target), len(names(target, 3)), target.offset) == (set(), 10, offset)
    assert source.sync_full == 0


def resync_without_data(source: Server, link: Link) -> None:
    """The source comes back without its data; the link goes on by itself."""
    source.restart(graceful=False)
    link.until(lambda: link.error is not None or link.status.full_resyncs > 1, 30, "a full resync")


def test_a_source_that_restarts_empty_does_not_empty_the_target(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "k:%d", 500)
    link = Link(source, target, tmp_path).start()
    link.streaming()
    source.restart(graceful=False)
    error = link.failed(60)
    assert isinstance(error, Refused)
    assert str(error).startswith("the source's snapshot is empty: the resync would remove 500 of 500 keys of target ")
    for part in ("Nothing was removed", "task resync --confirm", "--confirm-resync", "stale_keys: keep"):
        assert part in str(error)
    assert len(names(target)) == 500
    # It asks again after a restart, and a person's word lets it go on, for this time.
    again = link.again().start()
    assert "would remove 500 of 500" in str(again.failed())
    assert len(names(target)) == 500
    with Link(source, target, tmp_path, snapshot_confirmed=True) as confirmed:
        confirmed.streaming()
        assert names(target) == set()
        assert confirmed.status.snapshot.stale_deleted == 500


@pytest.mark.parametrize(("lost", "refused"), [(100, False), (101, True)])
def test_the_guard_stands_at_a_fifth(redis_server: StartServer, tmp_path: Path, lost: int, refused: bool) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "k:%d", 500)
    with Link(source, target, tmp_path) as link:
        link.streaming()
    source.client().delete(*(f"k:{number}" for number in range(lost)))
    source.restart(graceful=False, appendonly="no")  # forgets its stream too
    with Wire(source) as wire:
        wire.call([("SET", f"k:{number}", number) for number in range(lost, 500)])
    later = link.again().start()
    if refused:
        error = later.failed()
        assert f"lacks much of what the target has: the resync would remove {lost} of 500 keys" in str(error)
        assert len(names(target)) == 500
    else:
        later.streaming()
        later.stop()
        assert_equal(source, target)


def test_a_snapshot_always_is_guarded_where_the_task_has_worked_before(
    redis_server: StartServer, tmp_path: Path
) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "k:%d", 500)
    with Link(source, target, tmp_path) as link:
        link.streaming()
    strings(target, "more:%d", 400)
    again = Link(source, target, tmp_path, snapshot_mode="always").start()
    assert "would remove 400 of 900" in str(again.failed())
    with Link(source, target, tmp_path, snapshot_mode="always", snapshot_confirmed=True) as confirmed:
        confirmed.streaming()
        assert_equal(source, target)


def test_two_sources_share_a_target_by_databases(redis_server: StartServer, tmp_path: Path) -> None:
    first, second, target = redis_server(), redis_server(), redis_server()
    strings(first, "a:%d", 300)
    strings(second, "b:%d", 200)
    strings(target, "theirs:%d", 50, db=9)
    options: dict[str, Any] = {"snapshot_stale_keys": "delete"}
    zero, to_four = TransformOptions(include_databases=frozenset({0})), TransformOptions(
        include_databases=frozenset({0}), db_map={0: 4}
    )  # fmt: skip
    with Link(first, target, tmp_path, task="one", transform=zero, **options) as one:
        one.streaming()
        with Link(second, target, tmp_path, task="two", transform=to_four, **options) as two:
            two.streaming()
            assert [len(names(target, db)) for db in (0, 4, 9)] == [300, 200, 50]
    # Each resyncs alone: with what is stale in its own database, and only there.
    strings(target, "stale:%d", 20)
    strings(target, "stale:%d", 20, db=4)
    with Link(second, target, tmp_path, task="two", transform=to_four, snapshot_mode="always", **options) as two:
        two.streaming()
        assert two.status.snapshot.stale_deleted == 20
        assert [len(names(target, db)) for db in (0, 4, 9)] == [320, 200, 50]
    with Link(first, target, tmp_path, task="one", transform=zero, snapshot_mode="always", **options) as one:
        one.streaming()
        assert [len(names(target, db)) for db in (0, 4, 9)] == [300, 200, 50]


def test_what_an_earlier_snapshot_brought_is_stale_for_the_next(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path
) -> None:
    """First contact with an empty target: nothing to sweep, unless a first snapshot was applied only in part."""
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("RPUSH", f"old:{n}", *range(n, n + 100)) for n in range(10_000)])
    far = proxy(target)
    far.limit(1_000_000)
    link = Link(source, far, tmp_path).start()
    link.until(lambda: target.client().dbsize() > 1000, 30, "a part is applied")
    link.call("stop", 0.0)
    link.join()
    source.restart(graceful=False)
    strings(source, "new:%d", 100)
    far.flow()
    with link.again() as later:
        later.streaming()
    assert_equal(source, target)
    assert later.status.snapshot.stale_deleted > 1000


def test_leftovers_of_a_value_in_the_making_go(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    strings(source, "k:%d", 5)
    for db in (0, 6):
        target.client(db=db).rpush("redis-canal:tmp:test/0", "half")
    with Link(source, target, tmp_path, snapshot_stale_keys="delete") as link:
        link.streaming()
    assert target.client(db=6).dbsize() == 0
    assert not target.client().exists("redis-canal:tmp:test/0")
    assert differences(source, target) == []


@pytest.mark.parametrize("existing", ["source", "target"])
def test_two_ways_merge_and_keep_what_they_are_told_to(
    redis_server: StartServer, tmp_path: Path, existing: str
) -> None:
    """Nothing is removed; where both sides have a key, the one that is named wins, whatever its type and way."""
    source, target = redis_server("7.0"), redis_server("6.2")
    with Wire(source) as wire:
        wire.call([("SET", f"only:{n}", n) for n in range(50)])
        wire.ask("SET", "string", "of the source")
        wire.ask("SET", "timed", "of the source", "EX", 1000)
        wire.ask("SADD", "ints", 1, 2, 3)  # restamped
        wire.ask("HSET", "hash", "f", "of the source")  # by commands
        wire.ask("RPUSH", "long", *(f"element {n}" for n in range(20_000)))  # in pieces
        wire.ask("SET", "type", "of the source")
    with Wire(target) as wire:
        wire.call([("SET", f"there:{n}", n) for n in range(50)])
        for name in ("string", "timed"):
            wire.ask("SET", name, "of the target")
        wire.ask("SADD", "ints", 7)
        wire.ask("HSET", "hash", "f", "of the target")
        wire.ask("RPUSH", "long", "one")
        wire.ask("SADD", "type", "of the target")
    before = names(target)
    options: dict[str, Any] = {"two_way": True, "snapshot_existing": existing, "snapshot_big_key_bytes": 50_000}
    with Link(source, target, tmp_path, **options) as link:
        link.streaming()
        status = link.status.snapshot
        there = target.client()
        got = there.get("string"), there.get("timed"), there.scard("ints"), there.hget("hash", "f"), there.llen("long")
        assert names(target) == before | names(source)
        assert (status.stale_deleted, status.stale_kept) == (0, 0)
        assert there.type("type") == (b"string" if existing == "source" else b"set")
        if existing == "source":
            assert got == (b"of the source", b"of the source", 3, b"of the source", 20_000)
            assert there.ttl("timed") > 900
            assert status.keys_kept == 0
        else:
            assert got == (b"of the target", b"of the target", 1, b"of the target", 1)
            assert there.ttl("timed") == -1
            assert status.keys_kept == 4  # string, timed, ints, type; not told of those made under another name
        assert link.status.dead_letters == 0
        assert not there.exists("redis-canal:tmp:test/0")


def test_two_ways_the_deadlines_of_the_snapshot_are_known(redis_server: StartServer, tmp_path: Path) -> None:
    """Whether a delete is an expiry is told by them; keys of every way to the target count."""
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("SET", f"timed:{n}", n, "EX", 1000) for n in range(40)])
        wire.call([("SET", f"plain:{n}", n) for n in range(40)])
        wire.ask("RPUSH", "long", *(f"element {n}" for n in range(20_000)))
        wire.ask("EXPIRE", "long", 1000)
    options: dict[str, Any] = {"two_way": True, "snapshot_existing": "source", "snapshot_big_key_bytes": 50_000}
    with Link(source, target, tmp_path, **options) as link:
        link.streaming()
        assert link.product is not None
        replay = link.product._replay
        assert replay is not None
        assert replay._deadlines is not None
        assert len(replay._deadlines.keys.deadlines) == 41
    assert_equal(source, target)


@pytest.mark.parametrize(("stale_keys", "writer"), [("delete", "gated"), ("delete", "guarded"), ("keep", "gated")])
def test_libraries_that_the_source_no_longer_has_go_with_the_keys(
    redis_server: StartServer, tmp_path: Path, stale_keys: Literal["delete", "keep"], writer: str
) -> None:
    source, target = redis_server(**{"repl-backlog-size": "16kb"}), redis_server()

    def load(name: str) -> None:
        code = f"#!lua name={name}\nredis.register_function('f_{name}', function() return '{name}' end)"
        source.control.function_load(code)

    def libraries(server: Server) -> set[bytes]:
        return {dict(zip(one[::2], one[1::2], strict=True))[b"library_name"] for one in server.control.function_list()}

    for name in ("stays", "goes", "comes"):
        load(name)
    source.control.set("k", 1)
    with Link(source, target, tmp_path, snapshot_stale_keys=stale_keys, writer=writer) as link:
        link.streaming()
        link.in_step(source)
    assert libraries(target) == {b"stays", b"goes", b"comes"}
    source.control.function_delete("goes")
    for number in range(10):
        source.control.set("filler", f"{number}" * 20_000)
    with Link(source, target, tmp_path, snapshot_stale_keys=stale_keys, writer=writer) as link:
        link.streaming()
        link.in_step(source)
        assert link.status.full_resyncs == 1
    assert libraries(target) == libraries(source) | ({b"goes"} if stale_keys == "keep" else set())
    assert target.control.fcall("f_stays", 0) == b"stays"
