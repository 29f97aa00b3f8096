"""Two ways: a write that had no effect at the target, or another one, is in no stream there; replies tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.ttl import TtlGuard
from tests.conftest import StartServer
from tests.support.command_cases import play
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link, link_between
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Command, Wire

pytestmark = pytest.mark.servers

UNSEEN: dict[str, tuple[list[Command], list[Command], list[Command]]] = {
    "a popped list is moved elsewhere": ([("RPUSH", "k", "x")], [("LPOP", "k")], [("RPOPLPUSH", "k", "other")]),
    "a deleted key is copied": ([("SET", "k", "x")], [("DEL", "k")], [("COPY", "k", "other"), ("DEL", "k")]),
    "a removed member is moved": ([("SADD", "k", "m")], [("SREM", "k", "m")], [("SMOVE", "k", "other", "m")]),
    "two types of one new key": ([], [("RPUSH", "k", "x")], [("SADD", "k", "m")]),
    "two names for one key": ([("SET", "k", "x")], [("RENAME", "k", "one")], [("RENAME", "k", "other")]),
    "a member is new on both sides": ([("SET", "x", 1)], [("ZADD", "k", "NX", 5, "m")], [("ZADD", "k", "NX", 7, "m")]),
    "a store of what is gone": (
        [("SADD", "k", "m")],
        [("SREM", "k", "m")],
        [("SUNIONSTORE", "other", "k"), ("DEL", "k")],
    ),
}
"""Before, then at a and at b at once: what either does has no effect at the other, so no stream shows both."""


def pair(a: Server, b: Server, directory: Path, **changes: object) -> list[Link]:
    return [
        link_between(a, b, directory, "a-b", two_way=True, **changes),
        link_between(b, a, directory, "b-a", two_way=True, **changes),
    ]


def settled(links: list[Link]) -> bool:
    found = [link.product.conflicts for link in links if link.product is not None]
    return all(one is not None and one.oldest_seen >= one.local_window.floor for one in found)


def send(server: Server, commands: list[Command]) -> None:
    with Wire(server) as wire:
        wire.call(commands)


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("home", ["a", "b"])
def test_writes_that_have_no_effect_elsewhere_leave_both_sides_equal(
    redis_server: StartServer, tmp_path: Path, writer: str, home: str
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    links = pair(a, b, tmp_path, writer=writer, home=(home,))
    with links[0], links[1]:
        for link in links:
            link.streaming()
        for server in (a, b):
            send(server, [("SET", "first", 1)])
        links[0].until(lambda: settled(links), 20, "both have seen the snapshots")
        for before, at_a, at_b in UNSEEN.values():
            send(a, before)
            wait_equal(a, b)
            for link in links:
                link.call("pause")
            wait_until(lambda: all(link.status.paused for link in links), 10, "paused")
            send(a, at_a)
            send(b, at_b)
            for link in links:
                link.call("resume")
            wait_until(lambda: all(not link.status.paused for link in links), 10, "resumed")
            for link, server in zip(links, (a, b), strict=True):
                link.in_step(server)
            wait_equal(a, b, 10)
            send(a, [("DEL", "k", "other", "one")])
        wait_equal(a, b, 10)
        assert sum(link.status.conflicts_marked for link in links) >= len(UNSEEN) - 1


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("version", ["7.0", "6.2", "valkey-9.1"])
def test_where_both_sides_are_the_same_no_reply_is_unexpected(
    redis_server: StartServer, tmp_path: Path, version: str, writer: str
) -> None:
    """Every command of the table, with its rarer options: none is taken for one without effect."""
    source, target, spare = redis_server(version), redis_server(version), redis_server(version)
    with link_between(source, target, tmp_path, "a-b", two_way=True, writer=writer, flush="replay") as link:
        link.streaming()
        assert play(source, spare) > 280
        link.in_step(source, 60)
        wait_equal(source, target, ttl_tolerance_ms=1 if source.at_least((7, 0)) else 4000)
        assert link.product is not None and link.product.conflicts is not None
        assert (link.status.conflicts, link.status.conflicts_marked) == (0, 0), link.product.conflicts.pending


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("killed", [False, True])
def test_writes_whose_replies_were_lost_are_looked_at_again(
    redis_server: StartServer,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    killed: bool,
) -> None:
    """Both replies are lost, with the connections or with the processes, and neither write stands in both streams."""
    monkeypatch.setattr(TtlGuard, "late", lambda guard, received_ms: False)  # it would ask by the stalled door
    a, b = redis_server("7.0"), redis_server("7.0")
    doors = [proxy(b), proxy(a)]
    links = [
        link_between(a, doors[0], tmp_path, "a-b", two_way=True, writer=writer),
        link_between(b, doors[1], tmp_path, "b-a", two_way=True, writer=writer),
    ]
    for link in links:
        link.start().streaming()
    try:
        for server in (a, b):
            send(server, [("SET", "first", 1)])
        links[0].until(lambda: settled(links), 20, "both have seen the snapshots")
        kept = [tmp_path / "state" / link.config.task / "judged.json" for link in links]
        wait_until(lambda: all(path.exists() for path in kept), 10, "how far replies were looked at is kept")
        wait_until(lambda: _silent(a, b), 30, "no transaction is on its way, and none will come")
        for door in doors:
            door.stall("to_client")
        for link in links:
            link.call("pause")
        wait_until(lambda: all(link.status.paused for link in links), 10, "paused")
        sent = [link.status.applied_offset for link in links]
        send(a, [("RPUSH", "k", "x")])
        send(b, [("SADD", "k", "m")])
        for link in links:
            link.call("resume")
        wait_until(lambda: _tried(a, b"rpush") and _tried(b, b"sadd"), 20, "both have tried the other's write")
        assert (a.control.type("k"), b.control.type("k")) == (b"list", b"set")
        assert [link.status.applied_offset for link in links] == sent, "no reply has come"
        if killed:
            for link in links:
                link.call("stop", 0.0)
                link.join()
        for door in doors:
            door.flow()
            door.cut()
        if killed:
            links[:] = [link.again().start() for link in links]
        wait_equal(a, b, 20)
    finally:
        for link in links:
            link.stop()


def _silent(*servers: Server) -> bool:
    """Nothing but PINGs, not even a bare tag, for longer than one is ever put off."""
    before = [server.offset for server in servers]
    time.sleep(1.5)  # silence cannot be waited for in another way
    return all(server.offset - old < 60 for server, old in zip(servers, before, strict=True))


def _tried(server: Server, own: bytes) -> bool:
    """Has this server refused the other's command? (One write of its own type, one of the other.)"""
    other = b"sadd" if own == b"rpush" else b"rpush"
    stats = server.control.info("commandstats").get(f"cmdstat_{other.decode()}", {})
    return int(stats.get("failed_calls", 0)) >= 1
