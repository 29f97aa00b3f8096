"""Child processes that end with us, whatever ends us, and that a Ctrl-C in our terminal does not reach."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from canal.errors import CanalError

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class Child:
    """One process. Its output goes to a file, whose end explains a failure."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def tail(self, lines: int = 5) -> str:
        """The end of its output, on one line."""
        with contextlib.suppress(OSError):
            return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    async def stop(self, patience_s: float) -> int:
        """SIGTERM, then SIGKILL; the exit code (negative: a signal). Harmless when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(patience_s):
                    await self.process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
        return await self.process.wait()


async def start(name: str, argv: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> Child:
    """Start a process in ``directory``, its output in ``<directory>/<name>.log``. Raises CanalError when it cannot."""
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env={**_inherited(), **(environment or {})},
                start_new_session=True,  # or Ctrl-C would stop the servers before the writers
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            raise CanalError(f"cannot start {name} ({argv[0]}): {error.strerror or error}") from None
    return Child(name, process, log)


def _inherited() -> dict[str, str]:
    """Our environment without what would configure a node or console of somebody else's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REDIS_CANAL")}


def _die_with(parent: int) -> Callable[[], None] | None:
    """Runs in the child before exec: the kernel shall kill it when the parent is gone, kill -9 of it included."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it went away before the call
            os._exit(1)

    return before_exec
