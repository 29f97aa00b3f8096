"""Two live datacenters over the same keys, 50 ms apart: whatever is written where, both end equal."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.contend import ROUNDS, SECONDS, write
from tests.support.links import Link, LinkProcess
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers


class Pair:
    """Datacenters a and b with a link each way, 50 ms away."""

    def __init__(self, start: StartServer, proxy: Callable[..., Proxy], directory: Path, **changes: Any) -> None:
        self.a, self.b = start("7.0"), start("7.0")
        self.to_a, self.to_b = proxy(self.a), proxy(self.b)
        self._directory, self._changes = directory, changes
        self.links = [self._link("a", "b"), self._link("b", "a")]

    def _link(self, here: str, there: str) -> Link:
        source = self.a if here == "a" else self.b
        target = self.to_b if there == "b" else self.to_a
        changes = {"two_way": True, "source_dc": here, "target_dc": there, "task": f"{here}-{there}", **self._changes}
        return Link(source, target, self._directory, **changes)

    def __enter__(self) -> Pair:
        for link in self.links:
            link.start()
        for link in self.links:
            link.streaming()
        for door in (self.to_a, self.to_b):
            door.delay(0.05)
        return self

    def restart(self, number: int) -> None:
        self.links[number].stop()
        self.links[number] = self.links[number].again().start()

    @property
    def settled(self) -> bool:
        """Each side has seen what the other one had at first."""
        found = [link.product.conflicts for link in self.links if link.product is not None]
        return all(one is not None and one.oldest_seen >= one.local_window.floor for one in found)

    def equal(self, within_s: float) -> None:
        """Both sides hold the same, or it is said what became of the links."""
        try:
            wait_equal(self.a, self.b, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; links: {[(one.error, one.status) for one in self.links]}") from None

    def figure(self, name: str) -> int:
        return sum(getattr(link.status, name) for link in self.links)

    def __exit__(self, *exc: object) -> None:
        for link in self.links:
            link.__exit__(*exc) if exc[0] is not None else link.stop()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_writers_of_all_types_over_the_same_keys_end_equal(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, seed: int
) -> None:
    with Pair(redis_server, proxy, tmp_path) as pair, ThreadPoolExecutor(2) as pool:
        writing = [
            pool.submit(write, server, name, seed * 2 + n, SECONDS)
            for n, (server, name) in enumerate([(pair.a, "a"), (pair.b, "b")])
        ]
        r = random.Random(seed)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end - 1:
            time.sleep(min(1.0, SECONDS / 5))
            action = r.randrange(4)
            if action == 0:
                pair.to_a.cut()
            elif action == 1:
                pair.to_b.cut()
            elif action == 2:
                pair.restart(r.randrange(2))
        for one in writing:
            one.result()
        pair.equal(10)
        assert pair.figure("conflicts") > 0
        assert pair.figure("echoes") > 0


def test_counters_hold_the_sum_of_both_sides_under_the_commutative_rule(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    def count(server: Server) -> None:
        with Wire(server) as wire:
            for _ in range(60):
                wire.call(
                    [("INCRBY", f"c{n}", 2) for n in range(10)] + [("HINCRBY", "h", f"f{n}", 1) for n in range(5)]
                )
                time.sleep(0.02)

    with Pair(redis_server, proxy, tmp_path, commutative=True) as pair, ThreadPoolExecutor(2) as pool:
        pair.a.client().set("first", 1)
        pair.b.client().set("second", 1)
        pair.links[0].until(lambda: pair.settled, 20, "both have seen the snapshots")
        before = pair.figure("conflicts")
        for one in [pool.submit(count, server) for server in (pair.a, pair.b)]:
            one.result()
        for link, source in zip(pair.links, (pair.a, pair.b), strict=True):
            link.in_step(source)  # while both lack as much of each other, they are equal too
        pair.equal(10)
        for server in (pair.a, pair.b):
            assert {server.control.get(f"c{n}") for n in range(10)} == {b"240"}
            assert set(server.control.hvals("h")) == {b"120"}
        assert pair.figure("conflicts") == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_daemons_that_are_killed_while_both_sides_write_leave_both_equal(
    redis_server: StartServer, tmp_path: Path, seed: int
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    names = [("a", "b", a, b), ("b", "a", b, a)]
    with ExitStack() as stack:
        daemons = [
            stack.enter_context(
                LinkProcess(
                    *(source, target, tmp_path, "--two-way", "--source-dc", here, "--target-dc", there),
                    name=f"{here}-{there}",
                )
            )
            for here, there, source, target in names
        ]
        wait_until(lambda: a.sync_full == b.sync_full == 1, 20, "both have taken their snapshot")
        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, server, name, seed, SECONDS + 4) for name, server in (("a", a), ("b", b))]
            r = random.Random(seed)
            end = time.monotonic() + SECONDS + 3
            while time.monotonic() < end:
                time.sleep(r.uniform(1.0, 2.0))
                daemon = r.choice(daemons)
                daemon.kill()
                time.sleep(r.uniform(0.0, 1.0))
                daemon.start()
            for one in writing:
                one.result()
        wait_equal(a, b, 20)
        time.sleep(1)
        wait_equal(a, b, 1)
        assert a.sync_full == b.sync_full == 1
