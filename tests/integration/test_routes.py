"""Links that would apply writes twice are named before data moves, though no coordinator sees them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.errors import Refused
from sync.routes import ROUTES
from tests.conftest import StartServer
from tests.support.links import Link

pytestmark = pytest.mark.servers


def test_a_missing_direct_is_named_before_data_moves(redis_server: StartServer, tmp_path: Path) -> None:
    """a → b ⇄ c: c's link would bring a's writes back to b."""
    a, b, c = redis_server(), redis_server(), redis_server()

    def link(route: str, *direct: str) -> Link:
        servers = {"a": a, "b": b, "c": c}
        source, target = route
        two_way = route != "ab"
        more = {"two_way": True} if two_way else {"snapshot_stale_keys": "keep"}
        directory = tmp_path / "-".join((route, *direct))
        return Link(
            servers[source], servers[target], directory, task=route, source_dc=source, target_dc=target,
            direct=direct, **more,
        )  # fmt: skip

    with link("ab") as into, link("bc") as there:
        into.streaming()
        there.streaming()
        a.control.set("counter", 1)
        into.in_step(a)
        there.in_step(b)
        wrong = link("cb").start()
        error = wrong.failed()
        assert isinstance(error, Refused)
        assert "writes made in a would reach" in str(error) and "by ab and by cb" in str(error)
        assert "Name a in `direct` of cb" in str(error)
        assert b.control.exists("redis-canal:checkpoint:cb/0") == 0  # nothing was written
        with link("cb", "a") as back:
            back.streaming()
            a.control.incr("counter")
            c.control.set("from c", 1)
            into.in_step(a)
            back.in_step(c)
            there.in_step(b)
            assert b.control.get("counter") == c.control.get("counter") == b"2"
            assert b.control.get("from c") == b"1" and a.control.get("from c") is None


def test_a_link_that_is_gone_does_not_hinder_another(redis_server: StartServer, tmp_path: Path) -> None:
    a, b, c = redis_server(), redis_server(), redis_server()
    names = {"snapshot_stale_keys": "keep"}
    with Link(a, b, tmp_path / "1", task="ab", source_dc="a", target_dc="b", **names) as link:
        link.streaming()
        a.control.set("k", 1)
        link.in_step(a)
    assert b.control.hkeys(ROUTES) == [b"ab/0"]
    with Link(a, c, tmp_path / "2", task="ac", source_dc="a", target_dc="c") as first:
        first.streaming()
        with Link(c, b, tmp_path / "3", task="cb", source_dc="c", target_dc="b", **names) as second:
            second.streaming()  # were ab alive, a's writes would reach b twice
            second.in_step(c)
    assert b.control.get("k") == b"1"
