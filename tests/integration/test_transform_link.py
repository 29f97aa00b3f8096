"""Filters, maps and prefixes through a whole link: snapshot, stream and sweep touch this link's keys and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sync.filters import KeyPattern
from sync.transform import TransformOptions
from tests.conftest import StartServer
from tests.support.links import Link
from tests.support.servers import Server

pytestmark = pytest.mark.servers

FOREIGN = {b"other": b"theirs", b"a:x": b"theirs"}


def strings(server: Server, db: int = 0) -> dict[bytes, bytes]:
    client = server.client(db=db)
    names = sorted(name for name in client.scan_iter() if not name.startswith(b"redis-canal:"))
    return {name: client.get(name) for name in names if client.type(name) == b"string"}


def write(server: Server, prefix: bytes, count: int, db: int = 0) -> dict[bytes, bytes]:
    content = {b"%b%d" % (prefix, number): b"v%d" % number for number in range(count)}
    server.client(db=db).mset(content)
    return content


def named(content: dict[bytes, bytes], prefix: bytes) -> dict[bytes, bytes]:
    return {prefix + name: value for name, value in content.items()}


def test_two_sources_feed_one_target_under_a_prefix_each(redis_server: StartServer, tmp_path: Path) -> None:
    first, second, target = redis_server(), redis_server(), redis_server()
    target.client().mset(FOREIGN)
    ones, twos = write(first, b"k", 300), write(second, b"k", 200)
    options: dict[str, Any] = {"snapshot_stale_keys": "delete"}
    with (
        Link(first, target, tmp_path, task="one", transform=TransformOptions(add_prefix=b"one:"), **options) as one,
        Link(second, target, tmp_path, task="two", transform=TransformOptions(add_prefix=b"two:"), **options) as two,
    ):
        one.streaming()
        two.streaming()
        assert strings(target) == FOREIGN | named(ones, b"one:") | named(twos, b"two:")
        first.client().flushall()
        later = write(first, b"later", 3)
        second.client().rename("k0", "k00")
        twos[b"k00"] = twos.pop(b"k0")
        one.in_step(first)
        two.in_step(second)
        assert strings(target) == FOREIGN | named(later, b"one:") | named(twos, b"two:")
        assert one.status.dead_letters == two.status.dead_letters == 0


def test_a_sweep_removes_stale_keys_of_this_link_alone(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    kept = write(source, b"a:", 5)
    write(source, b"b:", 5)
    target.client().mset({b"a:stale": b"1", b"b:stale": b"2", b"other": b"3"})
    target.client(db=3).set("a:elsewhere", "4")
    options = TransformOptions(
        include_keys=(KeyPattern.parse("prefix:a:"),), include_databases=frozenset({0}), exclude_commands=frozenset()
    )
    with Link(source, target, tmp_path, transform=options, snapshot_stale_keys="delete") as link:
        link.streaming()
        assert strings(target) == kept | {b"b:stale": b"2", b"other": b"3"}
        assert strings(target, db=3) == {b"a:elsewhere": b"4"}
        source.client().mset({"a:more": "1", "b:more": "2"})
        link.in_step(source)
        assert strings(target) == kept | {b"a:more": b"1", b"b:stale": b"2", b"other": b"3"}


def test_databases_are_mapped_and_flushed_apart(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    zero, one = write(source, b"z", 4), write(source, b"o", 4, db=1)
    write(source, b"t", 4, db=2)
    theirs = write(target, b"x", 4, db=2)
    options = TransformOptions(include_databases=frozenset({0, 1}), db_map={0: 5, 1: 0})
    with Link(source, target, tmp_path, transform=options, snapshot_stale_keys="delete") as link:
        link.streaming()
        assert [strings(target, db) for db in (5, 0, 2)] == [zero, one, theirs]
        source.client(db=1).flushdb()
        source.client(db=2).flushdb()
        link.in_step(source)
        assert [strings(target, db) for db in (5, 0, 2)] == [zero, {}, theirs]
        position = link.status.applied_offset
    # The flush reached database 0, where the checkpoint stands: it is still there, and the link goes on from it.
    again = link.again()
    with again:
        again.streaming()
        source.client().set("after", "1")
        again.in_step(source)
        assert again.status.applied_offset > position
    assert strings(target, 5) == zero | {b"after": b"1"}
    assert source.sync_full == 1


def test_a_type_filter_in_snapshot_stream_and_sweep(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    here, there = source.client(), target.client()
    here.mset({"s1": "1", "s2": "2"})
    here.rpush("l1", "a")
    there.set("stale", "1")
    there.rpush("theirs", "a")
    options = TransformOptions(include_types=frozenset({"string"}))
    with Link(source, target, tmp_path, transform=options, snapshot_stale_keys="delete") as link:
        link.streaming()
        assert sorted(k for k in there.scan_iter() if not k.startswith(b"redis-canal:")) == [b"s1", b"s2", b"theirs"]
        here.rename("l1", "s1")
        here.delete("s2")
        here.sadd("s2", "m")
        here.set("s3", "3")
        link.in_step(source)
        assert sorted(k for k in there.scan_iter() if not k.startswith(b"redis-canal:")) == [b"s3", b"theirs"]


def test_what_a_filter_cannot_split_is_a_dead_letter(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    options = TransformOptions(include_keys=(KeyPattern.parse("prefix:a:"),))
    with Link(source, target, tmp_path, transform=options, on_error="continue") as link:
        link.streaming()
        here = source.client()
        here.sadd("b:1", "m")
        here.sunionstore("a:1", "b:1")
        here.set("a:2", "v")
        link.in_step(source)
        assert strings(target) == {b"a:2": b"v"}
        assert link.status.dead_letters == 1


def test_a_user_who_deletes_everything_by_name_does_not_delete_the_checkpoint(
    redis_server: StartServer, tmp_path: Path
) -> None:
    source, target = redis_server(), redis_server()
    write(source, b"k", 3)
    with Link(source, target, tmp_path) as link:
        link.streaming()
        own = sorted(name for name in target.client().scan_iter() if name.startswith(b"redis-canal:"))
        assert own
        source.client().delete("k0", *own, "k1")
        source.client().mset({own[0]: "1", "k9": "2"})
        link.in_step(source)
        assert strings(target) == {b"k2": b"v2", b"k9": b"2"}
        assert sorted(name for name in target.client().scan_iter() if name.startswith(b"redis-canal:")) == own


def test_two_ways_conditions_do_not_decide_again_at_the_other_side(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, two_way=True, source_dc="a", target_dc="b") as link:
        link.streaming()
        there = target.client()
        there.mset({"nx": "local", "ex": "local"})
        there.hset("h", "f", "local")
        here = source.client()
        here.setnx("nx", "v")
        here.set("ex", "v", nx=True, px=10_000_000)
        here.hsetnx("h", "f", "v")
        link.in_step(source)
        assert [there.get("nx"), there.get("ex"), there.hget("h", "f")] == [b"v", b"v", b"v"]
        assert there.pttl("ex") > 9_000_000


def test_a_filtered_flush_reaches_every_database_that_the_source_has(redis_server: StartServer, tmp_path: Path) -> None:
    """FLUSHALL of a link that leaves a database out becomes one FLUSHDB each, so their number has to be known."""
    source, target = redis_server(databases=24), redis_server(databases=21)
    write(source, b"k", 4, db=20)
    theirs = write(target, b"x", 4, db=2)
    options = TransformOptions(exclude_databases=frozenset({2}))
    with Link(source, target, tmp_path, transform=options, snapshot_stale_keys="delete") as link:
        link.streaming()
        assert len(strings(target, db=20)) == 4
        source.client().flushall()
        link.in_step(source)
        assert strings(target, db=20) == {}
        assert strings(target, db=2) == theirs
        assert link.status.dead_letters == 0, "databases that the target lacks hold nothing to flush"
