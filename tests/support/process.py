"""Processes, ports and waiting: what every fixture that starts something shares.

A process started here ends with the test process, however that one ends: the kernel sends SIGKILL when the thread that
started it is gone (PR_SET_PDEATHSIG). That is why all of them are started by one thread which lives as long as we do,
and not by whichever worker thread happened to ask.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]

# Limits of waits are safety nets, and a loaded machine may be many times slower than the one they were written on.
# So no wait gives up before this, whatever its caller says: a condition that never comes true fails a minute later.
PATIENCE_S = float(os.environ.get("REDIS_CANAL_PATIENCE_S", "60"))

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


def spawn(
    argv: Sequence[str | Path],
    *,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv so that it dies with this test process. `env` is added to the environment, it does not replace it."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            preexec_fn=_die_with_parent,
        )

    return _starter.submit(start).result()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill with -9 (a stopped process too) and reap. Harmless when it has ended already."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class ReservedPort:
    """A TCP port of 127.0.0.1 that the OS chose and hands to nobody else until `release`.

    The reservation is a bound socket that never listens. A server that sets SO_REUSEADDR can listen beside it, and
    while no server does, connections are refused. So a server can go away and come back on its port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        self._socket.close()


def wait_until(condition: Callable[[], T | None], timeout: float = 10.0, what: str = "", every: float = 0.01) -> T:
    """The first true value of condition(). AssertionError naming `what` after `timeout` seconds, but at least a minute.

    `what` may be left out when the condition's name or text says enough. In async tests use `eventually`.
    """
    timeout = max(timeout, PATIENCE_S)
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_late(condition, timeout, what, value))
        time.sleep(every)
    return value


async def eventually(
    condition: Callable[[], T | None], timeout: float = 10.0, what: str = "", every: float = 0.01
) -> T:
    """`wait_until` for async tests: the event loop goes on running while it waits.

    condition() itself runs on the loop; when it talks to a server over a blocking client that needs the loop to answer
    (a proxy in the same loop, say), use `await asyncio.to_thread(wait_until, …)` instead.
    """
    timeout = max(timeout, PATIENCE_S)
    deadline = asyncio.get_running_loop().time() + timeout
    while not (value := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(_late(condition, timeout, what, value))
        await asyncio.sleep(every)
    return value


def _late(condition: Callable[[], object], timeout: float, what: str, value: object) -> str:
    name = what or getattr(condition, "__qualname__", repr(condition))
    return f"not within {timeout:g} s: {name} (last value: {value!r})"
