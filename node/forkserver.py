"""Starts workers by forking a process that has everything loaded: 200 of them in seconds, sharing their memory.

Two halves. `serve` is the parent of the workers: a process of one thread that imports the pipeline once, forks a worker
for each request and reports its end. `ForkServer` is the daemon's hold on it.

Requests and answers are datagrams of a SOCK_SEQPACKET pair: ``{"spawn": n}`` with the worker's end of its own socket
attached, answered by ``{"started": n, "pid": p}`` and later ``{"ended": n, "status": s}`` (s as of
`os.waitstatus_to_exitcode`). Nobody outlives the daemon: it takes the parent of the workers with it, which takes the
workers (PR_SET_PDEATHSIG), even if the daemon is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

_PR_SET_PDEATHSIG = 1
PRELOADED = ("asyncio", "ssl", "sync.link", "node.worker")
_MAX = 4096


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exits at once when that has happened already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


# ---- the parent of the workers ---------------------------------------------------------------------------------------


def serve(control: socket.socket, work: Callable[[socket.socket], int]) -> None:
    """Fork a worker for each request until the daemon closes its end, or is gone."""
    with contextlib.suppress(ConnectionError):  # a daemon that was killed hears no answer
        _serve(control, work)


def _serve(control: socket.socket, work: Callable[[socket.socket], int]) -> None:
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(woken, select.POLLIN)
    children: dict[int, int] = {}
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, _MAX)
            _reap(control, children)
        if control.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(control, _MAX, 1)
            if not data:
                return
            number = int(json.loads(data)["spawn"])
            children[_fork(control, fds[0], work)] = number
            pid = next(pid for pid, known in children.items() if known == number)
            control.send(json.dumps({"started": number, "pid": pid}).encode())
            _reap(control, children)


def _fork(control: socket.socket, fd: int, work: Callable[[socket.socket], int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        die_with_parent(parent)
        code = work(socket.socket(fileno=fd))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reap(control: socket.socket, children: dict[int, int]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        number = children.pop(pid, None)
        if number is not None:
            control.send(json.dumps({"ended": number, "status": os.waitstatus_to_exitcode(status)}).encode())


def main() -> None:
    """``python -m node.forkserver FD PARENT``"""
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    from node.worker import work

    gc.collect()
    gc.freeze()  # the loaded pipeline is never looked at by a worker's collector, so its pages stay shared
    with contextlib.suppress(ConnectionError):
        control.send(json.dumps({"ready": os.getpid()}).encode())
    serve(control, work)


# ---- the daemon's side -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Child:
    """One worker process. ``ended`` has its exit code (negative: the signal) when it is over."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    started: asyncio.Future[int]
    ended: asyncio.Future[int]
    pid: int = field(default=0)

    def kill(self) -> None:
        """End it at once; no error when it is gone."""
        if self.pid and not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The daemon's hold on the parent of its workers; starts it, and starts it again when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: dict[int, Child] = {}
        self._count = 0
        self._ready: asyncio.Future[int] | None = None

    async def spawn(self) -> Child:
        """Start a worker; raises `OSError` when no process can be had."""
        await self.start()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            self._count += 1
            child = Child(reader, writer, loop.create_future(), loop.create_future())
            self._children[self._count] = child
            socket.send_fds(self._control, [json.dumps({"spawn": self._count}).encode()], [theirs.fileno()])
        finally:
            theirs.close()
        async with asyncio.timeout(30):
            child.pid = await asyncio.shield(child.started)
        return child

    async def start(self) -> None:
        """Have the parent of the workers ready; raises `OSError` when it cannot start."""
        if self._process is None or self._process.poll() is not None:
            self._launch()
        assert self._ready is not None
        async with asyncio.timeout(60):
            await asyncio.shield(self._ready)

    def _launch(self) -> None:
        self._forget()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loop = asyncio.get_running_loop()
        command = [sys.executable, "-m", "node.forkserver", str(theirs.fileno()), str(os.getpid())]
        self._ready = loop.create_future()
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        loop.add_reader(ours.fileno(), self._hear)

    def _hear(self) -> None:
        assert self._control is not None
        while True:
            try:
                data = self._control.recv(_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._forget()
                return
            self._handle(json.loads(data))

    def _handle(self, message: dict[str, int]) -> None:
        if "ready" in message and self._ready is not None and not self._ready.done():
            self._ready.set_result(message["ready"])
        if (child := self._children.get(message.get("started", -1))) is not None and not child.started.done():
            child.started.set_result(message["pid"])
        if (child := self._children.pop(message.get("ended", -1), None)) is not None and not child.ended.done():
            child.ended.set_result(message["status"])

    def _forget(self) -> None:
        """The parent of the workers is gone, and they with it."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        children, self._children = list(self._children.values()), {}
        for child in children:
            if not child.started.done():
                child.started.set_exception(OSError("the parent of the workers has died"))
                child.started.exception()
            if not child.ended.done():
                child.ended.set_result(-signal.SIGKILL)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(OSError("the parent of the workers has died; its message stands above"))
            self._ready.exception()

    async def close(self) -> None:
        """End the parent of the workers, and with it those that still run."""
        self._forget()
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        await asyncio.to_thread(process.wait)


if __name__ == "__main__":
    main()
