"""A replica that is none: follows a source through all its outages and hands what it sends to a `ReplicaSink`.

Whether to go on or to start over is the source's decision alone (its answer to PSYNC); what is asked for is the sink's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from canal.backoff import Backoff
from canal.endpoint import Endpoint, connection_error, open_connection
from canal.errors import CanalError, ConfigError, PeerError, StateError, Unready
from canal.handshake import Handshake
from canal.intake import Intake, ReplicaSink, Timing

__all__ = ["Replica", "ReplicaSink", "Timing"]

_log = logging.getLogger(__name__)
_STEADY_S = 10.0


class Replica:
    """Keeps a replication connection to ``endpoint`` and feeds ``sink``; one use: ``await run()``.

    Errors of the peer are retried with exponential backoff, for ever. ``fail_fast``: until the first handshake has
    succeeded they are raised instead, all but Unready (a source that is loading is worth waiting for). ``locate`` is
    awaited before each attempt and gives the endpoint to use (a master that moves; a look at the source before PSYNC);
    what it raises counts like a failed connection. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        sink: ReplicaSink,
        *,
        fail_fast: bool = False,
        timing: Timing | None = None,
        backoff: Backoff | None = None,
        locate: Callable[[], Awaitable[Endpoint]] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._sink = sink
        self._fail_fast = fail_fast
        self._timing = timing or Timing()
        self._backoff = backoff or Backoff()
        self._locate = locate
        self._intake: Intake | None = None
        self._held = False
        self._stopped = False
        self._paused = False
        self._untold: str | None = None  # why it was paused, until the sink has heard of it
        self._resumed = asyncio.Event()
        self._step: asyncio.Task[Any] | None = None
        self._interrupted: asyncio.Task[Any] | None = None

    @property
    def connected(self) -> bool:
        """The handshake of the present connection has succeeded."""
        return self._intake is not None and self._intake.established

    @property
    def _leaving(self) -> bool:
        return self._stopped or self._paused or self._untold is not None

    async def run(self) -> None:
        """Follow the source until ``stop()``; raises what a person has to look at (see the class)."""
        while not self._stopped:
            if self._untold is not None:
                reason, self._untold = self._untold, None
                self._sink.on_disconnect(StateError(reason), math.inf if self._paused else 0.0)
            if self._paused:
                await self._interruptible(self._resumed.wait())
                continue
            error = await self._interruptible(self._attempt())
            if error is None or self._leaving:
                continue
            if self._is_fatal(error):
                raise error
            delay = self._backoff.next()
            _log.info("%s; next attempt in %.1f s", error, delay)
            self._sink.on_disconnect(error, delay)
            if not self._leaving:
                await self._interruptible(asyncio.sleep(delay))

    def stop(self) -> None:
        """Leave the source; ``run()`` returns soon. The sink is not called any more."""
        self._stopped = True
        self._interrupt()

    def pause(self, reason: str) -> None:
        """Leave the source until ``resume()``.

        The sink hears ``on_disconnect(StateError(reason), inf)``, soon but not within the call; with a retry in 0 s
        when it was resumed meanwhile, which is the way to have ``resume_position()`` asked anew.
        """
        if not self._paused:
            self._resumed.clear()
            self._paused = True
            self._untold = reason
            self._interrupt()

    def resume(self) -> None:
        """Come back after ``pause``, at ``sink.resume_position()``."""
        self._paused = False
        self._resumed.set()

    def hold(self) -> None:
        """Do not read for the moment (the sink is behind); for long waits use ``pause``."""
        self._held = True
        if self._intake is not None:
            self._intake.hold()

    def release(self) -> None:
        """Read again."""
        self._held = False
        if self._intake is not None:
            self._intake.release()

    async def _attempt(self) -> BaseException | None:
        """One connection, to its end; the error that ended it, or None when it was us."""
        try:
            if self._locate is not None:
                self.endpoint = await self._locate()
            _, intake = await open_connection(self.endpoint, self._new_intake, self._timing.connect_s)
            if self._held:
                intake.hold()
            return self._located(await asyncio.shield(intake.outcome))
        except CanalError as error:
            return error
        finally:
            if self._intake is not None:
                intake, self._intake = self._intake, None
                self._note(intake)
                intake.close()
                await intake.wait_closed()

    def _new_intake(self) -> Intake:
        endpoint = self.endpoint
        handshake = Handshake(self._sink.resume_position(), username=endpoint.username, password=endpoint.password)
        self._intake = Intake(self._sink, handshake, self._timing)
        return self._intake

    def _note(self, intake: Intake) -> None:
        """Learn from a connection that is over: did it work well enough to start with short delays again?"""
        if not intake.established:
            return
        self._fail_fast = False
        since = intake.streaming_since
        if since is None:
            return
        # A source that cuts the link soon after each snapshot must not be made to take snapshot after snapshot.
        if not intake.had_snapshot or asyncio.get_running_loop().time() - since >= _STEADY_S:
            self._backoff.reset()

    def _located(self, error: BaseException | None) -> BaseException | None:
        if isinstance(error, ssl.SSLError):
            return connection_error(self.endpoint, error, self._timing.connect_s)
        if isinstance(error, PeerError):
            error.args = (f"{self.endpoint.label}: {error}", *error.args[1:])
        return error

    def _is_fatal(self, error: BaseException) -> bool:
        if not isinstance(error, PeerError | ConfigError):
            return True
        return self._fail_fast and not isinstance(error, Unready)

    async def _interruptible(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await ``work``; None when ``stop`` or ``pause`` ended it."""
        step = self._step = asyncio.ensure_future(work)
        try:
            return await step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if step is not self._interrupted or (task is not None and task.cancelling()):
                raise
            return None
        finally:
            self._step = None

    def _interrupt(self) -> None:
        if self._intake is not None:
            self._intake.close()
        if self._step is not None:
            self._interrupted = self._step
            self._step.cancel()
