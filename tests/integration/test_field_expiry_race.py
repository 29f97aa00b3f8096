"""Two ways: a hash field that has expired on one side must not take away what the other side has just refreshed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.link import Link
from tests.conftest import StartServer
from tests.integration.test_expiry_race import Pair, in_time
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

__all__ = ["in_time"]

BIG = [(b"big", b"f%d" % i) for i in range(100)]
ALONE = [(b"alone:%d" % i, b"f") for i in range(100)]  # its only field
PLACES = BIG + ALONE


def _active_expiry(server: Server, on: bool) -> None:
    server.client().execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1" if on else "0")


def _set_all(server: Server, value: bytes, ttl_ms: int) -> None:
    pipe = server.client().pipeline(transaction=False)
    for key, field in PLACES:
        pipe.execute_command("HSETEX", key, "PX", ttl_ms, "FIELDS", 1, field, value)
    pipe.execute()


def _read_all(server: Server) -> list[bytes | None]:
    pipe = server.client().pipeline(transaction=False)
    for key, field in PLACES:
        pipe.hget(key, field)
    return pipe.execute()  # type: ignore[no-any-return]


def _reaped(server: Server) -> bool:
    """Are the fields gone themselves, and not only unseen?"""
    client = server.client()
    return client.hlen("big") <= 2 and not client.exists(*[key for key, _ in ALONE])


def _expire_at(reader: Server, how: str) -> None:
    if how == "cycle":
        _active_expiry(reader, True)
    assert not any(_read_all(reader)), "the reader was to meet its expired copies"


async def _both_have(servers: list[Server], value: bytes) -> None:
    for server in servers:
        await eventually(lambda: _read_all(server).count(value) == len(PLACES), 20, f"{value!r} at {server}")  # noqa: B023


async def _race(a: Server, b: Server, doors: list[Proxy], reader: Server, refresher: Server, how: str) -> None:
    """Fields expire at the reader and are refreshed at the other side before either knows of the other's."""
    for door in doors:
        door.stall("to_server")
    reader.client().hdel("big", "kept", "f0")  # a user's, with one in it that has expired
    _expire_at(reader, how)
    await eventually(lambda: _reaped(reader), 20, "the fields to be taken away at the reader")
    _set_all(refresher, b"fresh", 600_000)
    reader.client().hdel("big", "later")
    for door in doors:
        door.flow()
    await _both_have([a, b], b"fresh")
    await asyncio.to_thread(wait_equal, a, b, 20)
    await _both_have([a, b], b"fresh")
    for server in (a, b):
        assert server.client().hmget("big", "kept", "later") == [None, None]


def _old(server: Server, ttl_ms: int) -> float:
    """When they have all passed, by the monotonic clock."""
    _set_all(server, b"old", ttl_ms)
    passed = time.monotonic() + ttl_ms / 1000 + 0.05
    client = server.client()
    client.hset("big", "kept", "v")
    client.execute_command("HSETEX", "big", "PX", 600_000, "FIELDS", 1, "later", "v")
    return passed


@pytest.mark.parametrize(
    ("version", "how", "writer", "reader_side"),
    [
        ("8.2", "reads", "gated", "a"),
        ("8.2", "cycle", "guarded", "b"),
        ("valkey-9.1", "cycle", "gated", "b"),
        ("valkey-9.1", "cycle", "guarded", "a"),
        ("8.2 valkey-9.1", "cycle", "guarded", "b"),
    ],
)
async def test_no_fresh_field_is_lost(
    redis_server: StartServer,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    in_time: None,
    version: str,
    how: str,
    writer: str,
    reader_side: str,
) -> None:
    a, b = redis_server(version.split()[0]), redis_server(version.split()[-1])
    for server in (a, b):
        _active_expiry(server, False)
    doors = [proxy(a), proxy(b)]
    reader, refresher = (a, b) if reader_side == "a" else (b, a)
    async with Pair(a, b, doors[0], doors[1], tmp_path, writer) as pair:
        passed = _old(refresher, 2000)
        await _both_have([reader], b"old")
        await eventually(lambda: reader.client().hlen("big") == len(BIG) + 2, 10, "all at the reader")
        await asyncio.sleep(max(0.0, passed - time.monotonic()))  # the deadline itself is what is waited for
        await _race(a, b, doors, reader, refresher, how)
        figures = _link(pair, reader is a).status
        await eventually(lambda: figures.expiry_refused > 0, 10, "told")
        await eventually(lambda: figures.expiry_deletes >= len(PLACES), 10, "all deletes are counted")
        assert figures.expiry_untracked == 0


@pytest.mark.parametrize("version", ["8.2", "valkey-9.1"])
async def test_deadlines_of_fields_are_known_after_a_snapshot_and_after_a_restart(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, in_time: None, version: str
) -> None:
    a, b = redis_server(version), redis_server(version)
    for server in (a, b):
        _active_expiry(server, False)
    doors = [proxy(a), proxy(b)]
    passed = _old(b, 16_000)  # a hash of 102 fields, which is a table, and small ones
    pipe = b.client().pipeline(transaction=False)
    for i in range(600):
        pipe.execute_command("HSETEX", "wide", "PX", 600_000, "FIELDS", 1, f"f{i}", "v" * 100)
    pipe.hset("plain", mapping={"f": "v"})
    pipe.execute()
    for restarted in (False, True):
        async with Pair(a, b, doors[0], doors[1], tmp_path, "auto") as pair:
            await _both_have([a, b], b"old")
            for link in pair.links:
                await eventually(lambda: _tracked(link) == len(PLACES) + 601, 10, "all known")  # noqa: B023
            if restarted:
                await asyncio.sleep(max(0.0, passed - time.monotonic()))
                await _race(a, b, doors, a, b, "cycle")


def _tracked(link: Link) -> int:
    replay = link._replay
    assert replay is not None
    assert replay._deadlines is not None
    return len(replay._deadlines.fields.deadlines)


def _link(pair: Pair, first: bool) -> Link:
    return pair.links[0 if first else 1]
