"""Two clusters of three masters, 100 ms apart: an expired copy that is read on one side must not delete what the other
side refreshed, whichever side reads, and whichever is the keys' home.

REDIS_CANAL_FULL=1 takes 200 keys a race, short by default.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.compare import assert_equal, differences
from tests.support.doors import Doors
from tests.support.links import LinkProcess
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KEYS = 200 if os.environ.get("REDIS_CANAL_FULL") else 40
FAR_S = 0.1


def read(cluster: Cluster, keys: list[str]) -> list[bytes | None]:
    """Read them all: those that have expired are deleted by that."""
    found = cluster.each(keys, "GET")
    return [found[key] for key in keys]


Keys = dict[tuple[str, str], list[str]]
"""By (who writes them, whose home they have)."""


def race(sides: dict[str, Cluster]) -> None:
    """Each side meets its expired copies after the other wrote the keys anew, and before that has arrived."""
    keys = {
        (writer, home): [f"{home}:from-{writer}:{number}" for number in range(KEYS)]
        for writer in sides
        for home in ("a", "b")
    }
    for ahead_ms in (2000, 5000, 10_000, 20_000):  # longer where the machine is too slow for it
        deadline = int(time.time() * 1000) + ahead_ms
        write(sides, keys, "old", "PXAT", deadline)
        wait_until(partial(_arrived, sides, keys, deadline), 30, "the old values")
        wait_until(partial(_passed, deadline), 30, "the deadline")
        write(sides, keys, "fresh", "EX", 3600)
        if not any(others(sides, keys)):
            break  # within the 100 ms that the fresh values take
    else:
        raise AssertionError("the readers never met their expired copies in time")
    wait_until(lambda: set(others(sides, keys)) == {b"fresh"}, 30, "the fresh values at the readers")
    for writer, home in keys:
        assert read(sides[writer], keys[writer, home]) == [b"fresh"] * KEYS


def write(sides: dict[str, Cluster], keys: Keys, *words: str | int) -> None:
    for writer, cluster in sides.items():
        cluster.each([*keys[writer, "a"], *keys[writer, "b"]], "SET", *words)


def others(sides: dict[str, Cluster], keys: Keys) -> list[bytes | None]:
    """What each side has of the other's keys."""
    a, b = sides["a"], sides["b"]
    return [*read(a, [*keys["b", "a"], *keys["b", "b"]]), *read(b, [*keys["a", "a"], *keys["a", "b"]])]


def _arrived(sides: dict[str, Cluster], keys: Keys, deadline: int) -> bool:
    return set(others(sides, keys)) == {b"old"} or _passed(deadline)


def _passed(deadline: int) -> bool:
    return time.time() * 1000 > deadline + 20


def streams(target: Cluster, task: str) -> bool:
    found = target.ask("HGETALL", f"redis-canal:slots:{task}")
    names = [name[6:].decode() for name in found[::2] if name.startswith(b"shard:")]
    phases = [target.ask("HGET", f"redis-canal:checkpoint:{task}/{name}", "phase") for name in names]
    return len(names) >= 3 and all(phase == b"stream" for phase in phases)


def test_no_fresh_value_is_lost_between_two_clusters(tmp_path: Path) -> None:
    with Cluster.start(3) as a, Cluster.start(3) as b, Doors(a) as to_a, Doors(b) as to_b:
        for node in (*a.nodes, *b.nodes):
            node.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        how = ("--two-way", "--home", "prefix:a=a", "--home", "b")
        there = LinkProcess(
            *(a, to_b, tmp_path, *how, *to_b.map("target"), "--source-dc", "a", "--target-dc", "b"), name="a-b"
        )
        back = LinkProcess(
            *(b, to_a, tmp_path, *how, *to_a.map("target"), "--source-dc", "b", "--target-dc", "a"), name="b-a"
        )
        with there, back:
            wait_until(lambda: streams(b, "a-b") and streams(a, "b-a"), 90, "both directions stream")
            for doors in (to_a, to_b):
                doors.delay(FAR_S, "to_server")
            race({"a": a, "b": b})
            wait_until(lambda: equal(a, b), 30, "both clusters hold the same", every=0.5)
            assert there.terminate() == 0, there.log[-3000:]
            assert back.terminate() == 0, back.log[-3000:]
        with a.gathered() as one, b.gathered() as other:
            assert one.control.dbsize() >= 4 * KEYS
            assert_equal(one, other, ttl_tolerance_ms=2)


def equal(a: Cluster, b: Cluster) -> bool:
    with a.gathered() as one, b.gathered() as other:
        return not differences(one, other, limit=1, ttl_tolerance_ms=2)
