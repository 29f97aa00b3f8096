"""One connection to the source, from the first PING to its end: handshake, snapshot, stream, acknowledgements.

Receives into one buffer that is used again and again, so everything handed on is valid only during the call.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import Final, Protocol, cast

from canal.acks import SILENCE_S, AckPolicy
from canal.bulk import BulkReader
from canal.errors import CanalError, Unreachable
from canal.handshake import Continue, FullResync, Handshake, State
from canal.position import Position
from canal.resp import encode

_log = logging.getLogger(__name__)

BUFFER_BYTES: Final = 256 * 1024
_FIRST_ACK_S: Final = 0.05
_UNREAD_MAX: Final = 64 * 1024


class ReplicaSink(Protocol):
    """Where a replica's findings go. All calls come from the event loop's thread and must not block for long.

    A callback that raises ends the connection; a PeerError is answered by reconnecting, anything else ends the replica.
    """

    def resume_position(self) -> Position | None:
        """Where to go on; None asks for a full resync. Asked before each PSYNC."""

    def on_full_resync(self, position: Position, length: int | None) -> None:
        """A snapshot follows, after which the stream starts at ``position``; ``length`` in bytes, None if diskless.

        Called again, from its beginning, whenever a snapshot is started over.
        """

    def on_rdb(self, data: memoryview) -> None:
        """The next bytes of the snapshot; valid only during the call."""

    def on_rdb_end(self) -> None:
        """The snapshot is complete."""

    def on_continue(self, position: Position) -> None:
        """The stream goes on at ``position``: the offset that was asked for; its replid may be a new one."""

    def on_stream(self, data: memoryview) -> None:
        """The next bytes of the stream, in order, without gaps; valid only during the call."""

    def on_disconnect(self, error: CanalError, retry_in_s: float) -> None:
        """The connection is gone, or could not be made; ``retry_in_s`` is infinite while paused."""

    def ack_offset(self) -> int:
        """The newest offset that is safe here; the source is told a little less."""


@dataclass(frozen=True, slots=True)
class Timing:
    """``connect_s``: for connecting, and for each reply up to PSYNC. ``timeout_s``: longest silence of the source.

    An idle source is heard every ``repl-ping-replica-period`` seconds (10 by default); ``timeout_s`` must be longer.
    """

    connect_s: float = 10.0
    timeout_s: float = 60.0
    ack_every_s: float = 1.0


class Intake(asyncio.BufferedProtocol):
    """The protocol of one connection. ``outcome`` is set at its end: the error, or None when ``close()`` was called.

    An SSLError is set as it is, for whoever knows the endpoint to explain; errors of the peer are PeerErrors.
    """

    def __init__(self, sink: ReplicaSink, handshake: Handshake, timing: Timing) -> None:
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.established = False  # the handshake succeeded
        self.had_snapshot = False
        self.streaming_since: float | None = None  # loop time
        self.offset = 0  # of the newest byte received
        self._sink = sink
        self._handshake = handshake
        self._timing = timing
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._exactly: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._bulk: BulkReader | None = None
        self._acks = AckPolicy(0.0)
        self._every = timing.ack_every_s
        self._heard = self._loop.time()
        self._held = False

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self.outcome.done():
            self._transport.abort()
            return
        self._heard = self._loop.time()
        self._transport.write(self._handshake.start())
        self._later()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        try:
            self._take(nbytes)
        except Exception as error:  # a sink's or our own fault: asyncio would only log it
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.outcome.done():
            self._end(self._lost(error))
        self._gone.set()

    # --- our side ---

    def close(self) -> None:
        """Leave the source; nothing more is handed on."""
        self._end(None)

    async def wait_closed(self) -> None:
        """Until the socket is closed too; at once when there never was a connection."""
        if self._transport is not None:
            await self._gone.wait()

    def hold(self) -> None:
        """Stop reading: the source's bytes wait in its buffers and ours. Acknowledging goes on."""
        if not self._held and self._transport is not None and not self.outcome.done():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again after ``hold``."""
        if self._held and self._transport is not None and not self.outcome.done():
            self._held = False
            self._heard = self._loop.time()
            self._transport.resume_reading()

    def _take(self, size: int) -> None:
        at = 0
        if not self.established:
            step = self._handshake.receive(self._view[:size])
            if step.send:
                self._write(step.send)
            at = step.used
            if step.result is None:
                return
            self._established(step.result)
        if self._bulk is not None and at < size and not self.outcome.done():
            at = self._bulk.feed(self._buffer, at, size)
            if self._bulk.done:
                self._snapshot_done()
        if self._bulk is None and at < size and not self.outcome.done():
            block = self._view[at:size]
            self.offset += size - at
            asked = self._acks.received(block, self._heard)
            self._sink.on_stream(block)
            if asked and self._exactly is None:
                self._exactly = self._loop.call_later(SILENCE_S + 0.01, self._acknowledge_once)

    def _established(self, result: FullResync | Continue) -> None:
        self.established = True
        position = result.position
        self.offset = position.offset
        if isinstance(result, Continue):
            self._stream_begins()
            self._sink.on_continue(position)
            return
        self.had_snapshot = True
        self._bulk = BulkReader(lambda length: self._sink.on_full_resync(position, length), self._sink.on_rdb)

    def _snapshot_done(self) -> None:
        self._bulk = None
        self._sink.on_rdb_end()
        self._stream_begins()
        self._every = _FIRST_ACK_S
        self._acknowledge()
        self._later()

    def _stream_begins(self) -> None:
        self.streaming_since = self._loop.time()
        self._acks = AckPolicy(self.streaming_since)

    # --- once a second ---

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._every, self._tick)

    def _tick(self) -> None:
        if self.outcome.done():
            return
        # A diskless source starts its stream at an ACK after it has reaped its child: the first ones come faster.
        self._every = min(self._timing.ack_every_s, self._every * 2)
        try:
            self._check_silence()
            if self._bulk is not None:
                self._write(b"\n")
            elif self.established:
                self._acknowledge()
        except Exception as error:
            self._end(error)
            return
        self._later()

    def _check_silence(self) -> None:
        early = self._handshake.state not in (State.PSYNC, State.DONE)
        limit = min(self._timing.connect_s, self._timing.timeout_s) if early else self._timing.timeout_s
        if not self._held and self._loop.time() - self._heard > limit:
            if self._handshake.unfinished:
                raise self._handshake.closed()
            raise Unreachable(f"nothing heard for {limit:g} s {self._where()}")

    def _acknowledge(self) -> None:
        offset = self._acks.offset(self._sink.ack_offset(), self.offset, self._loop.time())
        self._write(encode([b"REPLCONF", b"ACK", b"%d" % offset]))

    def _acknowledge_once(self) -> None:
        self._exactly = None
        if self.outcome.done():
            return
        try:
            self._acknowledge()
        except Exception as error:
            self._end(error)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() < _UNREAD_MAX:
            transport.write(data)

    # --- the end ---

    def _where(self) -> str:
        if not self.established:
            return f"while a reply to {self._handshake.state.value} was awaited"
        return self._bulk.closed() if self._bulk is not None else f"at offset {self.offset}"

    def _lost(self, error: Exception | None) -> Exception:
        if isinstance(error, ssl.SSLError):
            return error
        if not self.established and (error is None or isinstance(error, ConnectionResetError)):
            return self._handshake.closed()
        how = "the source closed the connection" if error is None else f"the connection broke ({error})"
        return Unreachable(f"{how} {self._where()}")

    def _end(self, error: BaseException | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)
        elif error is not None:  # a callback that closed this connection and then failed
            _log.error("lost after the connection was closed: %s", error, exc_info=error)
        for timer in (self._timer, self._exactly):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
