"""A thread that brings files to the disk while the journal's writer goes on writing.

Waiting for a disk takes from a millisecond to seconds. With ``everysec`` nothing waits for the outcome, so the writer
hands copies of its file descriptors over and goes on; what it writes meanwhile is the next round's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

Outcome = Callable[[float, OSError | None], None]
"""(seconds, error); called in the syncer's thread."""


class Syncer:
    """One round at a time: ``begin`` only when not ``busy``."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._idle = threading.Event()
        self._idle.set()
        self._rounds: SimpleQueue[list[int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Is a round under way?"""
        return not self._idle.is_set()

    def begin(self, fds: list[int]) -> None:
        """Bring these files to the disk, in this order, and close the descriptors."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
            self._thread.start()
        self._idle.clear()
        self._rounds.put(fds)

    def wait(self) -> None:
        """Block until no round is under way."""
        self._idle.wait()

    def stop(self) -> None:
        """Finish the round that is under way, and end."""
        if self._thread is not None:
            self._rounds.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (fds := self._rounds.get()) is not None:
            started = time.monotonic()
            error: OSError | None = None
            for fd in fds:
                try:
                    if error is None:
                        os.fdatasync(fd)
                except OSError as found:
                    error = found
                finally:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            took = time.monotonic() - started
            self._idle.set()  # before it is told: whoever hears of it may begin the next round
            self._outcome(took, error)
