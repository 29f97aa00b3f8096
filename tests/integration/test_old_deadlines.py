"""A source that propagates relative deadlines (before 7.0): an outage makes no key live longer.

Short by default; REDIS_CANAL_FULL=1 takes PEXPIRE 60000 and a target that is away for 20 s.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canal.endpoint import parse_url
from sync.config import LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(200)]

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
TTL_MS = 60_000 if FULL else 6000
AWAY_S = 20.0 if FULL else 2.0
WITHIN_MS = 50


def deadline(server: Server, key: str) -> int:
    """When the key expires, unix ms of the server's clock; 0 when it does not, or is gone."""
    pipe: Any = server.client().pipeline(transaction=True)
    (seconds, micros), left = pipe.time().pttl(key).execute()
    return int(seconds) * 1000 + int(micros) // 1000 + int(left) if left > 0 else 0


async def gone_at(server: Server, key: str) -> float:
    """When a client no longer sees the key."""
    client = server.client()
    await eventually(lambda: not client.exists(key), TTL_MS / 1000 + 5, f"{key} to expire", every=0.002)
    return time.time() * 1000


async def test_a_relative_deadline_counts_from_when_it_was_received(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    source, target = redis_server("6.2"), redis_server("6.2")
    door = proxy(target)
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), tmp_path / "state"))
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 20, "streaming")
    client = source.client()
    client.mset({"expire": "1", "before": "1"})
    await eventually(lambda: link.status.applied_offset >= source.offset, 20, "the first keys")
    door.refuse()
    door.cut()
    for write in (  # in a thread: the link, which shares our loop, has to take them when they come
        lambda: client.pexpire("expire", TTL_MS),
        lambda: client.set("set", "1", px=TTL_MS),
        lambda: client.psetex("psetex", TTL_MS, "1"),
    ):
        await asyncio.to_thread(write)
    begun = time.monotonic()
    await eventually(lambda: time.monotonic() - begun >= AWAY_S, AWAY_S * 2, "the outage to last")
    door.accept()
    keys = ("expire", "set", "psetex")
    await eventually(lambda: link.status.applied_offset >= source.offset - 200, 30, "catching up")
    # where the rest is short the deadline was held off while the link was late, and is put right after
    differences = [0]

    def close() -> bool:
        differences[:] = [deadline(target, key) - deadline(source, key) for key in keys]
        return max(map(abs, differences)) <= WITHIN_MS

    await eventually(close, TTL_MS / 1000 - AWAY_S, f"deadlines within {WITHIN_MS} ms")
    assert all(deadline(target, key) for key in keys), "all are still there"
    link.stop()
    await running  # so that it is the target itself which ends them, not the source's DEL
    for key in keys:
        here, there = await asyncio.gather(gone_at(source, key), gone_at(target, key))
        print(f"{key}: deadlines differ by {differences[keys.index(key)]} ms, seen gone {there - here:+.0f} ms apart")
    assert target.client().get("before") == source.client().get("before")
