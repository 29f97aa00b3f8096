"""A `ReplicaSink` that remembers everything, and follows positions as a real one must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from canal.errors import CanalError
from canal.position import Position


class RecordingSink:
    """`events` in order: ("full", position, length), ("rdb-end",), ("continue", position), ("disconnect", error, s).

    `on_event` is called with each of them and with ("stream", bytes); what it raises goes to the replica.
    """

    def __init__(self, position: Position | None = None) -> None:
        self.position = position
        self.events: list[tuple[Any, ...]] = []
        self.rdb = bytearray()
        self.stream = bytearray()
        self.complete = False  # the last snapshot
        self.on_event: Callable[..., None] = lambda *event: None
        self._coming: Position | None = None

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] == name]

    @property
    def errors(self) -> list[CanalError]:
        return [event[1] for event in self.named("disconnect")]

    def _event(self, *event: Any) -> None:
        self.events.append(event)
        self.on_event(*event)

    def resume_position(self) -> Position | None:
        return self.position

    def on_full_resync(self, position: Position, length: int | None) -> None:
        self._coming, self.position, self.complete = position, None, False
        self.rdb.clear()
        self.stream.clear()
        self._event("full", position, length)

    def on_rdb(self, data: memoryview) -> None:
        self.rdb += data
        self.on_event("rdb", bytes(data))

    def on_rdb_end(self) -> None:
        self.position, self.complete = self._coming, True
        self._event("rdb-end")

    def on_continue(self, position: Position) -> None:
        assert self.position is not None and position.offset == self.position.offset
        self.position = position
        self._event("continue", position)

    def on_stream(self, data: memoryview) -> None:
        assert self.position is not None, "stream before a position"
        self.stream += data
        self.position = Position(self.position.replid, self.position.offset + len(data))
        self.on_event("stream", bytes(data))

    def on_disconnect(self, error: CanalError, retry_in_s: float) -> None:
        self._event("disconnect", error, retry_in_s)

    def ack_offset(self) -> int:
        assert self.position is not None
        return self.position.offset
