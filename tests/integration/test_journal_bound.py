"""A journal that may not grow any more while the target is away: capture leaves the source, says why, and resumes."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from canal.journal.spool import Spool
from canal.position import Position
from sync.config import JournalOptions, LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

MAX_BYTES = 4 << 20
OPTIONS = JournalOptions(segment_bytes=1 << 20, max_bytes=MAX_BYTES, retain_bytes=1 << 20, tail_bytes=256 << 10)


def _write(server: Server, count: int) -> None:
    client = server.client()
    for _ in range(count // 100):
        pipe = client.pipeline(transaction=False)
        for number in range(100):
            pipe.rpush(f"list:{number % 50}", b"x" * 500)
            pipe.incr("count")
        pipe.execute()


@pytest.mark.parametrize(
    ("backlog", "full_resyncs"), [("32mb", 1), ("16kb", 2)], ids=["backlog holds", "backlog too small"]
)
async def test_capture_stops_and_resumes(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path, backlog: str, full_resyncs: int
) -> None:
    source, target = redis_server("7.0", repl_backlog_size=backlog), redis_server("7.0")
    door = proxy(target)
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), tmp_path / "state", journal=OPTIONS))
    status = link.status
    running = asyncio.create_task(link.run())
    await eventually(lambda: status.state == "streaming", 30, "streaming")
    await asyncio.to_thread(_write, source, 500)
    await eventually(lambda: status.applied_offset >= source.offset, 20, "the target to be in step")
    door.refuse()
    door.cut()
    applied = status.applied_offset
    await asyncio.to_thread(_write, source, 20_000)
    await eventually(lambda: status.journal_full is not None, 20, "the journal to be full")
    assert status.journal_full is not None
    assert f"has reached max_bytes ({MAX_BYTES}): it shrinks, and capture resumes by itself" in status.journal_full
    await eventually(lambda: source.info("replication")["connected_slaves"] == 0, 10, "capture to leave the source")
    assert status.lag_seconds is None
    assert status.applied_offset == applied
    assert 0 < status.journal_bytes <= MAX_BYTES
    assert sum(path.stat().st_size for path in (tmp_path / "state" / "journal").iterdir()) <= MAX_BYTES + 1000
    await asyncio.to_thread(_write, source, 500)
    door.accept()
    await eventually(lambda: status.journal_full is None, 30, "room")
    await eventually(lambda: status.applied_offset >= source.offset, 30, "the target to be in step")
    await asyncio.to_thread(wait_equal, source, target, 30)
    assert target.client().get("count") == b"21000"
    assert source.sync_full == full_resyncs
    assert status.full_resyncs == full_resyncs
    assert sum(status.full_resync_reasons.values()) == full_resyncs
    assert running.done() is False
    link.stop()
    await running


async def test_outage_longer_than_the_backlog_costs_no_full_resync(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    """The target away while the source writes fifty times its backlog; memory does not grow with it."""
    source, target = redis_server("7.0", repl_backlog_size="1mb"), redis_server("7.0")
    door = proxy(target)
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), tmp_path / "state"))
    status = link.status
    running = asyncio.create_task(link.run())
    await eventually(lambda: status.state == "streaming", 30, "streaming")
    door.refuse()
    door.cut()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.to_thread(_write, source, 100_000)
    await eventually(lambda: status.journaled_offset >= source.offset, 60, "all to be journaled")
    assert source.offset > 50 << 20
    door.accept()
    await eventually(lambda: status.applied_offset >= source.offset, 60, "the target to be in step")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, f"{grown} KiB"
    await asyncio.to_thread(wait_equal, source, target, 30)
    assert source.sync_full == 1
    link.stop()
    await running


@pytest.mark.parametrize("complete", [True, False], ids=["whole", "torn"])
@pytest.mark.parametrize("covered", [True, False], ids=["stream on disk", "stream released"])
async def test_snapshot_left_behind_does_not_stop_capture(
    redis_server: StartServer, tmp_path: Path, covered: bool, complete: bool
) -> None:
    """The target was lost, or the daemon killed, between the end of the snapshot and the deletion of its file."""
    source, target = redis_server("7.0"), redis_server("7.0")
    state = tmp_path / "state"
    options = JournalOptions(segment_bytes=1000, retain_bytes=1 << 20 if covered else 0, retain_seconds=0)
    config = LinkConfig("t", parse_url(source.url), parse_url(target.url), state, journal=options)
    link = Link(config)
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming", 30, "streaming")
    start = Position(source.replid, link.status.journal_start)
    await asyncio.to_thread(_write, source, 500)
    await eventually(lambda: link.status.applied_offset >= source.offset, 20, "the target to be in step")
    await eventually(lambda: covered or link.status.journal_start > start.offset, 20, "the oldest to be released")
    link.stop()
    await running
    spool = Spool(state / "snapshot")
    spool.open()
    spool.begin(start, None)
    spool.write(b"of no use any more")
    spool.finish()
    await eventually(lambda: spool.complete, 10, "the snapshot to be complete")
    spool.close()
    if not complete:
        (state / "snapshot" / "snapshot.json").unlink()

    await asyncio.to_thread(_write, source, 100)
    link = Link(config)
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.source_connected, 10, "capture to go on")
    await eventually(lambda: link.status.applied_offset >= source.offset, 20, "the target to be in step")
    await asyncio.to_thread(wait_equal, source, target, 20)
    assert source.sync_full == 1
    link.stop()
    await running
    assert list((state / "snapshot").iterdir()) == []
