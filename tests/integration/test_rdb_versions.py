"""A snapshot of every version, brought to every other: by RESTORE where the target loads it, else by commands."""

from __future__ import annotations

import pytest

from canal.rdb.commands import Bounds
from canal.rdb.events import Key
from canal.rdb.target import Loadable, NotLoadable
from tests.conftest import StartServer
from tests.support.compare import assert_equal
from tests.support.dataset import fill
from tests.support.rdb_apply import apply, read, snapshot, target_of
from tests.support.servers import Server

pytestmark = pytest.mark.servers

VERSIONS = ("5.0", "6.0", "6.2", "7.0", "8.2", "valkey-8.1", "valkey-9.1")


def _filled(redis_server: StartServer, version: str) -> Server:
    source = redis_server(version)
    fill(source)
    return source


@pytest.mark.parametrize("to", VERSIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_snapshot_reaches_every_version(redis_server: StartServer, version: str, to: str) -> None:
    source, target = _filled(redis_server, version), redis_server(to)
    drop_what_it_cannot_hold(source, target)
    events = list(read(snapshot(source)))

    ways = apply(events, target)

    assert_equal(source, target)
    if version == to:
        assert set(ways) == {"restore"}


def drop_what_it_cannot_hold(source: Server, target: Server) -> None:
    """Field deadlines and functions, from a source whose target does not know them."""
    if not target.at_least((7, 0)) and source.at_least((7, 0)):
        source.client().function_flush()
    if not target.at_least((7, 4), (9, 0)):
        for db in (0, 1, 5, 15):
            client = source.client(db=db)
            client.delete(b"hash:deadlines", b"hash:deadlines-large")


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_can_be_made_by_commands(redis_server: StartServer, version: str) -> None:
    source, target = _filled(redis_server, version), redis_server(version)

    ways = apply(read(snapshot(source)), target, only="commands", bounds=Bounds(max_items=100))

    assert set(ways) == {"commands"}
    assert_equal(source, target)


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_can_be_made_in_parts(redis_server: StartServer, version: str) -> None:
    source, target = _filled(redis_server, version), redis_server(version)
    for db in (0, 1, 5, 15):
        # Deleted while pending: only a whole value can bring that.
        source.client(db=db).xack(b"stream:work", "workers", "4-0")

    ways = apply(read(snapshot(source), stream_above=50), target, bounds=Bounds(max_items=100))

    assert ways["parts"] > 50
    assert_equal(source, target)


@pytest.mark.parametrize("to", ["7.0", "valkey-8.1"])
def test_field_deadlines_are_refused_where_they_would_be_lost(redis_server: StartServer, to: str) -> None:
    source, target = redis_server("8.2"), target_of(redis_server(to))
    client = source.client()
    client.hset(b"h", b"f", b"v")
    client.execute_command("HPEXPIREAT", b"h", 4_000_000_000_000, "FIELDS", 1, b"f")
    (key,) = [event for event in read(snapshot(source)) if isinstance(event, Key)]

    from canal.rdb.commands import key_commands

    assert Loadable(target, "redis", 12).plan(key.type).action == "commands"
    with pytest.raises(NotLoadable, match=r"key b'h': hash fields with deadlines need Redis 7\.4 or Valkey 9\.0"):
        next(key_commands(key, target))
