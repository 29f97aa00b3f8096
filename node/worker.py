"""The process of one shard: runs its link, tells the daemon how it goes, does what it is told.

A process that is sent ``{"compare": …}`` first does a job instead (`node.comparer`).

From the daemon: ``{"start": …}`` first (the link's configuration), then ``{"do": "stop", "deadline_s": s}``,
``{"do": "pause"}``, ``{"do": "resume"}``, ``{"do": "throttle", "limits": {…}}``.

To the daemon: ``{"status": …}`` at every change of state and otherwise at
most twice a second when figures have changed, at least every few seconds as a sign of life; ``{"log": …}``; at the end
``{"end": …}``. When the daemon's end of the socket closes, the worker stops at once: nobody would give its lease back.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import pickle
import signal
import socket
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

from canal import formats
from canal.errors import CanalError
from node import frames
from node.comparer import compare
from sync.config import LinkConfig
from sync.link import Fenced, Link
from sync.status import LinkStatus, SnapshotProgress
from sync.throttle import ThrottleOptions

STATUS_S = 0.5
LOOK_S = 0.2
SIGN_OF_LIFE_S = 5.0


def start_message(config: LinkConfig, *, paused: bool, log_level: int) -> dict[str, Any]:
    """The first message to a worker. It holds passwords, and goes nowhere but over the socket."""
    packed = base64.b64encode(pickle.dumps(config)).decode()
    return {"start": {"config": packed, "paused": paused, "log_level": log_level, "format": formats.written()}}


def status_of(message: dict[str, Any]) -> LinkStatus:
    """The figures in a status message."""
    values = dict(message["status"])
    snapshot = SnapshotProgress(**values.pop("snapshot"))
    return LinkStatus(**values, snapshot=snapshot)


def work(link: socket.socket) -> int:
    """The life of a worker process; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _run_loop(_main(link))


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _main(sock: socket.socket) -> int:
    reader, writer = await asyncio.open_connection(sock=sock)
    first = await frames.read(reader)
    if first is not None and "compare" in first:
        return await compare(first["compare"], reader, writer)
    if first is None or "start" not in first:
        return 0
    start = first["start"]
    formats.write(start["format"])
    config: LinkConfig = pickle.loads(base64.b64decode(start["config"]))
    _log_to(writer, start["log_level"])
    return await Worker(config, reader, writer).run(paused=start["paused"])


async def _finish(writer: asyncio.StreamWriter, end: dict[str, Any]) -> None:
    writer.write(frames.encode({"end": end}))
    await writer.drain()
    writer.close()


class Worker:
    """A link and its two ways to the daemon."""

    def __init__(self, config: LinkConfig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._status = LinkStatus(config.task, config.shard, config.source_dc, config.target_dc)
        self._link = Link(config, self._status)

    async def run(self, *, paused: bool) -> int:
        """Run the link to its end; the daemon is told how it ended."""
        if paused:
            self._link.pause()
        self._config_directory()
        link = asyncio.create_task(self._link.run(), name="link")
        orders = asyncio.create_task(self._obey(), name="orders")
        teller = asyncio.create_task(self._tell(), name="teller")
        try:
            await asyncio.wait({link, orders}, return_when=asyncio.FIRST_COMPLETED)
            if not link.done():
                link.cancel()
                await asyncio.gather(link, return_exceptions=True)
                return 0
            end = _end(link)
        finally:
            for task in (orders, teller):
                task.cancel()
            await asyncio.gather(orders, teller, return_exceptions=True)
        self._send_status()
        await _finish(self._writer, end)
        return 0

    def _config_directory(self) -> None:
        self._link.config.state_dir.mkdir(parents=True, exist_ok=True)

    async def _obey(self) -> None:
        """Orders from the daemon, until it is gone."""
        while (message := await frames.read(self._reader)) is not None:
            order = message.get("do")
            if order == "stop":
                self._link.stop(float(message.get("deadline_s", 10.0)))
            elif order == "retire":
                self._link.retire()
            elif order == "pause":
                self._link.pause()
            elif order == "resume":
                self._link.resume()
            elif order == "throttle":
                self._link.throttle(ThrottleOptions.of(message["limits"]))

    async def _tell(self) -> None:
        """Figures to the daemon: states at once, the rest now and then."""
        last: tuple[object, ...] = ()
        sent, state = 0.0, ""
        loop = asyncio.get_running_loop()
        while True:
            now, status = loop.time(), self._status
            if status.state != state or now - sent >= STATUS_S:
                glance = _glance(status)
                if glance != last or now - sent >= SIGN_OF_LIFE_S:
                    last, state, sent = glance, status.state, now
                    self._send_status()
                    await self._writer.drain()
            await asyncio.sleep(LOOK_S)

    def _send_status(self) -> None:
        self._writer.write(frames.encode({"status": asdict(self._status)}))


def _glance(status: LinkStatus) -> tuple[object, ...]:
    """What tells cheaply whether anything happened: 200 idle workers look twice a second."""
    snapshot = status.snapshot
    return (
        status.state,
        status.detail,
        status.source_offset,
        status.journaled_offset,
        status.applied_offset,
        status.source_connected,
        status.target_connected,
        status.journal_full,
        status.errors,
        status.last_error,
        status.epoch,
        status.batches,
        status.verify_keys,
        status.verify_differing,
        status.heartbeat_at,
        status.slots,
        snapshot.keys_done,
        snapshot.bytes_received,
    )


def _end(link: asyncio.Task[None]) -> dict[str, Any]:
    error = link.exception()
    if error is None:
        return {"kind": "stopped", "error": "", "transient": False, "epoch": 0}
    if isinstance(error, Fenced):
        return {"kind": "fenced", "error": str(error), "transient": False, "epoch": error.epoch}
    if isinstance(error, CanalError):
        return {"kind": "failed", "error": str(error), "transient": error.transient, "epoch": 0}
    logging.getLogger(__name__).error("the link ended by a fault of this program", exc_info=error)
    return {"kind": "crashed", "error": f"{type(error).__name__}: {error}", "transient": True, "epoch": 0}


class _ToDaemon(logging.Handler):
    """Sends log records to the daemon, which writes them where all its lines go."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        line = {"level": record.levelno, "name": record.name, "message": self.format(record), "at": record.created}
        self._loop.call_soon_threadsafe(self._write, frames.encode({"log": line}))

    def _write(self, frame: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame)


def _log_to(writer: asyncio.StreamWriter, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToDaemon(writer)]
    root.setLevel(logging.WARNING)
    for room in ("canal", "sync", "node"):
        logging.getLogger(room).setLevel(level)
