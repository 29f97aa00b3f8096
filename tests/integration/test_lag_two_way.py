"""Two ways, one of them late: keys that only one side writes are in dispute with nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import link_between
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def _round(server: Server, name: str, number: int) -> None:
    """Writes that a late link has to look at: keys with deadlines, keys that are emptied, keys built on others."""
    pipe = server.client().pipeline(transaction=False)
    for i in range(20):
        pipe.hset(f"{name}:session:{i}", f"f{number}", "v")
        pipe.pexpire(f"{name}:session:{i}", 60_000)
        pipe.incr(f"{name}:count:{i}")
        pipe.rpush(f"{name}:list:{i}", number)
        pipe.set(f"{name}:value:{i}", number, px=14_000)
        pipe.set(f"{name}:short:{i}", number, px=400)
        if number % 5 == i % 5:
            pipe.lpop(f"{name}:list:{i}")
            pipe.rpush(f"{name}:queue:{i}", number)
            pipe.expire(f"{name}:queue:{i}", 30)
        if number % 5 == (i + 2) % 5:
            pipe.lpop(f"{name}:queue:{i}")
    pipe.execute()


def test_writes_of_one_side_alone_are_no_conflicts_however_late(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    to_b = proxy(b)
    with (
        link_between(a, to_b, tmp_path, "a-b", two_way=True) as there,
        link_between(b, a, tmp_path, "b-a", two_way=True) as back,
    ):
        there.streaming()
        back.streaming()
        for number in range(60):
            _round(a, "a", number)
            _round(b, "b", number)
            if number in (10, 35):
                to_b.refuse()
                to_b.cut()
            if number in (20, 45):
                to_b.accept()
            time.sleep(0.05)
        for link, source in ((there, a), (back, b)):
            link.in_step(source)
        assert there.status.ttl_holds > 0, "the link was to be late"
        wait_equal(a, b, 20)
        assert (there.status.conflicts, back.status.conflicts) == (0, 0)
        assert a.client().get("a:count:1") == b.client().get("b:count:1") == b"60"
