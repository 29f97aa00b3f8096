"""Three live datacenters in a mesh, around a hub and in a ring: every write once everywhere, and all end equal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.contend import ROUNDS, SECONDS, write
from tests.support.links import Link, link_between, quiet
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

TOPOLOGIES = {
    "mesh": {"a-b": "c", "b-a": "c", "a-c": "b", "c-a": "b", "b-c": "a", "c-b": "a"},
    "hub": {"a-h": "b", "h-a": "", "b-h": "a", "h-b": ""},
    "ring": {"a-b": "", "b-c": "", "c-a": ""},
}


class World:
    """The servers and links of one topology; `delay_s` each way between datacenters."""

    def __init__(
        self, stack: ExitStack, start: StartServer, proxy: Callable[..., Proxy], directory: Path, topology: str
    ) -> None:
        tasks = TOPOLOGIES[topology]
        names = sorted({name for task in tasks for name in task.split("-")})
        self.servers = {name: start("7.0") for name in names}
        self.doors = {task: proxy(self.servers[task[2]]) for task in tasks}
        self.links: dict[str, Link] = {}
        for task, direct in tasks.items():
            options = {"two_way": True, "direct": tuple(direct), "datacenters": tuple(names)}
            one = link_between(self.servers[task[0]], self.doors[task], directory, task, **options)  # type: ignore[arg-type]
            self.links[task] = stack.enter_context(one)
        for one in self.links.values():
            one.streaming()

    @property
    def all(self) -> list[Server]:
        return list(self.servers.values())

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """A wait that ends with the error of whichever link ends."""
        for one in self.links.values():
            one.until(condition, 20, what)

    def equal(self, within_s: float) -> None:
        first, *others = self.all
        for other in others:
            wait_equal(first, other, within_s)
        for other in others:
            wait_equal(first, other, 1)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_write_arrives_once_and_nothing_circulates(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, topology: str
) -> None:
    with ExitStack() as stack:
        world = World(stack, redis_server, proxy, tmp_path, topology)
        for name, server in world.servers.items():
            server.client().set(f"first:{name}", 1)  # until others have seen a snapshot, all counts as concurrent
        wait_until(lambda: quiet(*world.all), 20, "all streams fall silent")
        before = sum(one.status.conflicts for one in world.links.values())
        for name, server in world.servers.items():
            for _ in range(50):
                server.client().incr(f"counter:{name}")
                server.client().rpush(f"list:{name}", "x")
        for name in world.servers:
            for server in world.all:
                world.until(lambda s=server, n=name: s.control.get(f"counter:{n}") == b"50", "50 everywhere")
        wait_until(lambda: quiet(*world.all), 20, "all streams fall silent")
        assert {server.control.llen(f"list:{name}") for server in world.all for name in world.servers} == {50}
        world.equal(5)
        assert sum(one.status.conflicts for one in world.links.values()) == before
        assert sum(one.status.causal_breaks for one in world.links.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_writers_over_the_same_keys_everywhere_end_equal(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, topology: str, seed: int
) -> None:
    with ExitStack() as stack:
        world = World(stack, redis_server, proxy, tmp_path, topology)
        for number, door in enumerate(world.doors.values()):
            door.delay(0.01 * (number + 1))
        with ThreadPoolExecutor(3) as pool:
            writing = [
                pool.submit(write, server, name, seed * 7 + number, SECONDS, 200)
                for number, (name, server) in enumerate(world.servers.items())
            ]
            for one in writing:
                one.result()
        world.equal(10)
        assert sum(one.status.conflicts for one in world.links.values()) > 0
