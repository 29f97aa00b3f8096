"""Promotions and reversals that the console carries out: one at a time for a task, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from canal.errors import CanalError, Refused

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Turned:
    """One promotion or reversal: ``lines`` as the command line would print them, ``error`` what ended it."""

    kind: Literal["promote", "reverse"]
    by: str
    started: float = field(default_factory=time.time)
    ended: float | None = None
    lines: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """For the task's page; ``state`` is running, done or failed."""
        state = "running" if self.ended is None else "failed" if self.error else "done"
        return {**asdict(self), "state": state, "lines": list(self.lines)}


class Turns:
    """The newest turn of each task (by uid), kept while the console runs. Use it from the loop only."""

    def __init__(self) -> None:
        self._of: dict[str, Turned] = {}

    def of(self, uid: str) -> dict[str, Any] | None:
        """What is known of a task's newest turn."""
        found = self._of.get(uid)
        return found.document if found is not None else None

    def begin(self, uid: str, turned: Turned, work: Callable[[], None]) -> None:
        """Do ``work``, whose lines go to ``turned``. Raises `Refused` while another turn of the task is under way.

        The thread does not keep the console from ending: whoever stops it leaves the task as a killed command would.
        """
        old = self._of.get(uid)
        if old is not None and old.ended is None:
            raise Refused(f"this task is being turned already, asked for by {old.by}: wait until that has ended")
        self._of[uid] = turned

        def run() -> None:
            try:
                work()
            except CanalError as error:
                turned.error = str(error)
            except Exception:
                log.exception("a fault of this program")
                turned.error = "a fault of the console; its log says more"
            turned.ended = time.time()

        threading.Thread(target=run, name=f"turn-{uid}", daemon=True).start()
