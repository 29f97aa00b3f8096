"""The stream of a source beyond what the journal can take, read for its keys alone (`sync.dirty`)."""

from __future__ import annotations

import logging
import time

from canal.endpoint import Endpoint
from canal.errors import CanalError
from canal.located import source_of
from canal.position import Position
from canal.replica import Replica
from sync.config import LinkConfig
from sync.digest import Digest
from sync.preflight import source_info
from sync.target.fence import ServerInfo

log = logging.getLogger(__name__)


class Beyond:
    """Feeds ``digest`` from where it is on, by a replication connection: a `canal.replica.ReplicaSink` that keeps
    nothing.
    """

    def __init__(self, config: LinkConfig, digest: Digest) -> None:
        self.error = ""  # why it cannot go on
        self._config, self._digest = config, digest
        self._replica = Replica(config.source, self, locate=self._locate)

    async def run(self) -> None:
        """Until `stop`."""
        await self._replica.run()

    def stop(self) -> None:
        """Leave the source."""
        self._replica.stop()

    async def _locate(self) -> Endpoint:
        """Where to connect to. A source that no longer has what is wanted is not made to take a snapshot for it."""
        found = await source_info(self._config)
        here = Position(self._digest.replid, self._digest.next)
        if found is not None and not has_stream_from(found, here):
            self._end(f"the source no longer has the stream from {here}")
        return await source_of(self._config.source)

    def _end(self, why: str) -> None:
        self.error = self.error or why
        self._replica.stop()

    # --- ReplicaSink

    def resume_position(self) -> Position | None:
        return Position(self._digest.replid, self._digest.next)

    def on_full_resync(self, position: Position, length: int | None) -> None:
        self._end("the source no longer has the stream from where the journal ends")

    def on_rdb(self, data: memoryview) -> None:
        return

    def on_rdb_end(self) -> None:
        return

    def on_continue(self, position: Position) -> None:
        if position.offset != self._digest.next:
            self._end(f"the source goes on at {position} instead of {self._digest.next}")
        self._digest.replid = position.replid

    def on_stream(self, data: memoryview) -> None:
        if self.error:
            return
        try:
            self._digest.feed(bytes(data), int(time.time() * 1000))
        except CanalError as error:
            self._end(str(error))

    def on_disconnect(self, error: CanalError, retry_in_s: float) -> None:
        log.info("the stream beyond the journal: %s", error)

    def ack_offset(self) -> int:
        return self._digest.next


def has_stream_from(source: ServerInfo, position: Position) -> bool:
    """Would PSYNC from there be answered by the stream, as far as INFO tells?"""
    first = position.offset + 1
    if not 0 < source.backlog_first <= first:
        return False
    if position.replid == source.replid:
        return first <= source.offset + 1
    return position.replid == source.replid2 and first <= source.second_offset
