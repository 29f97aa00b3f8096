"""A side of a two-way pair that was rolled back loses everywhere: what the other holds stays and is brought back."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from canal.endpoint import parse_url
from sync.reunion import rollback_key
from sync.rollback import Rollback
from sync.verify import Options, compare
from tests.conftest import StartServer
from tests.support.links import Link, link_between
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers


class Pair:
    """Datacenters a and b; `b` is reached through a door, so that another server may take its place."""

    def __init__(self, a: Server, b: Server, door: Proxy, directory: Path) -> None:
        self.a, self.b, self.door = a, b, door
        self.links = {
            "a-b": link_between(a, door, directory, "a-b", two_way=True),
            "b-a": link_between(door, a, directory, "b-a", two_way=True),
        }

    def start(self) -> None:
        for link in self.links.values():
            link.start()
        for link in self.links.values():
            link.streaming()

    def stop(self) -> None:
        for link in self.links.values():
            link.stop()

    def again(self) -> None:
        """Restarted daemons."""
        self.links = {name: link.again() for name, link in self.links.items()}

    def in_step(self) -> None:
        for _ in range(3):
            self.links["a-b"].in_step(self.a)
            self.links["b-a"].in_step(self.b)

    def told(self, caplog: pytest.LogCaptureFixture) -> None:
        """Somebody has said that b was rolled back."""
        self.links["b-a"].until(lambda: _told(caplog), 60, "b's loss is told")

    def follows(self) -> None:
        """The link out of b has taken up b's new history."""

        def taken_up() -> bool:
            pos, phase = self.a.control.hmget("redis-canal:checkpoint:b-a/0", "pos", "phase")
            return phase == b"stream" and str(pos).startswith(f"b'{self.b.replid}:")

        self.links["b-a"].until(taken_up, 60, "b's new stream")

    def mended(self) -> None:
        a_b = self.links["a-b"]
        a_b.until(lambda: not self.a.control.exists(rollback_key("b")), 120, "both sides are equal again")
        for link in self.links.values():
            link.until(lambda link=link: not (link.status.rolled_back or link.status.reunion), 60, "it is over")
            assert not (link.config.state_dir / "reunion.json").exists()
        self.in_step()

    def equal(self) -> None:
        report = asyncio.run(compare(parse_url(self.a.url), parse_url(self.b.url), Options(rounds=4, pause_s=0.5)))
        assert report.differences == [] and report.unsettled == 0

    def before(self) -> None:
        """The state that b goes back to."""
        a, b = self.a.control, self.b.control
        a.mset({f"a{number}": "old" for number in range(100)})
        b.mset({f"b{number}": "old" for number in range(100)})
        a.mset({f"gone{number}": "old" for number in range(100)})
        b.rpush("list", 1, 2)
        self.in_step()

    def after(self) -> None:
        """What b has lost when it is back: its own writes and deletes, and a's."""
        a, b = self.a.control, self.b.control
        a.mset({f"a{number}": "new" for number in range(100)})
        b.mset({f"b{number}": "new" for number in range(100)})
        b.mset({f"later{number}": "new" for number in range(100)})
        a.delete(*(f"gone{number}" for number in range(50)))
        b.delete(*(f"gone{number}" for number in range(50, 100)))
        b.rpush("list", 3)
        for number in range(20):
            b.rpush(f"queue{number}", 1, 2, 3)
        self.in_step()
        for number in range(20):  # replayed where the queue is lost it has no effect, which must not count against it
            a.lpop(f"queue{number}")
        self.in_step()

    def check(self) -> None:
        for client in (self.a.control, self.b.client()):
            assert set(client.mget(f"a{number}" for number in range(100))) == {b"new"}
            assert set(client.mget(f"b{number}" for number in range(100))) == {b"new"}
            assert set(client.mget(f"later{number}" for number in range(100))) == {b"new"}
            assert client.exists(*(f"gone{number}" for number in range(100))) == 0
            assert client.lrange("list", 0, 2) == [b"1", b"2", b"3"]
            for number in range(20):
                assert client.lrange(f"queue{number}", 0, -1) == [b"2", b"3"]


def _told(caplog: pytest.LogCaptureFixture) -> bool:
    return any("datacenter b" in one.getMessage() and "was rolled back" in one.getMessage() for one in caplog.records)


@pytest.fixture
def pair(redis_server: StartServer, tmp_path: Path, proxy: Callable[[Server], Proxy]) -> Callable[..., Pair]:
    def make(version: str | None = None, **settings: Any) -> Pair:
        a, b = redis_server(version, **settings), redis_server(version, **settings)
        return Pair(a, b, proxy(b), tmp_path)

    return make


def copied(server: Server) -> Path:
    """A copy of its data, as a nightly job takes it."""
    server.control.save()
    return Path(shutil.copy(server.directory / "dump.rdb", server.directory / "old.rdb"))


def restored(server: Server, copy: Path) -> None:
    server.kill()
    shutil.copy(copy, server.directory / "dump.rdb")
    server.run()


@pytest.mark.parametrize("version", ["6.2", "7.0"])
@pytest.mark.parametrize("daemons", ["stay", "restart"])
def test_restored_from_an_old_file(
    pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture, version: str, daemons: str
) -> None:
    sides = pair(version)
    sides.start()
    sides.before()
    copy = copied(sides.b)
    sides.after()
    if daemons == "restart":
        sides.stop()
    restored(sides.b, copy)
    if daemons == "restart":
        sides.again()
        sides.start()
    sides.told(caplog)
    sides.follows()
    b = sides.b.client()
    b.mset({f"fresh{number}": "b" for number in range(100)})
    b.rpush("list", 4)
    sides.mended()
    sides.check()
    for client in (sides.a.control, b):
        assert set(client.mget(f"fresh{number}" for number in range(100))) == {b"b"}
        assert client.lrange("list", 0, -1) == [b"1", b"2", b"3", b"4"]
    sides.equal()
    sides.stop()


@pytest.mark.parametrize("version", ["6.2", "valkey-9.1"])
def test_failed_over_to_a_replica_that_lacked_writes(
    pair: Callable[..., Pair],
    redis_server: StartServer,
    proxy: Callable[[Server], Proxy],
    caplog: pytest.LogCaptureFixture,
    version: str,
) -> None:
    sides = pair(version)
    replica = replica_that_falls_behind(sides, redis_server(version), proxy)
    sides.after()
    promoted(sides, replica)
    sides.told(caplog)
    replica.control.incr("fresh")
    sides.mended()
    sides.check()
    assert sides.a.control.get("fresh") == b"1"
    assert sides.links["b-a"].status.full_resyncs == 1  # the history goes on from the fork
    sides.equal()
    sides.stop()


def replica_that_falls_behind(sides: Pair, replica: Server, proxy: Callable[[Server], Proxy]) -> Server:
    """A replica of b that has the state before, and nothing of what is written from here on."""
    to_master = proxy(sides.b)
    replica.client().replicaof("127.0.0.1", to_master.port)
    sides.start()
    sides.before()
    wait_until(lambda: replica.offset == sides.b.offset, 20, "the replica has all")
    to_master.stall("both")
    return replica


def promoted(sides: Pair, replica: Server) -> None:
    sides.b.kill()
    replica.client().replicaof("NO", "ONE")
    sides.b, sides.door.target = replica, replica.address
    sides.door.cut()


def test_only_the_link_out_of_it_can_tell(
    pair: Callable[..., Pair],
    redis_server: StartServer,
    proxy: Callable[[Server], Proxy],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It lost writes of its own and nothing else: the link into it hears of that by the mark."""
    sides = pair("7.0")
    replica = replica_that_falls_behind(sides, redis_server("7.0"), proxy)
    sides.b.control.set("b0", "new")
    wait_until(lambda: sides.a.control.get("b0") == b"new", 20, "b's write at a")
    sides.links["b-a"].stop()
    before = sides.links["a-b"].status.target_reconnects
    promoted(sides, replica)
    sides.links["a-b"].until(lambda: sides.links["a-b"].status.target_reconnects > before, 20, "the promoted server")
    sides.a.control.set("a0", "new")
    sides.links["a-b"].until(lambda: replica.control.get("a0") == b"new", 20, "it is written to")
    sides.links["b-a"] = sides.links["b-a"].again().start()
    sides.told(caplog)
    sides.mended()
    assert sides.b.control.get("b0") == sides.a.control.get("b0") == b"new"
    sides.equal()
    sides.stop()


def test_in_a_mesh_it_loses_against_both(
    redis_server: StartServer, proxy: Callable[[Server], Proxy], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = {name: redis_server("7.0") for name in "abc"}
    doors = {name: proxy(server) for name, server in servers.items()}
    links: dict[str, Link] = {}
    for one, other, third in permutations("abc"):
        options: dict[str, Any] = {"two_way": True, "direct": (third,), "datacenters": ("a", "b", "c")}
        links[f"{one}-{other}"] = link_between(doors[one], doors[other], tmp_path, f"{one}-{other}", **options)
    for link in links.values():
        link.start()
    for link in links.values():
        link.streaming()

    def everywhere(condition: Callable[[Any], bool], what: str) -> None:
        for server in servers.values():
            links["a-b"].until(lambda server=server: condition(server.client()), 60, what)

    for name, server in servers.items():
        server.control.mset({f"{name}{number}": "old" for number in range(50)})
        server.control.mset({f"gone:{name}{number}": "old" for number in range(50)})
    everywhere(lambda client: client.dbsize() >= 300, "all keys")
    copy = copied(servers["b"])
    for name, server in servers.items():
        server.control.mset({f"{name}{number}": "new" for number in range(50)})
        server.control.delete(*(f"gone:{name}{number}" for number in range(50)))
    everywhere(
        lambda client: not client.exists(*(f"gone:{name}{number}" for name in "abc" for number in range(50))), ""
    )
    restored(servers["b"], copy)
    links["b-a"].until(lambda: _told(caplog), 60, "b's loss is told")
    for name in "ac":
        marked = servers[name].control.exists
        links[f"{name}-b"].until(lambda name=name, marked=marked: not marked(rollback_key("b")), 120, "equal again")

    def as_it_was(client: Any) -> bool:
        keys = [f"{name}{number}" for name in "abc" for number in range(50)]
        return set(client.mget(keys)) == {b"new"} and not client.exists(*(f"gone:{key}" for key in keys))

    everywhere(as_it_was, "what b had lost")
    for link in links.values():
        link.stop()


def test_what_waited_for_its_echo_waits_until_the_side_was_looked_at(
    pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in a mesh: conflicts from before, echoed as soon as it was back, made its old state a new write."""
    sides = pair("7.0")
    sides.start()
    sides.before()
    copy = copied(sides.b)
    sides.after()
    goes_on = threading.Event()

    def late(judge: Callable[..., Any]) -> Callable[..., Any]:
        async def judged(*arguments: Any) -> Any:
            await asyncio.to_thread(goes_on.wait, 60)
            return await judge(*arguments)

        return judged

    for name in ("judge_target", "judge_snapshot"):
        monkeypatch.setattr(Rollback, name, late(getattr(Rollback, name)))
    waiting = [(0, b"b%d" % number) for number in range(100)]
    sides.b.kill()
    echoers = [sides.links["a-b"].converge.echoes.target, sides.links["b-a"].converge.echoes.source]
    for link, echoer in zip(sides.links.values(), echoers, strict=True):
        link.in_loop(echoer.ask, waiting)
    restored(sides.b, copy)
    for echoer in echoers:
        wait_until(lambda echoer=echoer: echoer.stranger, 30, "it has met the server that is back")
    goes_on.set()
    sides.told(caplog)
    sides.follows()
    sides.mended()
    sides.check()
    for echoer in echoers:
        wait_until(lambda echoer=echoer: not echoer._wanted, 30, "what waited was echoed in the end")
    sides.equal()
    sides.stop()


def test_a_crash_in_between_is_no_loss(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    """The evidence is gone once the links have gone on; what was found stands in the healthy side."""
    sides = pair("7.0")
    sides.start()
    sides.before()
    copy = copied(sides.b)
    sides.after()
    sides.links["a-b"].call("pause")  # it is told of, and nothing is compared
    sides.links["a-b"].until(lambda: sides.links["a-b"].status.paused, 10, "a pause")
    restored(sides.b, copy)
    sides.told(caplog)
    sides.follows()
    sides.stop()
    assert sides.a.control.exists(rollback_key("b"))
    for link in sides.links.values():
        (link.config.state_dir / "reunion.json").unlink(missing_ok=True)  # another node has not got it
    caplog.clear()
    sides.again()
    sides.start()
    sides.mended()
    sides.check()
    sides.equal()
    sides.stop()


@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_a_restart_is_no_rollback(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture, version: str) -> None:
    sides = pair(version, save="3600 1000000")
    sides.start()
    sides.before()
    sides.after()
    for server in (sides.a, sides.b):
        server.restart()
        for link in sides.links.values():
            link.streaming()
        sides.a.control.set("since", server.port)
        sides.in_step()
    sides.check()
    never(sides, caplog)


def test_a_failover_without_loss_is_no_rollback(
    pair: Callable[..., Pair], redis_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    sides, replica = pair("7.0"), redis_server("7.0")
    replica.client().replicaof(*sides.b.address)
    sides.start()
    sides.before()
    sides.after()
    wait_until(lambda: replica.offset == sides.b.offset, 20, "the replica has all")
    promoted(sides, replica)
    sides.links["b-a"].more("partial_resyncs")
    replica.control.incr("fresh")
    sides.in_step()
    sides.check()
    never(sides, caplog)


def test_a_server_that_lost_everything_is_filled_again(
    pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture
) -> None:
    """No checkpoint, no old state."""
    sides = pair("7.0")
    sides.start()
    sides.before()
    sides.after()
    sides.b.kill()
    sides.b.run()
    for link in sides.links.values():
        link.streaming()
    sides.links["a-b"].until(lambda: sides.b.control.dbsize() >= sides.a.control.dbsize() - 2, 30, "it is filled")
    wait_until(lambda: not (sides.links["b-a"].config.state_dir / "reunion.json").exists(), 60, "all is compared")
    sides.in_step()
    sides.check()
    never(sides, caplog)


def test_a_server_without_checkpoints_is_met_anew(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    sides = pair("7.0")
    sides.start()
    sides.before()
    sides.after()
    sides.stop()
    sides.b.control.delete(*sides.b.control.keys("redis-canal:*"))
    sides.again()
    sides.start()
    sides.in_step()
    sides.check()
    never(sides, caplog)


def never(sides: Pair, caplog: pytest.LogCaptureFixture) -> None:
    assert not _told(caplog)
    assert not any(link.status.rolled_back for link in sides.links.values())
    assert not sides.a.control.exists(rollback_key("b")) and not sides.b.client().exists(rollback_key("a"))
    sides.equal()
    sides.stop()
