"""Comparing large values in pieces, samples, going on after an interruption, keys that never rest, without scripts."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from canal.endpoint import parse_url
from canal.errors import ConfigError
from sync.verify import Options, Report, compare
from tests.conftest import StartServer
from tests.integration.test_cli_verify import call
from tests.support.servers import Server

pytestmark = pytest.mark.servers
SMALL = Options(rounds=1, max_bytes=50_000, max_weight=500)  # what is large begins early


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


async def look(pair: tuple[Server, Server], options: Options = SMALL, **more: Any) -> Report:
    return await compare(parse_url(pair[0].url), parse_url(pair[1].url), options, **more)


def grow(client: redis.Redis) -> None:
    """Values that are compared in pieces under SMALL."""
    client.set("string", b"x" * 3_000_000)
    client.rpush("list", *range(3000))
    client.sadd("set", *range(3000))
    client.zadd("zset", {f"m{number}": number / 7 for number in range(3000)})
    client.hset("hash", mapping={f"f{number}": number for number in range(3000)})
    for number in range(1, 1200):
        client.xadd("stream", {"n": number}, id=f"1-{number}")
    client.xgroup_create("stream", "g", id="0")
    client.xreadgroup("g", "me", {"stream": ">"}, count=300)


SPOILED = {
    "string": lambda client: client.setrange("string", 2_500_000, "y"),
    "list": lambda client: client.lset("list", 2500, "other"),
    "set": lambda client: (client.srem("set", 7), client.sadd("set", "other")),
    "zset": lambda client: client.zadd("zset", {"m2999": math.nextafter(2999 / 7, 1000)}),
    "hash": lambda client: client.hset("hash", "f2000", "other"),
    "stream": lambda client: client.xack("stream", "g", "1-250"),
}


async def test_large_values_are_compared_in_pieces(pair: tuple[Server, Server]) -> None:
    for server in pair:
        grow(server.control)
    assert (await look(pair)).differences == []
    for spoil in SPOILED.values():
        spoil(pair[1].control)
    report = await look(pair)
    assert {one.key.decode(): one.kind for one in report.differences} == dict.fromkeys(SPOILED, "value")
    assert "bytes differ from 2097152 on" in str(report.differences)


async def test_streams_alike_but_for_a_pending_entry(pair: tuple[Server, Server]) -> None:
    for server in pair:
        grow(server.control)
    for server, entry in zip(pair, ("1-100", "1-101"), strict=True):
        server.control.xack("stream", "g", entry)
    (one,) = (await look(pair)).differences
    assert one.key == b"stream" and "pending entries of group b'g' differ" in one.detail


async def test_a_large_string_that_is_longer_and_a_list_that_is_shorter(pair: tuple[Server, Server]) -> None:
    for server in pair:
        grow(server.control)
    pair[1].control.append("string", "z" * (1 << 20))
    pair[1].control.rpop("list")
    assert {one.key for one in (await look(pair)).differences} == {b"string", b"list"}


async def test_without_scripts_the_same_is_found(pair: tuple[Server, Server]) -> None:
    for server in pair:
        grow(server.control)
        server.control.mset({f"k{number}": number for number in range(100)})
        server.control.execute_command(
            "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@scripting", "+function|list"
        )
    pair[1].control.set("k5", "other")
    pair[0].control.pexpire("k6", 100_000)
    sides = [parse_url(server.url, username="reader", password="pw") for server in pair]
    report = await compare(*sides, SMALL)
    assert {one.key: one.kind for one in report.differences} == {b"k5": "value", b"k6": "ttl"}


async def test_large_hash_that_is_written_to_all_the_time_is_no_difference(pair: tuple[Server, Server]) -> None:
    """Each write reaches the second side a little later; the whole is never at rest."""
    for server in pair:
        grow(server.control)
    stop = threading.Event()

    def write() -> None:
        clients = [server.client() for server in pair]
        number = 0
        while not stop.is_set():
            number += 1
            for client in clients:
                client.hset("hash", f"f{number % 3000}", f"v{number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = await look(pair, Options(rounds=2, pause_s=0.05, max_bytes=50_000, max_weight=500))
    finally:
        stop.set()
        writer.join()
    assert report.differences == []


async def test_a_key_that_changes_from_look_to_look_is_told_as_unsettled(pair: tuple[Server, Server]) -> None:
    for server in pair:
        server.control.mset({"restless": 0, "odd": 0})
    pair[1].control.mset({"restless": 1, "odd": 1})
    number = 0

    def change(report: Report) -> None:
        nonlocal number
        number += 1
        pair[0].control.set("restless", f"first {number}")
        pair[1].control.set("restless", f"second {number}")

    report = await look(pair, Options(rounds=2, pause_s=0.01, patience=3), progress=change)
    assert [one.key for one in report.differences] == [b"odd"]
    assert (report.unsettled, report.rounds) == (1, 5)


async def test_a_sample_is_as_large_as_asked_for(pair: tuple[Server, Server]) -> None:
    for server in pair:
        server.control.mset({f"k{number}": number for number in range(5000)})
        server.client(db=4).mset({f"k{number}": number for number in range(5000)})
    report = await look(pair, Options(rounds=1, sample=400))
    assert report.equal
    assert 300 <= report.keys <= 402
    pair[1].control.flushall()
    report = await look(pair, Options(rounds=1, sample=400))
    assert {one.kind for one in report.differences} == {"missing"}
    assert report.found == report.keys


async def test_it_goes_on_where_it_was_interrupted(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.verify.comparison._SAVE_S", 0.0)
    for server in pair:
        server.control.mset({f"k{number}": number for number in range(2000)})
    pair[1].control.mset({f"k{number}": "other" for number in range(0, 2000, 100)})
    pair[0].control.delete("k1050")
    saved: list[dict[str, Any]] = []
    whole = await look(pair, Options(rounds=2, pause_s=0, page=20), save=lambda one: saved.append(one))
    assert len(whole.differences) == 21
    assert len(saved) > 10
    for mark in (saved[0], saved[len(saved) // 2], saved[-1]):
        again = json.loads(json.dumps(mark))
        rest = await look(pair, Options(rounds=2, pause_s=0, page=20), resume=again)
        assert rest.differences == whole.differences
        assert rest.keys == whole.keys  # nothing twice, nothing left out
    with pytest.raises(ConfigError, match="cannot be read"):
        await look(pair, resume={"version": 1})


async def test_a_rate_is_kept(pair: tuple[Server, Server]) -> None:
    for server in pair:
        server.control.mset({f"k{number}": number for number in range(1000)})
    began = asyncio.get_running_loop().time()
    report = await look(pair, Options(rounds=1, rate=1000, page=50))
    assert report.equal
    assert asyncio.get_running_loop().time() - began > 0.7  # 1000 keys; a tenth of a second's worth is free


def test_state_file_of_the_command(pair: tuple[Server, Server], tmp_path: Path) -> None:
    def verify(*more: str) -> subprocess.CompletedProcess[str]:
        return call("verify", "--source", pair[0].url, "--target", pair[1].url, "--state", str(file), *more)

    file = tmp_path / "state.json"
    assert verify().returncode == 0
    assert not file.exists()  # it is done
    file.write_text("{}")
    done = verify()
    assert done.returncode == 2 and "holds no comparison to go on with" in done.stderr
    file.write_text(json.dumps({"what": "another", "saved": {}}))
    done = verify()
    assert done.returncode == 2 and "is of another comparison" in done.stderr
    done = call("verify", "--source", pair[0].url, "--target", pair[1].url, "--sample", "5", "--pattern", "x*")
    assert done.returncode == 2 and "not both" in done.stderr
