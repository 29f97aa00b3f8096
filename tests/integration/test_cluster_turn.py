"""Promoting a cluster, and turning a task between clusters round."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.nodes import Site
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KEYS = 120


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        site.node("a").start()
        yield site
    finally:
        site.close()


def all_there(cluster: Cluster, value: bytes) -> bool:
    return all(cluster.ask("GET", f"k{number}") == value for number in range(KEYS))


def test_promoted_when_nobody_writes_and_turned_round_while_writes_are_held(site: Site) -> None:
    with Cluster.start(2) as a, Cluster.start(3) as b:
        for number in range(KEYS):
            a.ask("SET", f"k{number}", 1)
        site.create("sh-bj", a, b)  # type: ignore[arg-type]
        wait_until(lambda: all_there(b, b"1"), 60, "the snapshot")
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.wait(0.002):
                number += 1
                a.ask("INCR", f"busy{number % 50}")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            refused = site.cli("task", "promote", "sh-bj", "--yes", check=False)
            assert refused.returncode == 1, refused.stderr
            assert "still written to" in refused.stderr or "keys change all the time" in refused.stderr
            turned: list[str] = []

            def turn() -> None:
                """Clients of the old source stand still from here on, at every master."""
                turned.append(site.cli("task", "reverse", "sh-bj", "--yes", "--pause-writes", "--timeout", "15").stderr)

            turning = threading.Thread(target=turn)
            turning.start()
            turning.join()
        finally:
            stop.set()
            for node in a.masters:
                node.do("CLIENT", "UNPAUSE")
            writer.join()
        (said,) = turned
        assert "equal: " in said and "bj-sh is streaming, after a snapshot" in said, said
        assert site.describe("sh-bj")["desired"] == "stopped"
        for number in range(KEYS):
            b.ask("INCR", f"k{number}")
        wait_until(lambda: all_there(a, b"2"), 60, "the other way it goes")
