"""A running `Replica` with a sink that records, for tests against real servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anycrc
import hiredis

from canal.backoff import Backoff
from canal.endpoint import Endpoint, parse_url
from canal.replica import Replica
from tests.support.process import eventually
from tests.support.recording import RecordingSink
from tests.support.servers import Server


class Following:
    """`replica` feeding `sink` in the task `running`."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        self.sink = RecordingSink()
        self.replica = Replica(endpoint, self.sink, backoff=Backoff(0.02, 0.3), **options)
        self.running = asyncio.create_task(self.replica.run())

    async def in_step(self, server: Server, timeout: float = 20.0) -> None:
        """Until the sink is exactly where the server is."""

        def level() -> bool:
            if self.running.done():
                self.running.result()
            at = self.sink.position
            found = server.info("replication")
            return at is not None and (at.replid, at.offset) == (found["master_replid"], found["master_repl_offset"])

        await eventually(level, timeout, "the replica is in step with its source")

    def commands(self) -> list[list[bytes]]:
        """What the stream holds, without PING, REPLCONF and SELECT; the stream must begin at a command."""
        reader = hiredis.Reader()
        reader.feed(bytes(self.sink.stream))
        found = []
        while (argv := reader.gets()) is not False:
            if argv[0].upper() not in (b"PING", b"REPLCONF", b"SELECT"):
                found.append(argv)
        return found


@contextlib.asynccontextmanager
async def follow(source: Server | str, **options: Any) -> AsyncIterator[Following]:
    """Follows a server, or what a URL names, until the block ends."""
    made = Following(parse_url(source if isinstance(source, str) else source.url), **options)
    try:
        yield made
    finally:
        made.replica.stop()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(60):
                await made.running


def rdb_is_whole(rdb: bytes | bytearray) -> bool:
    """Whether the checksum at the end of an RDB (version 5 and newer) fits what stands before it."""
    body, checksum = bytes(rdb[:-8]), int.from_bytes(rdb[-8:], "little")
    return len(rdb) > 17 and checksum != 0 and int(anycrc.Model("CRC64-REDIS").calc(body)) == checksum
