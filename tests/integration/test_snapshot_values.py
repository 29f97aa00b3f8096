"""How a snapshot's values reach the target: whole or in pieces, within memory, at a rate, by which way, and how far."""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal, wait_equal
from tests.support.links import MODES, RUN, Link, LinkProcess
from tests.support.process import ROOT, end, spawn, wait_until
from tests.support.servers import Server
from tests.support.wire import Wire

pytestmark = pytest.mark.servers

LENGTHS = {
    "list": ("LLEN", 30_000),
    "set": ("SCARD", 30_000),
    "hash": ("HLEN", 30_000),
    "zset": ("ZCARD", 30_000),
    "stream": ("XLEN", 20_000),
    "string": ("STRLEN", 3_000_000),
}


def fill_collections(server: Server, sizes: dict[str, int]) -> None:
    """One value of each type, of so many elements, under its type's name."""
    with Wire(server) as wire:
        for start in range(0, max(sizes.values()), 5000):
            these = {kind: range(start, min(start + 5000, size)) for kind, size in sizes.items() if size > start}
            if "list" in these:
                wire.ask("RPUSH", "list", *(b"element %d" % n for n in these["list"]))
            if "set" in these:
                wire.ask("SADD", "set", *(b"member %d" % n for n in these["set"]))
            if "hash" in these:
                wire.ask("HSET", "hash", *(part for n in these["hash"] for part in (b"field %d" % n, n)))
            if "zset" in these:
                wire.ask("ZADD", "zset", *(part for n in these["zset"] for part in (n / 3, b"member %d" % n)))
            if "stream" in these:
                wire.call([("XADD", "stream", f"{n + 1}-1", "f", n) for n in these["stream"]])


class Lengths:
    """Asks for the lengths of values all the time; `seen` holds every answer."""

    def __init__(self, server: Server) -> None:
        self._wire = Wire(server)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: dict[str, set[Any]] = {kind: set() for kind in LENGTHS}

    def __enter__(self) -> Lengths:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._wire.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for kind, answer in zip(
                LENGTHS, self._wire.call([(command, kind) for kind, (command, _) in LENGTHS.items()]), strict=True
            ):
                self.seen[kind].add(answer)


@pytest.mark.parametrize("writer", MODES)
@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_readers_see_the_old_value_or_the_new_one(
    redis_server: StartServer, tmp_path: Path, version: str, writer: str
) -> None:
    """In pieces, because they are long, or because the target does not know their encoding."""
    source, target = redis_server("7.0"), redis_server(version)
    fill_collections(source, {kind: size for kind, (_, size) in LENGTHS.items() if kind != "string"})
    source.client().set("string", random.Random(1).randbytes(LENGTHS["string"][1]))
    source.client().pexpire("hash", 10**9)
    fill_collections(target, {kind: 7 for kind in LENGTHS if kind != "string"})
    target.client().set("string", "old one")
    with (
        Lengths(target) as readers,
        Link(
            source, target, tmp_path, writer=writer, snapshot_stale_keys="delete", snapshot_big_key_bytes=100_000
        ) as link,
    ):
        link.streaming()
        assert link.status.snapshot.keys_decoded == len(LENGTHS)
        assert link.status.snapshot.choices["string, long"] == "commands in pieces: over 100000 bytes"
        wait_until(lambda: all(LENGTHS[kind][1] in seen for kind, seen in readers.seen.items()), 10)
    assert {kind: sorted(seen) for kind, seen in readers.seen.items()} == {
        kind: [7, size] for kind, (_, size) in LENGTHS.items()
    }
    assert_equal(source, target)
    assert target.client().dbsize() == source.client().dbsize() + len(list(target.client().scan_iter("redis-canal:*")))


LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@pytest.mark.slow
def test_values_larger_than_memory_allows(redis_server: StartServer, tmp_path: Path) -> None:
    """A list and a string of 256 MiB each, by a process that may not have as much."""
    source, target = redis_server(), redis_server()
    chance = random.Random(7)
    block = chance.randbytes(1 << 20)
    with Wire(source) as wire:
        for number in range(256):
            wire.call([("RPUSH", "list", block[number:] + b"%d" % number), ("APPEND", "string", block[number:])])
    arguments = ("--source", source.url, "--target", target.url, "--state-dir", str(tmp_path), "--big-key-bytes", "4m")
    limit = 240 << 20
    argv = [sys.executable, "-c", LIMITED, str(limit), *RUN[1:], *arguments]
    with (tmp_path / "log").open("wb") as log:
        process = spawn(argv, stdout=log, stderr=log, cwd=ROOT, env={"MALLOC_ARENA_MAX": "1"})
    try:
        wait_until(
            lambda: process.poll() is not None or "-> streaming" in (tmp_path / "log").read_text(),
            100,
            "all is applied",
        )
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        peak = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0]) << 10
    finally:
        end(process)
    assert peak < 120 << 20, f"{peak >> 20} MiB"
    assert target.client().llen("list") == 256
    assert_equal(source, target)


def test_a_rate_is_kept(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("SET", f"k:{n}", random.Random(n).randbytes(1000)) for n in range(4000)])
    began = time.monotonic()
    with Link(source, target, tmp_path, snapshot_max_bytes_per_second=2_000_000) as link:
        link.until(lambda: link.status.snapshot.keys_done > 500, 20)
        early = link.status.snapshot.bytes_done
        assert 0 < early < 3_500_000
        told = link.status.as_dict()["snapshot"]
        assert 0 < told["bytes_per_second"] < 3_500_000
        assert 0.2 < told["seconds_left"] < 10
        link.streaming()
    taken = time.monotonic() - began
    assert link.status.snapshot.bytes_done > 4_000_000
    assert taken > 1.8
    assert_equal(source, target)


def test_progress_and_choices_are_told(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server("7.0"), redis_server("6.2")
    with Wire(source) as wire:
        wire.call([("SET", f"k:{n}", n) for n in range(500)])
        wire.ask("HSET", "h", "f", "v")
        wire.ask("SADD", "s", "1", "2")
    with LinkProcess(source, target, tmp_path, "--http", "127.0.0.1:0", "-v") as link:
        wait_until(lambda: "-> streaming" in link.log, 30)
        found = re.search(r"listening on (http://\S+)", link.log)
        assert found is not None
        status = json.loads(_get(found[1] + "/status"))["snapshot"]
        metrics = _get(found[1] + "/metrics")
        log = link.log
    assert (status["keys_done"], status["keys_total"]) == (502, 502)
    assert (status["keys_restored"], status["keys_restamped"], status["keys_decoded"]) == (500, 1, 1)
    assert 0 < status["bytes_done"] == status["bytes_received"]
    assert 0 < status["started"] <= status["finished"]
    assert status["seconds_left"] == 0
    assert status["bytes_per_second"] > 0
    assert status["choices"] == {
        "string": "set",
        "intset": "restamp as version 9: Redis 6.2.14 does not load RDB version 10 of redis",
        "listpack": "commands: Redis 6.2.14 does not know the encoding listpack",
    }
    for encoding, choice in status["choices"].items():
        assert f"values encoded as {encoding} go by {choice}" in log
    for name in ("rediscanal_snapshot_keys", "rediscanal_snapshot_applied_bytes", "rediscanal_snapshot_applied_keys"):
        assert name in metrics


def _get(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("writer", MODES)
def test_a_target_that_refuses_one_key_of_many_gets_the_others(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    """One user of the target may not write one key: a dead letter, and everything else arrives. The gated writer waited
    for that permission for ever.
    """
    source, target = redis_server(), redis_server()
    with Wire(source) as wire:
        wire.call([("SET", f"k:{n}", n) for n in range(3000)])
        wire.ask("RPUSH", "forbidden", "a")
    target.client().acl_setuser(
        "canal", enabled=True, nopass=True, categories=["+@all"], keys=["k:*", "redis-canal:*"], channels=["*"]
    )
    url = target.url.replace("redis://", "redis://canal:any@")

    class There:
        pass

    there: Any = There()
    there.url = url
    with Link(source, there, tmp_path, on_error="continue", writer=writer) as link:
        link.streaming()
        assert link.status.dead_letters == 1
        source.client().incr("k:1")
        link.in_step(source)
    with Wire(target) as wire:
        assert wire.ask("DEL", "forbidden") == 0
    source.client().delete("forbidden")
    wait_equal(source, target, 5)
