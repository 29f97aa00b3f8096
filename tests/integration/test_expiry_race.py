"""Two ways, 100 ms apart: an expired key that is read on one side must not delete what the other side refreshed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.config import LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

KEYS = [f"k{i}" for i in range(200)]


def _no_active_expiry(server: Server) -> None:
    server.client().execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")


def _set_all(server: Server, value: str, ttl_ms: int) -> None:
    pipe = server.client().pipeline(transaction=False)
    for key in KEYS:
        pipe.set(key, value, px=ttl_ms)
    pipe.execute()


def _read_all(server: Server) -> list[bytes | None]:
    pipe = server.client().pipeline(transaction=False)
    for key in KEYS:
        pipe.get(key)
    return pipe.execute()  # type: ignore[no-any-return]


def _users(server: Server) -> set[bytes]:
    """Its keys, but for those of the links: one that is late has more of them at its target."""
    return {key for key in server.control.keys("*") if not key.startswith(b"redis-canal:")}


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: a late link holds deadlines off (test_lag_ttl.py), so that the reader's live longer."""
    monkeypatch.setattr("sync.ttl.LATE_S", 3600.0)


class Pair:
    """Two datacenters with a link each way through a slow line."""

    def __init__(self, a: Server, b: Server, to_a: Proxy, to_b: Proxy, state: Path, writer: str) -> None:
        self.links = [
            self._link(a, to_b, "a", "b", state, writer),
            self._link(b, to_a, "b", "a", state, writer),
        ]

    @staticmethod
    def _link(source: Server, target: Proxy, here: str, there: str, state: Path, writer: str) -> Link:
        config = LinkConfig(
            f"{here}-{there}",
            parse_url(source.url),
            parse_url(target.url),
            state / here,
            source_dc=here,
            target_dc=there,
            two_way=True,
            writer=writer,  # type: ignore[arg-type]
        )
        return Link(config)

    async def __aenter__(self) -> Pair:
        self._running = [asyncio.create_task(link.run()) for link in self.links]
        await eventually(lambda: all(link.status.state == "streaming" for link in self.links), 20, "both streaming")
        return self

    async def __aexit__(self, *exc: object) -> None:
        for link in self.links:
            link.stop()
        await asyncio.gather(*self._running)


@pytest.mark.parametrize("writer", ["gated", "guarded"])
@pytest.mark.parametrize("reader_side", ["a", "b"])
async def test_no_fresh_value_is_lost(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, in_time: None, reader_side: str, writer: str
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    for server in (a, b):
        _no_active_expiry(server)
    to_a, to_b = proxy(a), proxy(b)
    reader, refresher = (a, b) if reader_side == "a" else (b, a)
    async with Pair(a, b, to_a, to_b, tmp_path, writer) as pair:
        _set_all(refresher, "old", 1500)
        begun = time.monotonic()
        await eventually(lambda: all(_read_all(reader)), 10, "the old values on both sides")
        for door in (to_a, to_b):
            door.delay(0.1, "to_server")
        await asyncio.sleep(max(0.0, begun + 1.6 - time.monotonic()))  # the deadline itself is what is waited for
        _set_all(refresher, "fresh", 60_000)
        assert not any(_read_all(reader)), "the reader was to meet its expired copies"
        await eventually(lambda: _read_all(reader).count(b"fresh") == len(KEYS), 20, "the fresh values at the reader")
        assert _read_all(refresher).count(b"fresh") == len(KEYS)
        await asyncio.to_thread(wait_equal, a, b, 20)
        figures = pair.links[0 if reader is a else 1].status
        await eventually(lambda: figures.expiry_refused >= len(KEYS), 10, "told")
        assert figures.expiry_deletes >= figures.expiry_refused
        assert figures.expiry_untracked == 0


async def test_user_deletes_among_expiry_are_all_carried_out(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    async with Pair(a, b, proxy(a), proxy(b), tmp_path, "auto"):
        client = a.client()
        _set_all(a, "v", 300)
        for i in range(100):
            client.set(f"plain:{i}", "v")
            client.set(f"long:{i}", "v", ex=1000)
            client.rpush(f"list:{i}", "v")
            client.expire(f"list:{i}", 1000)
            client.set(f"cleared:{i}", "v", px=300)
            client.set(f"cleared:{i}", "v")
            client.set(f"pushed:{i}", "x", px=300)
            client.delete(f"pushed:{i}")
            client.rpush(f"pushed:{i}", "v")
        await eventually(lambda: len(_users(a)) >= 500 and _users(a) == _users(b), 20, "all at both sides")
        await eventually(lambda: not any(_read_all(a)), 10, "the short ones to expire")
        for i in range(100):
            client.delete(f"plain:{i}", f"long:{i}")
            client.unlink(f"list:{i}")
            client.delete(f"cleared:{i}")
            client.delete(f"pushed:{i}")
        await asyncio.to_thread(wait_equal, a, b, 20)
        assert _users(b) == set()


async def test_deadlines_are_known_again_after_a_restart(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, in_time: None
) -> None:
    a, b = redis_server("7.0"), redis_server("7.0")
    for server in (a, b):
        _no_active_expiry(server)
    to_a, to_b = proxy(a), proxy(b)
    async with Pair(a, b, to_a, to_b, tmp_path, "auto"):
        _set_all(b, "old", 4000)
        begun = time.monotonic()
        await eventually(lambda: all(_read_all(a)), 10, "the old values on both sides")
    async with Pair(a, b, to_a, to_b, tmp_path, "auto"):
        for door in (to_a, to_b):
            door.delay(0.1, "to_server")
        await asyncio.sleep(max(0.0, begun + 4.2 - time.monotonic()))
        _set_all(b, "fresh", 60_000)
        assert not any(_read_all(a))
        await eventually(lambda: _read_all(a).count(b"fresh") == len(KEYS), 20, "the fresh values at the reader")
        assert _read_all(b).count(b"fresh") == len(KEYS)
