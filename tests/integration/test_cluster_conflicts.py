"""Two live clusters over the same keys, 50 ms apart: whatever is written where, both end equal.

REDIS_CANAL_FULL=1 writes for a minute, REDIS_CANAL_ROUNDS=N does it so often.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import hiredis
import pytest

from canal.cluster import slot_of, slot_tag
from tests.support.cluster import Cluster
from tests.support.compare import differences
from tests.support.contend import KEYS, ROUNDS, SECONDS, command
from tests.support.doors import Doors
from tests.support.links import LinkProcess, quiet
from tests.support.process import wait_until
from tests.support.wire import Command, Wire

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FAR_S = 0.05
BATCH = 8


class Writers:
    """Writes commands of `contend` to a cluster, wherever their keys are; what a cluster refuses is left out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wires: dict[int, Wire] = {}
        self._owners: dict[int, int] = {}

    def send(self, commands: Sequence[Command]) -> None:
        for one in commands:
            if len(one) > 1 and str(one[0]) not in ("MULTI", "EXEC"):
                self._one(one)

    def _one(self, words: Command) -> None:
        key = str(words[1] if words[0] != "XGROUP" else words[2]).encode()
        slot = slot_of(key)
        port, asking = self._owners.get(slot, self._cluster.nodes[0].port), False
        for _ in range(50):
            wire = self._wires.get(port) or self._wires.setdefault(port, Wire(f"redis://127.0.0.1:{port}"))
            reply: Any = wire.call([("ASKING",), words] if asking else [words])[-1]
            word, *rest = str(reply).split(" ") if isinstance(reply, hiredis.ReplyError) else [""]
            if word in ("MOVED", "ASK"):
                port, asking = int(rest[1].rpartition(":")[2]), word == "ASK"
                if not asking:
                    self._owners[slot] = port
            elif word in ("TRYAGAIN", "CLUSTERDOWN"):
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()


def write(cluster: Cluster, name: str, seed: int, seconds: float) -> None:
    """Commands of all types over the same hundred keys, in ten slots, for so long."""
    r = random.Random(seed)
    end = time.monotonic() + seconds
    writers = Writers(cluster)
    while time.monotonic() < end:
        tag = f"{{{r.randrange(10)}}}"
        for _ in range(BATCH):
            writers.send([tuple(_tagged(word, tag) for word in one) for one in command(r, name)])
        time.sleep(0.02)
    writers.close()


def _tagged(word: object, tag: str) -> Any:
    """Keys of `contend` are k0 to k99: those of one command get one tag, so that clusters take it."""
    if isinstance(word, str) and word[:1] == "k" and word[1:].isdigit():
        return f"k{int(word[1:]) % (KEYS // 10)}:{tag}"
    return word


class Pair:
    """Clusters a and b with a daemon each way, 50 ms away."""

    def __init__(self, a: Cluster, b: Cluster, directory: Path, *more: str) -> None:
        self.a, self.b = a, b
        self.to_a, self.to_b = Doors(a), Doors(b)
        self._directory, self._more = directory, more
        self.daemons: list[LinkProcess] = []

    def __enter__(self) -> Self:
        self.to_a.__enter__()
        self.to_b.__enter__()
        self.daemons = [self._daemon(self.a, self.to_b, "a", "b"), self._daemon(self.b, self.to_a, "b", "a")]
        try:
            wait_until(lambda: streams(self.b, "a-b") and streams(self.a, "b-a"), 90, "both directions stream")
        except BaseException:
            print(*(one.log[-3000:] for one in self.daemons), sep="\n---\n")
            self.__exit__(None, None, None)
            raise
        for doors in (self.to_a, self.to_b):
            doors.delay(FAR_S)
        return self

    def _daemon(self, source: Cluster, target: Doors, here: str, there: str) -> LinkProcess:
        how = ("--two-way", "--source-dc", here, "--target-dc", there, *target.map("target"), *self._more)
        return LinkProcess(source, target, self._directory, *how, name=f"{here}-{there}")

    def settled(self) -> None:
        """Each side has said that it has what the other one had at first: a write each way, and silence."""
        for number in range(200):
            self.a.ask("SET", f"first:{number}", "a")
            self.b.ask("SET", f"second:{number}", "b")
        wait_until(lambda: quiet(*self.a.nodes, *self.b.nodes), 60, "silence")

    def flowing(self) -> None:
        """What each master has written by now has arrived: a daemon that was killed is there again, on a busy machine
        as well.
        """
        sides = (("a", self.a, self.b), ("b", self.b, self.a))
        marks = {
            f"mark:{name}{number}:{{{slot_tag(node.serves()[0]).decode()}}}": (here, there)
            for name, here, there in sides
            for number, node in enumerate(here.masters)
        }
        for key, (here, _) in marks.items():
            here.ask("SET", key, "here")
        wait_until(lambda: all(there.ask("GET", key) for key, (_, there) in marks.items()), 90, "all links flow")

    def equal(self, within_s: float) -> None:
        began = time.monotonic()
        end = began + within_s
        while True:
            while (alike := digests(self.a) == digests(self.b)) is False and time.monotonic() < end:
                time.sleep(0.2)
            waited = time.monotonic() - began
            with self.a.gathered() as one, self.b.gathered() as other:  # takes seconds by itself
                found = differences(one, other, limit=10, ttl_tolerance_ms=2)
            if not found:
                print(f"equal after {waited:.1f} s, by digest {alike}")
                return
            if time.monotonic() > end:
                for daemon in self.daemons:
                    print(daemon.log[-6000:], "\n---")
                raise AssertionError(f"the clusters differ: {found}")
            time.sleep(0.3)

    def conflicts(self) -> int:
        files = (self._directory / "state").rglob("conflicts.jsonl")
        return sum(len(path.read_text().splitlines()) for path in files)

    def __exit__(self, *exc: object) -> None:
        for daemon in self.daemons:
            daemon.__exit__(None, None, None)
        self.to_a.__exit__(None, None, None)
        self.to_b.__exit__(None, None, None)


def digests(cluster: Cluster) -> dict[bytes, bytes]:
    """What each key holds but for its deadline, told by the servers in no time."""
    found: dict[bytes, bytes] = {}
    for node in cluster.masters:
        with Wire(node) as wire:
            keys = [key for key in wire.ask("KEYS", "*") if not key.startswith(b"redis-canal:")]
            found.update(zip(keys, wire.ask("DEBUG", "DIGEST-VALUE", *keys) if keys else [], strict=True))
    return found


def streams(target: Cluster, task: str) -> bool:
    found = target.ask("HGETALL", f"redis-canal:slots:{task}")
    names = [name[6:].decode() for name in found[::2] if name.startswith(b"shard:")]
    phases = [target.ask("HGET", f"redis-canal:checkpoint:{task}/{name}", "phase") for name in names]
    return len(names) >= 2 and all(phase == b"stream" for phase in phases)


def at_once(*work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        for one in [pool.submit(each) for each in work]:
            one.result()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_writers_of_all_types_over_the_same_keys_end_equal(tmp_path: Path, seed: int) -> None:
    seconds = SECONDS + 6
    with Cluster.start(3) as a, Cluster.start(2) as b, Pair(a, b, tmp_path) as pair:
        stop = threading.Event()

        def disturb() -> None:
            r = random.Random(seed)
            end = time.monotonic() + seconds * 0.6  # a daemon takes some seconds to be there again, at this distance
            while time.monotonic() < end and not stop.wait(min(2.0, seconds / 5)):
                action = r.randrange(4)
                if action < 2:
                    (pair.to_a, pair.to_b)[action].cut()
                elif action == 2:
                    daemon = r.choice(pair.daemons)
                    daemon.kill()
                    daemon.start()

        def writing() -> None:
            at_once(lambda: write(a, "a", seed * 2, seconds), lambda: write(b, "b", seed * 2 + 1, seconds))
            stop.set()

        at_once(disturb, writing)
        pair.flowing()
        pair.equal(20)  # keys whose replies were lost with a daemon are compared three times
        wait_until(lambda: quiet(*a.nodes, *b.nodes), 30, "all streams fall silent")
        pair.equal(0)
        assert pair.conflicts() > 0
        for daemon in pair.daemons:
            assert daemon.terminate() == 0, daemon.log[-3000:]


@pytest.mark.timeout(300)
def test_nothing_is_echoed_without_a_conflict_and_counters_hold_the_sum(tmp_path: Path) -> None:
    with Cluster.start(2) as a, Cluster.start(3) as b, Pair(a, b, tmp_path, "--commutative") as pair:
        pair.settled()
        before = pair.conflicts()

        def count(cluster: Cluster, name: str) -> None:
            writers = Writers(cluster)
            for number in range(40):
                writers.send([("INCRBY", f"c{n}", 2) for n in range(10)])
                writers.send([("HINCRBY", f"h{n}", "f", 1) for n in range(5)])
                writers.send([("RPUSH", f"{name}:{n}", number) for n in range(10)])
                time.sleep(0.02)
            writers.close()

        at_once(lambda: count(a, "a"), lambda: count(b, "b"))
        pair.flowing()
        pair.equal(10)
        for cluster in (a, b):
            assert set(cluster.each([f"c{n}" for n in range(10)], "GET").values()) == {b"160"}
            assert set(cluster.each([f"h{n}" for n in range(5)], "HGET", "f").values()) == {b"80"}
            assert set(cluster.each([f"{x}:{n}" for n in range(10) for x in "ab"], "LLEN").values()) == {40}
        assert pair.conflicts() == before
