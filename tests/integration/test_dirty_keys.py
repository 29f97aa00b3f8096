"""Both links lost beyond backlog and journal, with the keys noted that each side wrote meanwhile: a key that one side
alone wrote is that side's, its absence too, and one that both wrote its home's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from canal.endpoint import parse_url
from sync.dirtyfile import DirtyFile
from sync.dirtyset import DirtySet
from sync.dirtyshare import HEAD
from sync.homes import Homes
from sync.tag import INDEX
from sync.verify import Options, compare
from sync.windowfile import Boundary
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.links import LinkProcess, link_between
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

JOURNAL = {
    "journal_max_bytes": 4 << 20,
    "journal_segment_bytes": 512 << 10,
    "journal_retain_bytes": 0,
    "journal_retain_seconds": 0.0,
    "journal_tail_bytes": 128 << 10,
}
HOMES = Homes(("hash",), ("a", "b"))


class FarSides:
    """Two datacenters with a link each way, which stands beside its source; `lose` and `mend` the way between them."""

    def __init__(self, a: Server, b: Server, directory: Path, proxy: Callable[[Server], Proxy]) -> None:
        self.servers = {"a": a, "b": b}
        self.doors = {"ab": proxy(b), "ba": proxy(a)}
        self.links = {
            "ab": link_between(a, self.doors["ab"], directory, "a-b", two_way=True, **JOURNAL),
            "ba": link_between(b, self.doors["ba"], directory, "b-a", two_way=True, **JOURNAL),
        }

    def client(self, name: str) -> redis.Redis:
        return self.servers[name].control

    def start(self) -> None:
        for link in self.links.values():
            link.start()
        for link in self.links.values():
            link.streaming()
        for name in "ab":
            self.client(name).set(f"seen:{name}", name)
        for link in self.links.values():  # what the other side has seen of the snapshots is known
            link.until(lambda link=link: floor(link) == -1, 30, "the other side has seen the snapshot")

    def settled(self) -> None:
        """All reunions are over and everything is applied."""
        for name, link in self.links.items():
            due = link.config.state_dir / "reunion.json"
            link.until(lambda link=link, due=due: not due.exists() and link.status.reunion == "", 120, name)
        for _ in range(3):  # an echo of one side goes through the other
            self.links["ab"].in_step(self.servers["a"])
            self.links["ba"].in_step(self.servers["b"])

    def lose(self) -> None:
        for name, door in self.doors.items():
            door.refuse()
            door.cut()
            link = self.links[name]
            link.until(lambda link=link: not link.status.target_connected, 30, f"{name} is cut")

    def fill(self, *names: str) -> None:
        """More than the journal takes, and than the source's backlog holds; all of it is noted."""
        for name in names:
            link, client, server = self.links[name], self.client(name[0]), self.servers[name[0]]
            for number in range(100):
                if link.status.journal_full is not None:
                    break
                client.set(f"filler:{name}", chr(97 + number % 26) * 200_000)
                goal = server.offset
                link.until(lambda link=link, goal=goal: link.status.source_offset >= goal or full(link), 20, "taken")
            link.until(lambda link=link: full(link), 20, f"the journal of {name} is full")
            self.noted(name)
            for number in range(20):
                client.set(f"filler:{name}", chr(97 + number % 26) * 200_000)
            self.noted(name)

    def noted(self, *names: str) -> None:
        """All that the source has written by now is noted."""
        for name in names:
            link, goal = self.links[name], self.servers[name[0]].offset
            link.until(lambda link=link, goal=goal: noted(link) >= goal, 30, f"{name} has noted all up to {goal}")

    def mend(self) -> None:
        before = {name: link.status.full_resyncs for name, link in self.links.items()}
        for door in self.doors.values():
            door.accept()
        for name, link in self.links.items():
            link.until(lambda link=link, name=name: link.status.full_resyncs > before[name], 60, "a full resync")
            link.until((link.config.state_dir / "reunion.json").exists, 60, "a reunion is due")

    def close(self) -> None:
        for link in self.links.values():
            link.stop()


def full(link: Any) -> bool:
    return link.status.journal_full is not None


def members(server: Server, name: bytes) -> set[bytes]:
    found: Any = server.control.smembers(name)
    return set(found)


def floor(link: Any) -> int | None:
    found = Boundary.load(link.config.state_dir)
    return None if found is None else found.floor


def noted(link: Any) -> int:
    """The offset up to which keys are noted."""
    said: str = link.status.dirty
    return int(said.rpartition(":")[2]) if said.startswith("known up to") else 0


@pytest.fixture
def sides(redis_server: StartServer, tmp_path: Path, proxy: Callable[[Server], Proxy]) -> FarSides:
    a, b = (redis_server("7.0", repl_backlog_size="1mb") for _ in range(2))
    return FarSides(a, b, tmp_path, proxy)


Writes = dict[str, str | None]
"""What is set, and what is deleted (None)."""


def outage(prefix: str, disputed: bool = True) -> tuple[dict[str, str], dict[str, Writes], Writes]:
    """(what both have before, what each does meanwhile, what both must have in the end)."""
    before: dict[str, str] = {}
    done: dict[str, Writes] = {"a": {}, "b": {}}
    after: Writes = {}
    for number in range(20):
        key = f"{prefix}:untouched:{number}"
        before[key] = after[key] = "both"
        for side, other in (("a", "b"), ("b", "a")):
            for what, value in (("deleted", None), ("overwritten", side), ("made", side)):
                key = f"{prefix}:{what}:{side}:{number}"
                done[side][key] = after[key] = value
                if what != "made":
                    before[key] = "both"
            if not disputed:
                continue
            key = f"{prefix}:deleted and overwritten:{side}:{number}"
            before[key], done[side][key], done[other][key] = "both", None, other
            after[key] = done[HOMES.home((0, key.encode()))][key]
        if not disputed:
            continue
        key = f"{prefix}:both:{number}"
        before[key], done["a"][key], done["b"][key] = "both", "a", "b"
        after[key] = HOMES.home((0, key.encode()))
    return before, done, after


def put(servers: dict[str, Server], writes: dict[str, Writes]) -> None:
    """At each side what is written there."""
    for name, keys in writes.items():
        client = servers[name].control
        client.mset({key: value for key, value in keys.items() if value is not None})
        for key in [key for key, value in keys.items() if value is None]:
            client.delete(key)


def check(servers: dict[str, Server], after: Writes) -> None:
    for name, server in servers.items():
        found: Any = server.control.mget(list(after))
        wrong = {
            key: (value, one)
            for (key, value), one in zip(after.items(), found, strict=True)
            if one != (None if value is None else value.encode())
        }
        assert wrong == {}, f"at {name}: {{key: (expected, found)}} {wrong}"


def equal(sides: FarSides) -> None:
    first, second = (parse_url(server.url) for server in sides.servers.values())
    report = asyncio.run(compare(first, second, Options(rounds=4, pause_s=0.5)))
    assert report.differences == [] and report.unsettled == 0


def nothing_left(sides: FarSides) -> None:
    """Neither on disk nor at the servers, nor in the status."""
    for link in sides.links.values():
        link.until(lambda link=link: link.status.dirty == "", 20, "nothing is noted any more")
        assert not (link.config.state_dir / "dirty.log").exists()
    for server in sides.servers.values():
        assert [name for name in members(server, INDEX) if name.startswith(HEAD)] == []
        assert list(server.control.scan_iter(HEAD + b"*")) == []


def test_what_one_side_alone_wrote_is_that_sides(sides: FarSides) -> None:
    sides.start()
    early, first, expected = outage("journal", disputed=False)
    late, second, more = outage("beyond")
    sides.client("a").mset(early | late)
    sides.links["ab"].in_step(sides.servers["a"])
    sides.lose()
    put(sides.servers, first)
    sides.fill("ab", "ba")
    put(sides.servers, second)
    sides.noted("ab", "ba")
    stop, during = threading.Event(), {"a": 0, "b": 0}

    def write(name: str) -> None:
        client = sides.servers[name].client()
        while not stop.wait(0.01):
            client.set(f"during:{name}:{during[name]}", name)
            client.incr(f"count:{name}")
            during[name] += 1

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    try:
        sides.mend()
        wait_until(lambda: min(during.values()) > 100, 60, "writes during the resync")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    sides.settled()
    check(sides.servers, expected | more)
    for name, count in during.items():
        for client in map(sides.client, "ab"):
            assert int(client.get(f"count:{name}") or 0) == count
            assert client.exists(*(f"during:{name}:{number}" for number in range(count))) == count
    equal(sides)
    nothing_left(sides)
    sides.close()


class Daemons:
    """The same two links as daemons, which can be killed."""

    def __init__(self, a: Server, b: Server, directory: Path, proxy: Callable[[Server], Proxy]) -> None:
        self.servers = {"a": a, "b": b}
        self.doors = [proxy(b), proxy(a)]
        self.directory = directory
        self.links = {
            here: LinkProcess(
                *(source, door, directory, "--two-way", "--source-dc", here, "--target-dc", there),
                *("--max-journal-bytes", "4m"),
                name=f"{here}-{there}",
            )
            for here, there, source, door in (("a", "b", a, self.doors[0]), ("b", "a", b, self.doors[1]))
        }

    def file(self, name: str, of: str) -> Path | None:
        return next((self.directory / "state").glob(f"**/{self.links[name].log_file.stem}/**/{of}"), None)

    def noted(self) -> None:
        """All that the sources have written by now is on the daemons' disks."""
        for name, server in self.servers.items():
            goal = server.offset

            def far(name: str = name, goal: int = goal) -> bool:
                path = self.file(name, "dirty.log")
                found = None if path is None else DirtyFile(path.parent).load(DirtySet())
                return found is not None and not found.lost and found.position.offset >= goal

            wait_until(far, 30, f"{name} has noted all up to {goal}")

    def fill(self) -> None:
        """More than the journals take, and less than the backlogs hold."""
        for server in self.servers.values():
            for number in range(5):
                server.control.set("filler", chr(97 + number) * 1_000_000)
        for link in self.links.values():
            wait_for_word(link, "the journal cannot take more")
        self.noted()

    def overflow(self) -> None:
        """More than the backlogs hold."""
        for server in self.servers.values():
            for number in range(10):
                server.control.set("filler", chr(97 + number) * 1_000_000)
            server.control.delete("filler")
        self.noted()

    def close(self) -> None:
        for link in self.links.values():
            link.terminate()


def wait_for_word(link: LinkProcess, words: str) -> None:
    wait_until(lambda: words in link.log, 60, f"{link.log_file.stem} says: {words}")


@pytest.mark.slow
def test_daemons_that_are_killed_while_keys_are_noted_miss_none(
    redis_server: StartServer, tmp_path: Path, proxy: Callable[[Server], Proxy]
) -> None:
    a, b = (redis_server("7.0", repl_backlog_size="8mb") for _ in range(2))
    daemons = Daemons(a, b, tmp_path, proxy)
    before: dict[str, str] = {}
    expected: Writes = {}
    phases = []
    for prefix in ("noted", "away", "again"):
        early, meanwhile, after = outage(prefix, disputed=prefix == "again")  # the journals may take the others
        before |= early
        expected |= after
        phases.append(meanwhile)
    try:
        wait_until(lambda: a.sync_full == b.sync_full == 1, 30, "both have taken their snapshot")
        a.control.mset(before)
        b.control.set("seen", "b")
        wait_until(lambda: b.control.exists("again:both:0") and a.control.exists("seen"), 30, "both sides are in step")
        wait_until(lambda: all(seen_all(daemons, name) for name in "ab"), 30, "the other side has seen the snapshot")
        for door in daemons.doors:
            door.refuse()
            door.cut()
        daemons.fill()
        put(daemons.servers, phases[0])
        daemons.noted()
        for link in daemons.links.values():
            link.kill()
        put(daemons.servers, phases[1])
        for link in daemons.links.values():
            link.start()
        daemons.noted()
        daemons.overflow()
        put(daemons.servers, phases[2])
        daemons.noted()
        for door in daemons.doors:
            door.accept()
        for link in daemons.links.values():
            wait_for_word(link, "both sides are equal after the resync")
        wait_equal(a, b, 20)
        check(daemons.servers, expected)
    finally:
        daemons.close()


def seen_all(daemons: Daemons, name: str) -> bool:
    path = daemons.file(name, "window.json")
    found = None if path is None else Boundary.load(path.parent)
    return found is not None and found.floor == -1


def test_where_the_noting_has_a_gap_nothing_is_deleted(sides: FarSides) -> None:
    """FLUSHDB of another database: no telling which keys of it were there. What is known of the other side is of no
    use alone.
    """
    sides.start()
    before, meanwhile, _ = outage("k")
    sides.client("a").mset(before)
    sides.links["ab"].in_step(sides.servers["a"])
    sides.lose()
    sides.fill("ab", "ba")
    put(sides.servers, meanwhile)
    sides.noted("ab", "ba")
    sides.servers["a"].client(db=3).flushdb()
    link = sides.links["ab"]
    link.until(lambda: link.status.dirty.startswith("not known: FLUSHDB"), 20, "it is said that nothing is known")
    sides.mend()
    sides.settled()
    equal(sides)
    for name in "ab":
        assert sides.client(name).exists(*before) == len(before)  # absence deletes nothing
    nothing_left(sides)
    sides.close()
