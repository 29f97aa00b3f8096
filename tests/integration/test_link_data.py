"""Everything a server can hold arrives: in the snapshot, and again when it is written through the stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal, wait_equal
from tests.support.dataset import big_values, fill, mutate
from tests.support.links import MODES, Link
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_all_data_arrives_in_the_snapshot_and_through_the_stream(
    redis_server: StartServer, server_version: str, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(server_version), redis_server(server_version)
    fill(source)
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming()
        assert_equal(source, target)
        fill(source, prefix=b"live:")
        mutate(source, prefix=b"live:")
        link.in_step(source)
        # up to 6.2 the stream has relative deadlines, which count from when they were received
        assert_equal(source, target, ttl_tolerance_ms=3000 if server_version == "6.2" else 1)
        assert link.status.writer == writer
        assert link.status.dead_letters == 0
    assert source.sync_full == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("writer", "version"), [("gated", "7.0"), ("guarded", "valkey-9.1")])
def test_big_values_arrive_both_ways(redis_server: StartServer, tmp_path: Path, writer: str, version: str) -> None:
    """A string of 20 MB and a set of a million members."""
    source, target = redis_server(version), redis_server(version)
    with Wire(source) as wire:
        wire.call(big_values(b""))
    with Link(source, target, tmp_path, writer=writer) as link:
        link.streaming(60)
        with Wire(source) as wire:
            wire.call(big_values(b"live:"))
        link.in_step(source, 60)
        for key in ("big:string", "big:set", "live:big:string", "live:big:set"):
            one, other = (server.control.execute_command("DEBUG", "DIGEST-VALUE", key) for server in (source, target))
            assert one == other, key
        assert target.control.scard("live:big:set") == 1_000_000
        assert target.control.strlen("live:big:string") == 20 << 20
    assert source.sync_full == 1


@pytest.mark.slow
@pytest.mark.parametrize("writer", MODES)
def test_a_new_snapshot_in_the_middle_of_the_old_one_and_of_the_stream(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    far = proxy(target)
    with Wire(source) as wire:
        wire.call([("RPUSH", f"list:{n}", *range(n, n + 100)) for n in range(5000)])
    far.limit(1_000_000)

    def begin_anew() -> None:
        """Another history, so that the link is sent a snapshot of it."""
        full = source.sync_full
        with Wire(source) as wire:
            wire.call([("DEL", *(f"list:{n}" for n in range(0, 5000, 7))), ("INCR", "counter")])
            wire.call([("DEBUG", "CHANGE-REPL-ID"), ("CLIENT", "KILL", "TYPE", "replica"), ("INCR", "counter")])
        wait_until(lambda: source.sync_full > full, 20, "the source was asked for a snapshot")

    with Link(source, far, tmp_path, writer=writer) as link:
        for _ in range(2):
            size = target.control.dbsize()
            link.until(lambda size=size: target.control.dbsize() > size + 300, 30, "a part of the snapshot is applied")
            begin_anew()
        far.flow()
        link.until(lambda: link.status.state == "streaming", 30)
        wait_equal(source, target, 20)
        far.stall("to_client")  # the answers to what is under way come only after the new snapshot
        with Wire(source) as wire:
            wire.call([("INCR", "counter")] * 100)
        begin_anew()
        far.flow()
        wait_equal(source, target, 20)
        source.client().incr("counter")
        wait_equal(source, target, 20)
    assert link.status.full_resyncs == source.sync_full == 4
