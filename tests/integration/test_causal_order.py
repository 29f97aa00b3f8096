"""In a mesh a change waits for what it changes: until that is applied at the target, or for as long as was said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.order import Order, applied
from sync.tag import INDEX
from sync.target.connection import connect
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import Link, link_between
from tests.support.process import eventually, wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers
A, B = "a" * 16, "b" * 16


def checkpoint(server: Server, task: str, **fields: str | int) -> None:
    key = f"redis-canal:checkpoint:{task}/0"
    server.control.hset(key, mapping=fields)  # type: ignore[arg-type]
    server.control.sadd(INDEX, key)


async def test_it_waits_until_the_target_says_that_it_has_it(redis_server: StartServer) -> None:
    target, woken, waits = redis_server("7.0"), asyncio.Event(), list[int]()
    order = Order(parse_url(target.url), ("a",), 3600.0, woken.set, lambda: waits.append(1))
    assert not order.holds("")
    assert not order.holds(f"c={A}:5000"), "c has no task of its own to the target: it comes in order"
    assert order.holds(f"a={A}:100")
    checkpoint(target, "a-c", origin="a", pos=f"{'a' * 40}:99", phase="stream")
    await eventually(lambda: order._applied.get("a") == 99, 10, "what the target has")
    assert order.holds(f"a={A}:100")
    woken.clear()
    checkpoint(target, "a-c", pos=f"{'a' * 40}:100")
    await woken.wait()
    await eventually(lambda: not order.holds(f"a={A}:100"), 10, "let go")
    assert order.holds(f"a={A}:101")
    assert (len(waits), order.broken) == (2, {})
    await order.close()


async def test_after_the_time_it_goes_and_waits_no_more_until_the_target_has_caught_up(
    redis_server: StartServer,
) -> None:
    target, waits = redis_server("7.0"), list[int]()
    order = Order(parse_url(target.url), ("a", "b"), 0.3, lambda: None, lambda: waits.append(1))
    late = f"a={A}:100,b={B}:10"
    checkpoint(target, "b-c", origin="b", pos=f"{'b' * 40}:50", phase="stream")
    assert order.holds(late)
    await eventually(lambda: not order.holds(late), 10, "it goes")
    assert order.broken == {"a": 100}
    assert order.ahead_of(late) == {"a": 100}, "b's writes are there"
    assert not order.holds(f"a={A}:120,b={B}:10"), "not waited for again"
    assert order.broken == {"a": 120}
    checkpoint(target, "a-c", origin="a", pos=f"{'a' * 40}:120", phase="stream")
    await eventually(lambda: order.ahead_of(late) == {}, 10, "it has caught up")
    assert order.holds(f"a={A}:130")
    assert len(waits) == 2
    await order.close()


async def test_only_checkpoints_that_stream_count_and_none_that_cannot_be_read(redis_server: StartServer) -> None:
    target = redis_server("7.0")
    checkpoint(target, "a-c", origin="a", pos=f"{'a' * 40}:100", phase="snapshot")
    checkpoint(target, "b-c", origin="x", via="b", pos=f"{'b' * 40}:70", phase="stream")
    checkpoint(target, "b-c2", origin="b", pos=f"{'b' * 40}:60", phase="stream")
    checkpoint(target, "d-c", origin="d", pos="nonsense", phase="stream")
    target.control.set("redis-canal:checkpoint:odd/0", "not a hash")
    target.control.sadd(INDEX, "redis-canal:checkpoint:odd/0", "redis-canal:checkpoint:gone/0", "redis-canal:reunion:x")
    conn = await connect(parse_url(target.url))
    assert await applied(conn) == {"b": 70}
    conn.close()


def test_a_change_that_went_before_what_it_changes_is_echoed_once_that_is_there(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    """The way from a to c stands still for longer than b's change of a's write waits."""
    servers = {name: redis_server("7.0") for name in "abc"}
    door = proxy(servers["c"])
    links: dict[str, Link] = {}
    for names, direct in (("a-b", "c"), ("b-a", "c"), ("a-c", "b"), ("c-a", "b"), ("b-c", "a"), ("c-b", "a")):
        target = door if names == "a-c" else servers[names[2]]
        options = {"two_way": True, "direct": (direct,), "datacenters": ("a", "b", "c"), "causal_wait_s": 0.5}
        links[names] = link_between(servers[names[0]], target, tmp_path, names, **options).start()
    for link in links.values():
        link.streaming()
    a, b, c = (server.control for server in servers.values())
    a.set("first", 1)
    for link in links.values():
        link.until(lambda: b.get("first") == c.get("first") == b"1", 20, "everywhere")
    before = links["b-c"].status.causal_waits
    door.stall("to_server")
    a.set("counter", 41)
    links["a-b"].until(lambda: b.get("counter") == b"41", 20, "at b")
    b.incr("counter")
    links["b-c"].until(lambda: c.get("counter") == b"1", 20, "after half a second it goes before what it changes")
    assert links["b-c"].status.causal_waits > before
    links["b-c"].until(lambda: links["b-c"].status.causal_breaks > 0, 10, "it is told")
    door.flow()
    wait_until(lambda: c.get("counter") == b"42", 20, "the whole, echoed by who went ahead")
    for name in ("b", "c"):
        wait_equal(servers["a"], servers[name], 20)
    for link in links.values():
        link.stop()
