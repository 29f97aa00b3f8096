"""Two ways: a deadline that a late link held off at the target is known as its own, also by the link that follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.held import held_key
from sync.ttl import TtlGuard
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import MODES, Link, link_between
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers

HELD = held_key("a-b", "0")


def late(link: Link, source: Server, write: Callable[[], object]) -> None:
    """Have these writes replayed by a link that is late."""
    link.call("pause")
    wait_until(lambda: link.status.paused, 10, "paused")
    write()
    goal = source.offset
    wait_until(lambda: link.status.journaled_offset >= goal, 20, "it is received")
    received = time.time()
    wait_until(lambda: time.time() > received + 0.5, what="lateness is time that passes")
    link.call("resume")


def pttl(server: Server, key: str) -> int:
    return int(server.control.pttl(key))


@pytest.mark.parametrize("writer", MODES)
def test_what_was_held_when_a_link_died_ends_when_it_does_at_the_source(
    redis_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    back = link_between(b, a, tmp_path, "b-a", two_way=True)
    link = link_between(a, b, tmp_path, "a-b", two_way=True, writer=writer)
    with back:
        with monkeypatch.context() as patch:
            patch.setattr(TtlGuard, "holding", False)  # it dies before it puts anything right
            with link:
                link.streaming()
                back.streaming()
                a.client().set("user", "x", px=600_000)
                link.in_step(a)
                late(link, a, lambda: _write(a))
                link.in_step(a)
                wait_until(lambda: link.status.ttl_holds > 0, 20, "deadlines are held off")
                assert pttl(b, "short") > 30_000 and pttl(b, "soon") > 30_000, "held off"
                assert b.control.hkeys(HELD)
        wait_until(lambda: not a.control.exists("short"), 20, "over at the source")
        link = link.again()
        with link:
            link.streaming()
            wait_until(lambda: not b.control.exists("short"), 20, "and at the target, though it was held off")
            wait_equal(a, b)
            wait_until(lambda: not (a.control.exists("soon") or b.control.exists("soon")), 30, "both are over")
            wait_equal(a, b)
            assert b.control.get("user") == b"x"


def _write(server: Server) -> None:
    pipe = server.client().pipeline(transaction=False)
    pipe.set("short", "x", px=2500)
    pipe.set("soon", "x", px=12_000)
    pipe.execute()


def test_a_fresh_deadline_is_not_taken_for_a_held_one(redis_server: StartServer, tmp_path: Path) -> None:
    """Refreshed at the target while it was held there: it lives on, at both."""
    a, b = redis_server("7.0"), redis_server("7.0")
    with link_between(a, b, tmp_path, "a-b", two_way=True) as link, link_between(b, a, tmp_path, "b-a", two_way=True):
        link.streaming()
        a.client().set("user", "x", px=600_000)
        link.in_step(a)
        late(link, a, lambda: a.client().set("short", "x", px=2500))
        link.in_step(a)
        b.client().set("short", "fresh", px=600_000)
        wait_until(lambda: a.control.get("short") == b"fresh", 20, "it is at the other side")
        wait_equal(a, b)
        assert b.control.get("short") == b"fresh"


def test_a_key_that_ends_and_comes_again_while_the_link_is_late_ends_each_time(
    redis_server: StartServer, tmp_path: Path
) -> None:
    """Which deadline is held is written once a batch: a delete before that has to know it all the same."""
    a, b = redis_server("7.0"), redis_server("7.0")
    client = a.client()

    def write() -> None:
        for number in range(3):
            for name in ("x", "y"):
                client.set(name, number, px=50)
            wait_until(lambda: not client.exists("x", "y"), 20, "both are over")
        client.set("x", "last", px=600_000)

    with (
        link_between(a, b, tmp_path, "a-b", two_way=True) as link,
        link_between(b, a, tmp_path, "b-a", two_way=True) as back,
    ):
        link.streaming()
        back.streaming()
        client.set("user", "x", px=600_000)
        link.in_step(a)
        late(link, a, write)
        link.in_step(a)
        assert link.status.ttl_holds > 0, "the link was to be late"
        wait_until(lambda: not b.control.exists("y"), 20, "over at the target, though it was held off")
        wait_equal(a, b)
        assert b.control.get("x") == b"last" and not a.control.exists("y")
        assert link.status.expiry_refused == 0 and link.status.echoes == 0
