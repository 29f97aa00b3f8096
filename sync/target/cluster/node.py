"""One node of a cluster target: a fenced connection with pipelined calls. Replies find their callers by order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import hiredis

from canal.errors import CanalError, Unreachable
from canal.routing import Lane
from sync.batch import Batch
from sync.render import Failures
from sync.target.cluster.fencing import NodeTag
from sync.target.cluster.script import WITNESSES
from sync.target.connection import Connection

if TYPE_CHECKING:
    from sync.target.cluster.bulk import Chunk

Then = Callable[[list[Any]], None]
_NEW: Final = bytes.maketrans(b"1345", b"0000")
"""A record gets five fields at most at once; how many of them were new is no matter."""


@dataclass(slots=True)
class Flight:
    """A batch on its way. ``pending``: calls and waiting commands of it that are not settled."""

    batch: Batch
    begin: int  # end of the batch before
    pending: int = 0
    failures: Failures | None = None
    written: int = 0
    kept: list[int] = field(default_factory=list)  # conditional deletes that left their keys
    bulk: bool = False  # sent as `sync.target.cluster.bulk` does
    lanes: dict[int, Lane] | None = None  # its commands by slot, once something of a large batch went wrong

    def fail(self, number: int, text: str) -> None:
        """A command of the batch that the target refused."""
        self.failures = [*(self.failures or []), (number, text)]


@dataclass(slots=True)
class Part:
    """What one node gets of a batch in one call."""

    flight: Flight
    lane: Lane
    size: int = 0
    chain: bytes = b""  # what its call leaves in the node's chain
    witnesses: int = WITNESSES  # of its slots' records, how many say the frontier


class NodeLink:
    """Sends to one node. ``parts``: calls of the batch script whose replies are awaited, oldest first."""

    def __init__(
        self,
        node_id: str,
        conn: Connection,
        tag: NodeTag,
        on_lost: Callable[[CanalError], None],
        wake: Callable[[], None],
    ) -> None:
        self.id = node_id
        self.conn = conn
        self.tag = tag
        self.parts: deque[Part] = deque()
        self.refused: list[Part] = []  # to be sent again, oldest first
        self.ahead: deque[Chunk] = deque()  # of large batches: not sent yet
        self.chunks: deque[Chunk] = deque()  # and those whose replies are awaited
        self.held = False  # the node has left the chain: nothing more goes until all replies are there
        self.marked_at = 0.0  # time.monotonic() when a record was last written
        self.received = 0
        self._sequence = 0
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[int, Then, bytes]] = deque()
        self._replies: list[Any] = []
        self._matched = 0  # of the replies that the oldest wants to see: bytes that are there
        self._on_lost = on_lost
        conn.stream(self._data, on_lost, wake)

    def next_chain(self) -> tuple[bytes, bytes]:
        """What the next call finds in the node's chain, and what it leaves there."""
        now = self.tag.chain
        self._sequence += 1
        self.tag.chain = now.partition(b".")[0] + b".%d" % self._sequence
        return now, self.tag.chain

    def send(self, data: bytes, count: int, then: Then, good: bytes = b"") -> None:
        """Send commands that get ``count`` replies; where these are ``good`` but for digits, ``then`` gets none."""
        self._waiting.append((count, then, good))
        self.conn.write(data)

    @property
    def idle(self) -> bool:
        """No reply is awaited."""
        return not self._waiting

    def _data(self, data: bytes) -> None:
        self.received += len(data)
        data = self._compare(data)
        if not data:
            return
        try:
            self._reader.feed(data)
            while self._waiting and (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
                count, then, _ = self._waiting[0]
                if len(self._replies) == count:
                    self._waiting.popleft()
                    replies, self._replies = self._replies, []
                    then(replies)
        except hiredis.ProtocolError as error:
            lost = Unreachable(f"target {self.conn.endpoint.label} sent what is no reply: {error}")
            self.conn.close(lost)

    def _compare(self, data: bytes) -> bytes:
        """Replies that are what is wanted, to the byte, need no parsing; what is left when they are not."""
        if not self._waiting or not self._waiting[0][2]:
            return data
        at, told = 0, data.translate(_NEW)
        while at < len(data) and self._waiting and not self._replies and not self._reader.has_data():
            _, then, good = self._waiting[0]
            if not good:
                break
            wanted = good[self._matched : self._matched + len(data) - at]
            if not told.startswith(wanted, at):
                seen, self._matched = good[: self._matched], 0
                return seen + data[at:]
            at += len(wanted)
            self._matched += len(wanted)
            if self._matched == len(good):
                self._waiting.popleft()
                self._matched = 0
                then([])
        return data[at:]
