"""Damage done to a real link's journal while the link is down: said with offsets, and both sides equal in the end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from canal.journal.journal import Journal
from canal.position import Position
from sync.config import JournalOptions, LinkConfig
from sync.link import Link
from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.process import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server

pytestmark = pytest.mark.servers

SEGMENT = 64 << 10
OPTIONS = JournalOptions(segment_bytes=SEGMENT, retain_bytes=4 << 20, tail_bytes=256 << 10)

Damage = Callable[[Path], None]


def _logs(journal: Path) -> list[Path]:
    return sorted(journal.glob("*.log"))


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 32]))


def torn(journal: Path) -> None:
    last = _logs(journal)[-1]
    os.truncate(last, last.stat().st_size * 2 // 3)


def zeros(journal: Path) -> None:
    last = _logs(journal)[-1]
    size = last.stat().st_size
    with last.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


def flipped_at_the_end(journal: Path) -> None:
    last = _logs(journal)[-1]
    _flip(last, last.stat().st_size // 2)


def flipped_in_the_middle(journal: Path) -> None:
    _flip(_logs(journal)[-4], SEGMENT // 2)


def index_missing(journal: Path) -> None:
    _logs(journal)[-4].with_suffix(".idx").unlink()


def segment_removed(journal: Path) -> None:
    log = _logs(journal)[-4]
    log.with_suffix(".idx").unlink()
    log.unlink()


def all_removed(journal: Path) -> None:
    for path in journal.iterdir():
        path.unlink()


def state_missing(journal: Path) -> None:
    (journal / "journal.json").unlink()


def of_another_source(journal: Path) -> None:
    all_removed(journal)
    other = Journal(journal, reserve_bytes=0)
    other.open()
    other.reset(Position("0123456789" * 4, 0))
    other.append(b"*3\r\n$3\r\nSET\r\n$5\r\nwrong\r\n$4\r\ndata\r\n" * 5000, 1)
    other.close()


DAMAGES: list[tuple[Damage, str | None]] = [
    (torn, "a torn write left"),
    (zeros, "zeros instead of"),
    (flipped_at_the_end, "does not have its checksum"),
    (flipped_in_the_middle, "the journal is damaged from offset"),
    (index_missing, "cannot be checked and are not used"),
    (segment_removed, "are missing from the journal"),
    (all_removed, None),
    (state_missing, "whose stream the journal holds is not known"),
    (of_another_source, "which the source does not know"),
]


async def _started(source: Server, door: Proxy, state: Path) -> tuple[Link, asyncio.Task[None]]:
    link = Link(LinkConfig("t", parse_url(source.url), parse_url(door.url), state, journal=OPTIONS))
    running = asyncio.create_task(link.run())
    await eventually(lambda: link.status.state == "streaming" or running.done(), 30, "streaming")
    if running.done():
        await running
    return link, running


async def _journaled(link: Link, server: Server, first: int, count: int) -> None:
    """Written and journaled piece by piece: a reader that lags takes more at once, and a segment ends with a chunk."""
    for start in range(first, first + count, 100):
        await asyncio.to_thread(_write, server, start, min(100, first + count - start))
        await eventually(lambda: link.status.journaled_offset >= server.offset, 20, "all to be journaled")


def _write(server: Server, first: int, count: int) -> None:
    client = server.client()
    for start in range(first, first + count, 100):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 100, first + count)):
            pipe.rpush(f"list:{number % 50}", b"%d:" % number + b"x" * 400)
            pipe.incr("count")
        pipe.execute()


@pytest.mark.parametrize("backlog", ["16mb", "16kb"], ids=["backlog holds", "backlog too small"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
async def test_ends_equal(
    redis_server: StartServer,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Damage,
    message: str | None,
    backlog: str,
) -> None:
    caplog.set_level(logging.INFO)
    source, target = redis_server("7.0", repl_backlog_size=backlog), redis_server("7.0")
    door = proxy(target)
    state = tmp_path / "state"
    await asyncio.to_thread(_write, source, 0, 100)
    link, running = await _started(source, door, state)
    await asyncio.to_thread(_write, source, 100, 500)
    await eventually(lambda: link.status.applied_offset >= source.offset, 20, "the target to be in step")
    door.refuse()  # from here on the journal is ahead of the target
    door.cut()
    await _journaled(link, source, 600, 4400)
    assert link.status.applied_offset < source.offset
    link.stop(deadline_s=0)
    await running
    assert len(_logs(state / "journal")) > 8
    await asyncio.to_thread(damage, state / "journal")
    door.accept()
    await asyncio.to_thread(_write, source, 5000, 20)

    link, running = await _started(source, door, state)
    await asyncio.to_thread(_write, source, 5020, 20)
    await eventually(lambda: link.status.applied_offset >= source.offset, 30, "the target to be in step")
    await asyncio.to_thread(wait_equal, source, target, 20)
    assert not target.client().exists("wrong")
    assert target.client().get("count") == b"5040"
    if message is not None:
        assert any(message in record.getMessage() for record in caplog.records), caplog.text
    assert source.sync_full <= (1 if backlog == "16mb" else 2)
    link.stop()
    await running


async def test_a_gap_near_the_end_goes_on_from_the_stretch_that_holds_the_checkpoint(
    redis_server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    """The source still has what is missing, though not the stream from the checkpoint on."""
    source, target = redis_server("7.0", repl_backlog_size="600kb"), redis_server("7.0")
    door = proxy(target)
    state = tmp_path / "state"
    link, running = await _started(source, door, state)
    door.refuse()
    door.cut()
    await _journaled(link, source, 0, 5000)
    assert source.offset - link.status.applied_offset > 1_500_000
    link.stop(deadline_s=0)
    await running
    log = _logs(state / "journal")[-3]
    log.with_suffix(".idx").unlink()
    log.unlink()
    door.accept()

    link, running = await _started(source, door, state)
    await asyncio.to_thread(_write, source, 5000, 20)
    await eventually(lambda: link.status.applied_offset >= source.offset, 30, "the target to be in step")
    await asyncio.to_thread(wait_equal, source, target, 20)
    assert source.sync_full == 1
    link.stop()
    await running
