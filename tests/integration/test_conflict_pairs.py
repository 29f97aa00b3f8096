"""Two live datacenters over the same keys, 50 ms apart: whatever is written where, both end equal."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.contend import ROUNDS, SECONDS, write
from tests.support.links import Link
from tests.support.proxy import Proxy

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
        wait_equal(pair.a, pair.b, 10)
        assert pair.figure("conflicts") > 0
        assert pair.figure("echoes") > 0
