"""A target slower than the source writes: the source never cuts the link, for capture does not wait for replay.

Short by default; REDIS_CANAL_FULL=1 keeps it up for a minute.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.config import JournalOptions, LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

SECONDS = 60.0 if os.environ.get("REDIS_CANAL_FULL") else 6.0
RATE = 10_000_000  # bytes a second that are written, as far as the machine can
LIMIT = "replica 32mb 8mb 10"


def _write(server: Server, seconds: float) -> int:
    """About `RATE` for ``seconds``; returns how many bytes of values."""
    client = server.client()
    begun = time.monotonic()
    written = 0
    while (now := time.monotonic() - begun) < seconds:
        if written > now * RATE:
            time.sleep(0.005)
            continue
        pipe = client.pipeline(transaction=False)
        for number in range(50):
            pipe.set(f"key:{number % 30}", b"x" * 2000)
            pipe.incr("count")
        pipe.execute()
        written += 50 * 2000
    return written


async def test_source_never_cuts_the_link(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    source, target = redis_server("7.0", client_output_buffer_limit=LIMIT), redis_server("7.0")
    door = proxy(target)
    options = JournalOptions(tail_bytes=1 << 20)
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), tmp_path / "state", journal=options))
    status = link.status
    running = asyncio.create_task(link.run())
    await eventually(lambda: status.state == "streaming", 30, "streaming")
    door.limit(RATE / 10, "to_server")
    written = await asyncio.to_thread(_write, source, SECONDS)
    assert status.lag_bytes > written / 3  # it was slow indeed
    assert status.source_connected
    door.flow()
    await eventually(lambda: status.applied_offset >= source.offset, 60, "the target to be in step")
    await asyncio.to_thread(wait_equal, source, target, 30)
    assert status.source_reconnects == 0
    assert (source.sync_full, status.partial_resyncs) == (1, 0)
    assert "client scheduled to be closed ASAP" not in source.log()
    link.stop()
    await running
