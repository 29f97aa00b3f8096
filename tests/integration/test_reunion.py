"""A link lost beyond backlog and journal while both sides write and delete: after the resync both sides are equal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canal.endpoint import parse_url
from canal.errors import Unready
from sync.config import LinkConfig
from sync.doubts import Doubts
from sync.homes import Homes
from sync.reunion import Reunion, reunion_key
from sync.status import LinkStatus
from sync.verify import Options, Report, compare
from sync.verify.comparison import Comparison
from sync.verify.side import Pair
from tests.conftest import StartServer
from tests.support.links import Link
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers


class Sides:
    """Two datacenters, a link each way; `cut` and `mend` the way between one link and its source."""

    def __init__(
        self, a: Server, b: Server, directory: Path, proxy: Callable[[Server], Proxy], home: tuple[str, ...] = ("hash",)
    ) -> None:
        self.a, self.b = a, b
        two = {"two_way": True, "home": home}
        self.doors = {"ab": proxy(a), "ba": proxy(b)}
        self.links = {
            "ab": Link(self.doors["ab"], b, directory, task="ab", source_dc="a", target_dc="b", **two),
            "ba": Link(self.doors["ba"], a, directory, task="ba", source_dc="b", target_dc="a", **two),
        }
        for link in self.links.values():
            link.start()
        for link in self.links.values():
            link.streaming()

    def lose(self, *names: str) -> None:
        """Cut these links off their sources."""
        for name in names:
            self.doors[name].refuse()
            self.doors[name].cut()
            self.links[name].until(lambda name=name: not self.links[name].status.source_connected, 30, f"{name} is cut")

    def forget(self, server: Server) -> None:
        """More than the server's backlog goes by."""
        for number in range(40):
            server.control.set("filler", str(number) * 60_000)
        server.control.delete("filler")

    def mend(self, *names: str) -> None:
        before = {name: self.links[name].status.full_resyncs for name in names}
        for name in names:
            self.doors[name].accept()
        for name in names:
            link = self.links[name]
            link.until(lambda link=link, name=name: link.status.full_resyncs > before[name], 60, "a full resync")
            marker = link.config.state_dir / "reunion.json"
            link.until(marker.exists, 60, "a reunion is due")

    def settled(self) -> None:
        """All reunions are over and everything is applied."""
        for name, link in self.links.items():
            marker = link.config.state_dir / "reunion.json"
            link.until(lambda link=link, marker=marker: not marker.exists() and link.status.reunion == "", 120, name)
        for _ in range(3):  # an echo of one side goes through the other
            self.links["ab"].in_step(self.a)
            self.links["ba"].in_step(self.b)

    def close(self) -> None:
        for link in self.links.values():
            link.stop()


@pytest.fixture
def sides(redis_server: StartServer, tmp_path: Path, proxy: Callable[[Server], Proxy]) -> Sides:
    small = {"repl-backlog-size": "16kb"}
    return Sides(redis_server(**small), redis_server(**small), tmp_path, proxy)


def equal(sides: Sides) -> None:
    ends = parse_url(sides.a.url), parse_url(sides.b.url)
    report = asyncio.run(compare(*ends, Options(rounds=4, pause_s=0.5)))
    assert report.differences == [] and report.unsettled == 0


def test_one_link_is_lost_and_its_source_has_seen_all(sides: Sides) -> None:
    a, b = sides.a.control, sides.b.control
    a.mset({f"k{number}": "both" for number in range(200)})
    sides.links["ab"].in_step(sides.a)
    sides.lose("ab")
    a.delete(*(f"k{number}" for number in range(50)))
    a.mset({f"k{number}": "a" for number in range(50, 100)})
    a.mset({f"new{number}": "a" for number in range(20)})
    b.mset({f"k{number}": "b" for number in range(100, 150)})
    b.delete(*(f"k{number}" for number in range(150, 160)))
    sides.links["ba"].in_step(sides.b)
    sides.forget(sides.a)
    sides.mend("ab")
    sides.settled()
    for client in (a, b):
        assert client.exists(*(f"k{number}" for number in range(50))) == 0  # its absence wins, too
        assert set(client.mget(f"k{number}" for number in range(50, 100))) == {b"a"}
        assert set(client.mget(f"k{number}" for number in range(100, 150))) == {b"b"}
        assert client.exists(*(f"k{number}" for number in range(150, 160))) == 0
        assert set(client.mget(f"new{number}" for number in range(20))) == {b"a"}
    equal(sides)
    sides.close()


def test_what_the_target_goes_on_to_write_during_the_resync_is_not_set_back(sides: Sides) -> None:
    """The snapshot is older than what the target holds. Put there, it would be built upon: a sum written whole, as
    INCRBYFLOAT is, would lack what came before, for good.
    """
    names = [f"sum:{number}" for number in range(200)]
    for name in names:
        sides.b.control.incrbyfloat(name, 0.5)
    sides.links["ba"].in_step(sides.b)
    sides.lose("ab")
    stop, rounds = threading.Event(), [1]

    def write() -> None:
        client = sides.b.client()
        while not stop.is_set():
            pipe = client.pipeline(transaction=False)
            for name in names:
                pipe.incrbyfloat(name, 0.5)
            pipe.execute()
            rounds[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    sides.doors["ba"].delay(0.1)
    sides.a.control.set("new", "a")
    sides.forget(sides.a)
    sides.mend("ab")
    sides.links["ab"].streaming()
    at = rounds[0]
    wait_until(lambda: rounds[0] > at + 20, 60, "writes after the snapshot")
    stop.set()
    writer.join()
    sides.settled()
    for client in (sides.a.control, sides.b.control):
        assert {float(sum) for sum in client.mget(names)} == {rounds[0] / 2}
        assert client.get("new") == b"a"
    sides.close()


@pytest.mark.slow
def test_both_links_are_lost_while_both_sides_write_and_delete(sides: Sides) -> None:
    a, b = sides.a.control, sides.b.control
    a.mset({f"k{number}": "both" for number in range(300)})
    sides.links["ab"].in_step(sides.a)
    sides.lose("ab", "ba")
    for client, name, start in ((a, "a", 0), (b, "b", 100)):
        client.mset({f"k{number}": name for number in range(start, start + 150)})
        client.delete(*(f"k{number}" for number in range(start + 150, start + 170)))
        client.mset({f"{name}{number}": name for number in range(50)})
    for server in (sides.a, sides.b):
        sides.forget(server)
    stop, during = threading.Event(), {"a": 0, "b": 0}

    def write(server: Server, name: str) -> None:
        client = server.client()
        while not stop.wait(0.01):
            client.set(f"during:{name}:{during[name]}", name)
            client.incr(f"count:{name}")
            during[name] += 1

    writers = [threading.Thread(target=write, args=pair) for pair in ((sides.a, "a"), (sides.b, "b"))]
    for writer in writers:
        writer.start()
    sides.mend("ab", "ba")
    wait_until(lambda: min(during.values()) > 100, 60, "writes during the resync")
    stop.set()
    for writer in writers:
        writer.join()
    sides.settled()
    equal(sides)
    for client in (a, b):
        for name, count in during.items():
            assert int(client.get(f"count:{name}") or 0) == count
            assert client.exists(*(f"during:{name}:{number}" for number in range(count))) == count
        assert client.exists(*(f"k{number}" for number in range(300))) == 300  # nobody knows: absence deletes nothing
        assert client.exists(*(f"{name}{number}" for name in "ab" for number in range(50))) == 100
    sides.close()


async def test_a_node_that_takes_over_goes_on_with_a_reunion(redis_server: StartServer, tmp_path: Path) -> None:
    """The node before applied the snapshot and died: what its `existing` left different would stay so."""
    a, b = redis_server(), redis_server()
    config = LinkConfig("t", parse_url(a.url), parse_url(b.url), tmp_path, source_dc="a", target_dc="b", two_way=True)
    b.control.set(reunion_key("t", "0"), 1)

    async def told(until: Callable[[LinkStatus], bool]) -> str:
        """What a link that starts says of its reunion."""
        status = LinkStatus("t", "0", "a", "b")
        status.state = "streaming"
        running = asyncio.create_task(Reunion(config, status, Homes(("hash",), ("a", "b"))).run())
        await asyncio.to_thread(wait_until, lambda: until(status), 30, "it was asked at the target")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return status.reunion

    assert await told(lambda status: status.reunion != "")
    b.control.delete(reunion_key("t", "0"))
    asked = _asked(b)
    assert not await told(lambda _: _asked(b) > asked)


def _asked(server: Server) -> int:
    return int(server.info("commandstats")["cmdstat_exists"]["calls"])


def test_a_side_that_lacks_writes_does_not_win_before_both_were_compared(
    redis_server: StartServer,
    tmp_path: Path,
    proxy: Callable[[Server], Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """b lacks what a wrote while the link was lost, and is every key's home. Neither a write of a that has no effect at
    b nor a key whose replies were lost makes b's state win, nor a conflict that the link back has found.
    """
    may, looked = threading.Event(), [0]
    reunite, look = Reunion._reunite, Doubts._look

    async def _reunite(self: Reunion) -> int:
        if not may.is_set():
            raise Unready("not yet")
        return await reunite(self)

    async def _look(self: Doubts, pair: Pair) -> None:
        await look(self, pair)
        looked[0] += 1

    monkeypatch.setattr(Reunion, "_reunite", _reunite)
    monkeypatch.setattr(Doubts, "_look", _look)
    monkeypatch.setattr("sync.reunion._REST_S", 0.2)
    small = {"repl-backlog-size": "16kb"}
    sides = Sides(redis_server(**small), redis_server(**small), tmp_path, proxy, home=("b",))
    a = sides.a.control
    for number in range(20):
        a.hset(f"h{number}", "first", 1)
        a.rpush(f"q{number}", "first")
    sides.links["ab"].in_step(sides.a)
    sides.lose("ab")
    for number in range(20):
        a.hset(f"h{number}", "second", 2)
        a.rpush(f"q{number}", "second", "third", "fourth")
    sides.forget(sides.a)
    a.execute_command("DEBUG", "CHANGE-REPL-ID")  # as a restart does
    a.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    back = sides.links["ba"]
    echoer = back.converge.echoes.source
    back.until(lambda: echoer.lacks(), 60, "the link back knows that b does not follow what a is now")
    back.in_loop(echoer.ask, [(0, b"h%d" % number) for number in range(20)])
    back.until(lambda: echoer.held, 60, "and waits")
    sides.mend("ab")
    link = sides.links["ab"].streaming()
    for number in range(20):
        a.hset(f"h{number}", "third", 3)
        assert a.lpop(f"q{number}", 1) == [b"first"]
        assert a.lpop(f"q{number}", 1) == [b"second"]  # at b there is none
    link.in_step(sides.a)
    link.in_loop(link.converge._doubts.add, [(0, b"h%d" % number) for number in range(20)])
    link.until(lambda: looked[0] >= 10, 60, "the keys were looked at")
    assert link.status.echoes == 0
    back.until(lambda: not echoer.lacks(), 60, "b follows a again")
    back.until(lambda: echoer.held, 60, "and the link back waits for the comparison")
    assert back.status.echoes == 0
    may.set()
    sides.settled()
    back.until(lambda: not echoer.held and not echoer.figures.waiting, 60, "the echoes that waited")
    for client in (a, sides.b.control):
        for number in range(20):
            assert client.hgetall(f"h{number}") == {b"first": b"1", b"second": b"2", b"third": b"3"}
            assert client.lrange(f"q{number}", 0, -1) == [b"third", b"fourth"]
    equal(sides)
    sides.close()


def test_what_was_written_during_the_comparison_is_looked_at_again(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that changed from look to look was neither equal nor different: the reunion is not over with it."""
    compared, run = [0], Comparison.run

    async def restless(self: Comparison, resume: dict[str, Any] | None = None) -> Report:
        report = await run(self, resume)
        compared[0] += 1
        return replace(report, unsettled=int(compared[0] == 1))

    monkeypatch.setattr(Comparison, "run", restless)
    sides.a.control.set("k", 1)
    sides.links["ab"].in_step(sides.a)
    sides.lose("ab")
    sides.forget(sides.a)
    sides.mend("ab")
    sides.settled()
    assert compared[0] == 2
    sides.close()
