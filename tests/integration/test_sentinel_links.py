"""Sentinels: which server is the master, and links that follow it through failovers of either side, under load.

REDIS_CANAL_SOAK=1: five failovers of each side instead of one, and all versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from canal import sentinel as product
from canal.control import control
from canal.endpoint import Endpoint, parse_url
from canal.errors import AuthError, PeerError, Unready
from canal.located import located
from tests.conftest import StartServer
from tests.support.certificates import Certificates
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link, LinkProcess
from tests.support.process import wait_until
from tests.support.sentinel import SentinelGroup
from tests.support.workload import COUNTING, Workload

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SOAK = os.environ.get("REDIS_CANAL_SOAK") == "1"
FAILOVERS = 5 if SOAK else 1
VERSIONS = ("7.0", "6.2", "8.2", "valkey-9.1") if SOAK else ("7.0",)
WRITERS = MODES if SOAK else ("gated",)


@pytest.fixture
def sentinels() -> Iterator[type[SentinelGroup]]:
    """`SentinelGroup`, all of whose groups end with the test; nothing is remembered of those of others."""
    with contextlib.ExitStack() as stack:

        class Started(SentinelGroup):
            @classmethod
            def start(cls, *args: object, **settings: object) -> SentinelGroup:  # type: ignore[override]
                return stack.enter_context(SentinelGroup.start(*args, **settings))  # type: ignore[arg-type]

        product._known.clear()
        yield Started


def find(endpoint: Endpoint) -> Endpoint:
    return asyncio.run(located(endpoint))


async def port(endpoint: Endpoint) -> int:
    async with control(endpoint) as client:
        return int((await client.info("server"))["tcp_port"])


def test_enough_sentinels_have_to_agree(sentinels: type[SentinelGroup], redis_server: StartServer) -> None:
    group = sentinels.start(replicas=1, sentinel_password="hush", password="data")
    endpoint = parse_url(group.url)
    assert endpoint.group is not None
    with pytest.raises(AuthError, match="--source-sentinel-password-file"):
        find(endpoint)
    endpoint = replace(endpoint, group=replace(endpoint.group, password="hush"))
    assert find(endpoint).port == group.master.port
    unknown = replace(endpoint, group=replace(endpoint.group, name="nobody"))  # type: ignore[type-var]
    with pytest.raises(PeerError, match="3 know no master 'nobody'"):
        find(unknown)

    # one that was told lies is outvoted; with one other only, nobody knows
    liar, *honest = group.sentinels
    stranger = redis_server()
    liar.ask("REMOVE", "canal")
    liar.ask("MONITOR", "canal", "127.0.0.1", stranger.port, 3)
    product._known.clear()
    master = group.master.port
    assert find(endpoint).port == master
    honest[0].kill()  # of those left, each names another
    product._known.clear()
    with pytest.raises(Unready, match="2 have to agree"):
        find(endpoint)

    # clients for control commands find it too, and where an announced address is reached from here
    elsewhere = redis_server(requirepass="data")
    announced, reached = f"127.0.0.1:{master}", f"127.0.0.1:{elsewhere.port}"
    mapped = replace(endpoint, group=replace(endpoint.group, address_map=((announced, reached),)))
    honest[0].run()
    assert asyncio.run(port(mapped)) == elsewhere.port

    # a Sentinel that the URL does not name stands in for one that is away
    wait_until(lambda: len(honest[1].ask("SENTINELS", "canal")) >= 1, 30)
    pair = replace(endpoint, group=replace(endpoint.group, seeds=endpoint.group.seeds[1:]))  # type: ignore[type-var]
    product._known.clear()
    assert find(pair).port == master


def test_sentinels_that_are_away_send_nobody_elsewhere_and_replicas_are_not_taken(
    sentinels: type[SentinelGroup], redis_server: StartServer
) -> None:
    group = sentinels.start(replicas=0, down_after_ms=60_000)
    endpoint = parse_url(group.url)
    group.servers[0].control.replicaof("127.0.0.1", str(redis_server().port))
    with pytest.raises(Unready, match="a failover is under way"):
        find(endpoint)
    group.servers[0].control.replicaof("NO", "ONE")
    first = find(endpoint)
    for one in group.sentinels:
        one.kill()
        product.forget(endpoint)
        assert find(endpoint) == first
    product._known.clear()
    with pytest.raises(PeerError, match="no Sentinel can be asked"):
        find(endpoint)


def test_tls_and_a_user_at_the_sentinels(
    sentinels: type[SentinelGroup], redis_server: StartServer, certificates: Certificates, tmp_path: Path
) -> None:
    rights = "user canal on >hush &* -@all +ping +subscribe +sentinel|get-master-addr-by-name +sentinel|sentinels"
    group = sentinels.start(replicas=0, tls=certificates, more_lines=[rights])
    target = redis_server()
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    group.master.client().set("a", 1)
    user = ("--source-sentinel-username", "canal", "--source-sentinel-password-file", str(secret))
    with LinkProcess(group, target, tmp_path, "--source-ca", str(certificates.ca), *user) as link:
        wait_until(lambda: target.control.get("a") == b"1", 30, "the snapshot")
        assert "hush" not in link.log
        assert link.terminate() == 0, link.log


class Standstill:
    """How long at most a link's applied offset has not moved."""

    def __init__(self, link: Link) -> None:
        self.worst = 0.0
        self._link = link
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        moved, last = time.monotonic(), -1
        while not self._over.wait(0.01):
            at = self._link.status.commands_applied
            if at != last:
                self.worst = max(self.worst, time.monotonic() - moved) if last >= 0 else 0.0
                moved, last = time.monotonic(), at

    def __enter__(self) -> Standstill:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.timeout(900 if SOAK else 300)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_source_that_fails_over_is_followed_without_a_full_resync(
    sentinels: type[SentinelGroup], redis_server: StartServer, tmp_path: Path, version: str
) -> None:
    """Killed (its newest writes may be lost at the source, and are taken back) and in order, by turns."""
    group = sentinels.start(version, replicas=2, repl_backlog_size="64mb")
    target = redis_server(version)
    with (
        Link(group, target, tmp_path) as link,
        Workload(group.master, rate=2000, commands=COUNTING, pipeline=5) as load,
    ):
        link.streaming()
        load.wait(1000)
        with Standstill(link) as still:
            for number in range(FAILOVERS):
                load.server = group.crash() if number % 2 == 0 else group.failover()
                load.wait(1000)
                if SOAK:
                    group.revive()
        load.stop()
        link.in_step(group.master)
        wait_equal(group.master, target, 30)
        print(f"\nsource {version}: {FAILOVERS} failovers, nothing moved for at most {still.worst:.2f} s")
        assert link.status.full_resyncs == 1
        assert link.status.dead_letters == 0
    assert group.master.sync_full <= 3  # its replicas


@pytest.mark.timeout(900 if SOAK else 300)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_target_that_fails_over_is_followed_and_exact(
    sentinels: type[SentinelGroup], redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    """What the promoted replica lacks, its checkpoint lacks too: it is replayed from there."""
    source = redis_server("7.0")
    group = sentinels.start("valkey-9.1" if writer == "gated" else "7.0", replicas=2)
    with (
        Link(source, group, tmp_path, writer=writer) as link,
        Workload(source, rate=2000, commands=COUNTING, pipeline=5) as load,
    ):
        link.streaming()
        load.wait(1000)
        with Standstill(link) as still:
            for number in range(FAILOVERS):
                (group.crash if number % 2 == 0 else group.failover)()
                load.wait(1000)
                link.more("commands_applied")
                if SOAK:
                    group.revive()
        load.stop()
        link.in_step(source)
        wait_equal(source, group.master, 30)
        print(f"\ntarget, {writer}: {FAILOVERS} failovers, nothing moved for at most {still.worst:.2f} s")
        assert link.status.dead_letters == 0
    assert source.sync_full == 1


def test_an_old_master_that_is_only_cut_off_is_left(
    sentinels: type[SentinelGroup],
    redis_server: StartServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stands still with its connections open: the Sentinels' word is enough, no time-out is waited for."""
    source = redis_server()
    group = sentinels.start(replicas=1)
    old = group.master
    with Link(source, group, tmp_path) as link, Workload(source, rate=1000, commands=COUNTING) as load:
        link.streaming()
        load.wait(500)
        old.pause()
        try:
            new = wait_until(lambda: group.master if group.master is not old else None, 60, "a failover")
            load.wait(500)
            load.stop()
            link.in_step(source, timeout=30)
            wait_equal(source, new, 30)
            assert f"{group.url} to 127.0.0.1:{new.port}" in caplog.text
            assert "nothing was answered" not in caplog.text and "neither taken nor answered" not in caplog.text
        finally:
            old.resume()
