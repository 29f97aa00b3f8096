"""Differences of every kind are found and repaired while writes go on, and nothing else is reported or touched."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from canal.endpoint import parse_url
from sync.tag import checkpoint_key
from sync.verify import Options, Report, compare
from sync.verify.repair import Remedy, choose_means, repair
from tests.conftest import StartServer
from tests.integration.test_cli_verify import call
from tests.support.links import Link, LinkProcess
from tests.support.peak import measured
from tests.support.process import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers
FULL = os.environ.get("REDIS_CANAL_FULL") == "1"
KEYS = 12_000
FAR = 4_000_000_000_000


def populate(client: redis.Redis, count: int, db: int = 0) -> None:
    """Keys of all types, of which `spoil` finds enough of each."""
    pipe = client.pipeline(transaction=False)
    for number in range(count):
        match number % 12:
            case 0:
                pipe.rpush(f"list:{number}", *range(5))
            case 1:
                pipe.sadd(f"set:{number}", *range(5))
            case 2:
                pipe.zadd(f"zset:{number}", {"a": number / 7, "b": 1e15 + number / 8, "c": -number})
            case 3:
                pipe.hset(f"hash:{number}", mapping={"a": number, "b": "x", "c": "y"})
            case 4 if number < 5000:
                pipe.xadd(f"stream:{number}", {"f": number}, id="1-1")
                pipe.xgroup_create(f"stream:{number}", "g", id="0")
            case 5:
                pipe.set(f"ttl:{number}", number, pxat=FAR)
            case _:
                pipe.set(f"string:{number}", f"value {number}")
        if number % 5000 == 4999:
            pipe.execute()
    pipe.execute()


Spoil = Callable[[redis.Redis, bytes], object]
SPOILS: dict[str, tuple[str, str, Spoil]] = {
    "missing": ("string", "missing", lambda client, key: client.delete(key)),
    "type": ("string", "type", lambda client, key: client.pipeline().delete(key).rpush(key, "a").execute()),
    "value": ("string", "value", lambda client, key: client.setrange(key, 0, "V")),
    "element": ("list", "value", lambda client, key: client.lset(key, 4, "other")),
    "member": ("set", "value", lambda client, key: client.pipeline().srem(key, 4).sadd(key, "x").execute()),
    "field": ("hash", "value", lambda client, key: client.hset(key, "b", "z")),
    "score": ("zset", "value", lambda client, key: client.zadd(key, {"b": math.nextafter(_score(client, key), 0)})),
    "ttl": ("ttl", "ttl", lambda client, key: client.pexpireat(key, FAR - 2)),
    "no ttl": ("ttl", "ttl", lambda client, key: client.persist(key)),
    "group": ("stream", "value", lambda client, key: client.xgroup_setid(key, "g", "1-1")),
    "pending": ("stream", "value", lambda client, key: client.xreadgroup("g", "me", {key: ">"})),
}


def _score(client: redis.Redis, key: bytes) -> float:
    found = client.zscore(key, "b")
    assert found is not None
    return float(found)


def spoil(client: redis.Redis, each: int = 9) -> dict[bytes, str]:
    """Plant differences at the second side; which key has to be told as what. One hundred and more in all."""
    chance = random.Random(7)
    expected: dict[bytes, str] = {}
    keys: dict[str, list[bytes]] = {}
    for key in client.scan_iter(count=5000):
        if not key.startswith((b"busy:", b"redis-canal:")):
            keys.setdefault(key.partition(b":")[0].decode(), []).append(key)
    for prefix, kind, how in SPOILS.values():
        for key in chance.sample(sorted(set(keys[prefix]) - expected.keys()), each):
            how(client, key)
            expected[key] = kind
    for number in range(each):
        client.set(f"extra:{number}", number)
        expected[b"extra:%d" % number] = "extra"
    client.function_load("#!lua name=extra\nredis.register_function('f', function() return 0 end)")
    expected[b"extra"] = "function"
    return expected


@contextlib.contextmanager
def busy(server: Server, rate: int) -> Iterator[list[int]]:
    """``rate`` commands a second to the server, of kinds that one too many or too few of shows for good."""
    stop, written = threading.Event(), [0]

    def write() -> None:
        client, chance = server.client(), random.Random(3)
        began = time.monotonic()
        while not stop.is_set():
            pipe = client.pipeline(transaction=False)
            for _ in range(50):
                number = chance.randrange(500)
                pipe.incr(f"busy:counter:{number}")
                pipe.rpush(f"busy:list:{number}", number)
                pipe.ltrim(f"busy:list:{number}", -20, -1)
                pipe.hincrby(f"busy:hash:{number}", f"f{chance.randrange(9)}", 1)
                pipe.set(f"busy:ttl:{number}", number, ex=100)
            pipe.execute()
            written[0] += 250
            stop.wait(max(0.0, began + written[0] / rate - time.monotonic()))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def linked(redis_server: StartServer, tmp_path: Path) -> Iterator[tuple[Server, Server, Link]]:
    first, second = redis_server(), redis_server()
    populate(first.control, KEYS)
    with Link(first, second, tmp_path) as link:
        link.streaming(300)
        link.in_step(first, 300)
        yield first, second, link


async def look(first: Server, second: Server, rounds: int = 3) -> Report:
    return await compare(parse_url(first.url), parse_url(second.url), Options(rounds=rounds, pause_s=0.3))


def kinds(report: Report) -> dict[bytes, str]:
    return {one.key: one.kind for one in report.differences}


@pytest.mark.slow
@pytest.mark.parametrize("means", ["echo", "write"])
async def test_planted_differences_are_found_and_repaired_while_writes_go_on(
    linked: tuple[Server, Server, Link], means: str
) -> None:
    first, second, link = linked
    expected = spoil(second.control)
    assert len(expected) > 100
    ends = parse_url(first.url), parse_url(second.url)
    assert await choose_means(*ends) == "echo"
    with busy(first, 2000) as written:
        report = await look(first, second)
        assert written[0] > 0
        assert kinds(report) == expected
        remedy = Remedy("echo" if means == "echo" else "write")
        after = await repair(*ends, Options(rounds=3, pause_s=0.3), report, remedy)
        assert after.differences == []
        assert after.repaired == len(expected)
    link.in_step(first)
    final = await look(first, second)
    assert final.differences == [] and final.unsettled == 0


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="REDIS_CANAL_FULL=1")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("means", ["echo", "write"])
def test_a_million_keys_with_ten_thousand_writes_a_second(
    redis_server: StartServer, tmp_path: Path, means: str
) -> None:
    """The command as a process of its own: what it finds, how long it takes, and its memory."""
    first, second = redis_server(**{"repl-backlog-size": "256mb"}), redis_server()
    populate(first.control, 1_000_000)
    command = ("verify", "--source", first.url, "--target", second.url)
    with LinkProcess(first, second, tmp_path):
        wait_until(lambda: second.control.dbsize() >= 1_000_000, 300, "the snapshot is applied")
        expected = spoil(second.control)
        with busy(first, 10_000) as written:
            began, before = time.monotonic(), written[0]
            found, memory = _measured(*command)
            rate = (written[0] - before) / (time.monotonic() - began)
            assert {one["key"].encode(): one["kind"] for one in found["differences"]} == expected
            began = time.monotonic()
            repaired, more = _measured(*command, "--repair", "--yes", "--by", means)
            took = time.monotonic() - began
            assert (repaired["found"], repaired["repaired"]) == (0, len(expected))
        wait_until(lambda: _applied(second) >= first.offset, 60, "in step")
        final, _ = _measured(*command)
        assert final["equal"] and final["unsettled"] == 0
    assert max(memory, more) < 64, f"{memory:.0f} and {more:.0f} MB"  # 36: what it imports, 4 bytes a key, some pages
    print(
        f"\n{found['keys']:,} keys compared in {found['seconds']:.1f} s in {memory:.0f} MB while {rate:,.0f} commands/s"
        f" went on, {found['unsettled']} unsettled; {len(expected)} differences found; compared and repaired"
        f" by {means} in {took:.1f} s in {more:.0f} MB; at rest compared in {final['seconds']:.1f} s"
    )


def _applied(target: Server) -> int:
    """How far the link has applied its source's stream."""
    found = target.control.hget(checkpoint_key("test", "0"), "pos")
    return int((found or b":-1").partition(b":")[2])


def _measured(*arguments: str) -> tuple[dict[str, Any], float]:
    """What `redis-canal` found, and the most memory it had, in MB."""
    text, memory = measured(*arguments, "-o", "json")
    found: dict[str, Any] = json.loads(text)
    return found, memory


async def test_a_key_that_is_written_all_the_time_is_repaired_by_writes_exactly(
    linked: tuple[Server, Server, Link],
) -> None:
    """An INCR between reading and writing would be there twice, or not at all."""
    first, second, link = linked
    first.control.mset({f"n{number}": 0 for number in range(20)})
    link.in_step(first)
    second.control.mset({f"n{number}": 1_000_000 for number in range(20)})
    report = await look(first, second, rounds=1)
    assert report.found == 20
    stop = threading.Event()

    def count() -> None:
        client = first.client()
        while not stop.wait(0.005):
            for number in range(20):
                client.incr(f"n{number}")

    thread = threading.Thread(target=count)
    thread.start()
    try:
        ends = parse_url(first.url), parse_url(second.url)
        await repair(*ends, Options(rounds=2, pause_s=0.2), report, Remedy("write"))
    finally:
        stop.set()
        thread.join()
    link.in_step(first)
    assert (await look(first, second, rounds=2)).differences == []


async def test_a_key_that_never_rests_does_not_count_as_repaired(redis_server: StartServer) -> None:
    first, second = redis_server(), redis_server()
    first.control.mset({"calm": 1, "restless": 1})
    report = await look(first, second, rounds=1)
    assert report.found == 2
    number = 0

    def change(_: Report) -> None:
        nonlocal number
        number += 1
        first.control.set("restless", f"first {number}")
        second.control.mset({"restless": f"second {number}", "calm": 1})

    remedy = Remedy("echo", progress=change)
    ends = parse_url(first.url), parse_url(second.url)
    left = await repair(*ends, Options(rounds=3, pause_s=0.01, patience=2), report, remedy)
    assert [one.key for one in left.differences] == [b"restless"]
    assert (left.repaired, left.found) == (1, 1)


def test_the_command_says_what_it_will_do_asks_and_repairs(redis_server: StartServer) -> None:
    first, second = redis_server(), redis_server()
    first.control.mset({f"k{number}": number for number in range(20)})
    second.control.set("extra", 1)
    arguments = ("verify", "--source", first.url, "--target", second.url, "--pause", "0.05", "--repair")
    asked = call(*arguments)
    assert asked.returncode == 130 and second.control.dbsize() == 1  # nobody said yes
    assert f"the state of 21 keys at {first.url} is written to {second.url}" in asked.stderr
    done = call(*arguments, "--yes")
    assert (done.returncode, done.stdout) == (0, "")
    assert "equal, 21 repaired" in done.stderr
    assert second.control.keys("extra") == [] and second.control.dbsize() == 20


def test_the_other_side_wins_where_it_is_home(redis_server: StartServer, tmp_path: Path) -> None:
    first, second = redis_server(), redis_server()
    names = {"two_way": True, "snapshot_existing": "target"}
    there = Link(first, second, tmp_path, task="ab", source_dc="a", target_dc="b", **names)
    back = Link(second, first, tmp_path, task="ba", source_dc="b", target_dc="a", **names)
    with there, back:
        there.streaming()
        back.streaming()
        first.control.mset({f"k{number}": 0 for number in range(40)})
        there.in_step(first)
        _part(first, second)
        hashed = ("--home", "hash", "--source-dc", "a", "--target-dc", "b", "--yes", "--by", "echo", "--pause", "0.2")
        done = call("verify", "--source", first.url, "--target", second.url, "--repair", *hashed)
        assert done.returncode == 0, done.stderr
        assert "written again in place, and the links bring them to the other side" in done.stderr
        values = {int(value) for value in first.control.mget(f"k{number}" for number in range(40))}
        assert values == {1, 2}  # some keys are at home here, some there


def _part(first: Server, second: Server) -> None:
    """Different values on each side, written so that no link carries them: as tagged transactions of the other, which
    had seen everything, so that there is no conflict either.
    """
    for server, origin, value in ((first, "b", 1), (second, "a", 2)):
        pipe = server.control.pipeline(transaction=True)
        seen = f"{'a' if origin == 'b' else 'b'}={server.replid[:16]}:{1 << 50}"
        tag = {"v": 1, "origin": origin, "pos": f"{'0' * 40}:1", "seen": seen}
        pipe.hset("redis-canal:checkpoint:other/0", mapping=tag)
        for number in range(40):
            pipe.set(f"k{number}", value)
        pipe.execute()
