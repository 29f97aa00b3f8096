"""A cluster target that is behind: large batches go as transactions by slot, with runs of SET joined to MSET."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from canal.cluster import slot_of
from tests.support.cluster import MOVED_MS, Cluster
from tests.support.compare import assert_equal
from tests.support.links import Link, LinkProcess
from tests.support.process import ROOT, spawn, wait_until
from tests.support.servers import Server
from tests.support.workload import Workload

pytestmark = pytest.mark.servers

SMALL = {"batch_commands": 1}
"""Eight commands are a large batch then."""


def calls(cluster: Cluster, name: str) -> int:
    """How often the masters have carried out a command."""
    found = [node.control.info("commandstats").get(f"cmdstat_{name}", {}) for node in cluster.masters]
    return sum(one.get("calls", 0) for one in found)


def at_once(source: Server, **values: object) -> None:
    """SETs that come in one batch."""
    with source.client().pipeline(transaction=True) as pipe:
        for key, value in values.items():
            pipe.set(key, value)
        pipe.execute()


def filled(tag: str, count: int, value: str) -> dict[str, object]:
    return {f"{{{tag}}}{number}": value for number in range(count)}


def test_writes_of_every_type_while_slots_move(tmp_path: Path) -> None:
    """INCR, APPEND, LPUSH, XADD: one applied twice or not at all, or out of order, shows for good."""
    with Server.start() as source, Cluster.start() as cluster:
        first, second, _ = cluster.masters
        with Workload(source, databases=(0,), rate=2000) as load, Link(source, cluster, tmp_path, **SMALL) as link:
            link.streaming()
            at_once(source, **filled("t", 50, "u"))
            link.until(lambda: calls(cluster, "mset") > 0, 30, "a large batch, before any slot moves")
            load.wait(1500)
            hot = sorted({slot_of(key) for key in source.client().keys("*")})
            for slot in hot[:12]:
                cluster.move_slots([slot], to=first if slot not in first.serves() else second)
            load.wait(500)
            load.stop()
            at_once(source, **{f"plain{number}": number % 7 for number in range(3000)}, **filled("t", 50, "v"))
            link.in_step(source)
            assert link.status.target_slots_moved > 0
            assert link.status.dead_letters == 0 and link.status.full_resyncs == 1
        with cluster.gathered() as copy:
            assert_equal(source, copy, ttl_tolerance_ms=MOVED_MS)


def test_a_joined_mset_over_a_slot_that_is_moving(tmp_path: Path) -> None:
    """Keys that are there get TRYAGAIN beside those that have gone: nothing of them is lost, nor gets out of order."""
    with Server.start() as source, Cluster.start(2) as cluster, Link(source, cluster, tmp_path, **SMALL) as link:
        link.streaming()
        at_once(source, **filled("t", 30, "old"), **filled("still", 30, "old"))
        link.in_step(source)
        assert calls(cluster, "mset") >= 2
        slot, giver = slot_of(b"t"), cluster.owner("{t}")
        taker = next(node for node in cluster.masters if node is not giver)
        taker.do("CLUSTER", "SETSLOT", slot, "IMPORTING", giver.id)
        giver.do("CLUSTER", "SETSLOT", slot, "MIGRATING", taker.id)
        gone = [f"{{t}}{number}" for number in range(0, 30, 2)]
        giver.do("MIGRATE", "127.0.0.1", taker.port, "", 0, 60000, "KEYS", *gone)
        at_once(source, **filled("t", 30, "new"), **filled("still", 30, "new"))
        at_once(source, **{"{t}1": "newest", "{t}2": "newest"}, **filled("still", 30, "newest"))
        link.until(lambda: cluster.ask("GET", "{still}29") == b"newest", 30, "other slots go on")
        assert giver.control.info("commandstats")["cmdstat_mset"]["rejected_calls"] > 0
        cluster.move_keys(slot, giver, taker)
        for node in (taker, giver):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", taker.id)
        link.in_step(source)
        assert link.status.target_slots_moved > 0 and link.status.dead_letters == 0
        with cluster.gathered() as copy:
            assert_equal(source, copy)


_LARGE = "import sync.target.cluster.parts as parts; parts._LARGE = 0.002; from console.cli.main import main; main()"
"""Every batch is a large one, where slots are neither moving nor ahead."""


class LargeBatches(LinkProcess):
    """`redis-canal run` that sends every batch so."""

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            command = [sys.executable, "-c", _LARGE, "run", *self.arguments]
            self.process = spawn(command, stdout=log, stderr=log, cwd=ROOT)


def write_much(source: Server, rng: random.Random, count: int) -> None:
    """Commands of which one that is applied twice, or not at all, shows for good, among runs of SET."""
    with source.client().pipeline(transaction=False) as pipe:
        for number in range(count):
            key, which = rng.randrange(40_000), rng.random()
            if which < 0.4:
                pipe.incr(f"n{key}")
            elif which < 0.8:
                pipe.set(f"s{key}", number)
            elif which < 0.9:
                pipe.append(f"a{key}", "x")
            else:
                pipe.rpush(f"l{key % 500}", number)
        pipe.execute()


def test_killed_in_the_middle_of_large_batches(tmp_path: Path) -> None:
    """Each transaction is applied wholly or not at all, and what its slot has is not applied again."""
    rng = random.Random(20261122)
    with (
        Server.start(**{"repl-backlog-size": "256mb"}) as source,
        Cluster.start() as cluster,
        LargeBatches(source, cluster, tmp_path) as link,
    ):
        source.client().set("began", 1)
        wait_until(lambda: cluster.ask("GET", "began") == b"1", 60, "the snapshot is there")
        wait_until(lambda: "-> streaming" in link.log, 60, "it streams")
        for _ in range(30 if os.environ.get("REDIS_CANAL_FULL") else 5):
            link.kill()
            write_much(source, rng, 30_000)
            known = calls(cluster, "exec")
            link.start()
            much = known + rng.randrange(20, 6000)
            wait_until(lambda much=much: calls(cluster, "exec") > much, 60, "large batches are on their way")
        source.client().set("ended", 1)
        wait_until(lambda: cluster.ask("GET", "ended") == b"1", 60, "all is there")
        assert calls(cluster, "mset") > 1000
        assert link.terminate() == 0
        with cluster.gathered() as copy:
            assert_equal(source, copy)


def test_a_link_that_was_down_sends_large_batches(tmp_path: Path) -> None:
    """What it missed comes from the backlog, or the journal, in pieces of any size; how much there is tells."""
    with (
        Server.start(**{"repl-backlog-size": "256mb"}) as source,
        Cluster.start() as cluster,
        LinkProcess(source, cluster, tmp_path) as link,
    ):
        source.client().set("began", 1)
        wait_until(lambda: cluster.ask("GET", "began") == b"1", 60, "the snapshot is there")
        wait_until(lambda: "-> streaming" in link.log, 60, "it streams")
        link.kill()
        known = calls(cluster, "evalsha")
        with source.client().pipeline(transaction=False) as pipe:
            for number in range(300_000):
                pipe.set(f"k{number * 7919 % 300_007}", "v")
            pipe.execute()
        link.start()
        source.client().set("ended", 1)
        wait_until(lambda: cluster.ask("GET", "ended") == b"1", 60, "all is there")
        assert calls(cluster, "exec") > 10_000
        assert calls(cluster, "evalsha") - known < 150, "a script takes 1000 commands, or 6000 of a large batch"


class As:
    """The cluster's URL for a user."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        self.url = cluster.url.replace("://", f"://{user}@")


def test_a_joined_mset_of_which_some_keys_are_forbidden(tmp_path: Path) -> None:
    """The permitted ones are written, and each of the others is a dead letter of its own."""
    with Server.start() as source, Cluster.start(2) as cluster:
        for node in cluster.masters:
            node.do("ACL", "SETUSER", "link", "on", ">pass", "+@all", "~redis-canal:*", "~{ok}*", "~{t}ok*")
        with Link(source, As(cluster, "link:pass"), tmp_path, on_error="continue", **SMALL) as link:
            link.streaming()
            at_once(
                source,
                **filled("ok", 20, "v"),
                **{"{t}ok1": 1, "{t}no1": 1, "{t}ok2": 1, "{t}no2": 1, "{t}ok3": 1},
            )
            link.in_step(source)
            assert link.status.dead_letters == 2
            at_once(source, **filled("ok", 20, "w"), **{"{t}ok1": 2})
            link.in_step(source)
        assert calls(cluster, "mset") > 0
        wait_until(lambda: cluster.ask("GET", "{t}ok1") == b"2", 10, "the slot goes on")
        assert [cluster.ask("GET", f"{{t}}ok{number}") for number in (2, 3)] == [b"1", b"1"]
        assert [cluster.ask("GET", f"{{t}}no{number}") for number in (1, 2)] == [None, None]
        assert {cluster.ask("GET", key) for key in filled("ok", 20, "")} == {b"w"}
        text = (tmp_path / "state" / "test" / "dead-letters.jsonl").read_bytes()
        assert text.count(b"{t}no") == 2 and b"{t}ok" not in text
