"""What the target will never take: dead letters, the command found that fails its batch, and the policy.

With ``on_error: stop`` each of these returns the error that ends the link; with ``continue`` None, and the link goes on
behind the command.
"""

from __future__ import annotations

from collections.abc import Callable

from canal.errors import CanalError, ReplayError
from sync.batch import Batch, command_at
from sync.config import LinkConfig
from sync.deadletter import DeadLetters, describe
from sync.status import LinkStatus
from sync.target.transaction import BatchRefused
from sync.troubles import Troubles
from sync.unit import DeadLetter


class Refusals:
    """Of one session. ``replid()``: of the stream that the offsets belong to."""

    def __init__(
        self, config: LinkConfig, status: LinkStatus, dead: DeadLetters, troubles: Troubles, replid: Callable[[], str]
    ) -> None:
        self._config, self._status, self._dead, self._troubles = config, status, dead, troubles
        self._replid = replid

    def give_up(self, end: int, db: int, argv: list[bytes], text: str) -> ReplayError:
        """Write a dead letter; the error says which command failed where."""
        status = self._status
        if self._dead.write(end, self._replid(), db, argv, text):
            status.dead_letters += 1
            status.commands_failed += 1
        error = ReplayError(
            f"the target refused a command: {describe(argv)} in database {db}, ending at offset {end}: {text}. "
            f"It is kept in {self._dead.path}; mend the key and start again, or use on_error: continue"
        )
        status.failed(error)
        return error

    def units(self, letters: list[DeadLetter], end: int) -> CanalError | None:
        """Commands that cannot be carried to this target at all."""
        first: CanalError | None = None
        for letter in letters:
            error = self.give_up(end, letter.db, letter.argv, letter.error)
            first = first or error
        return first if self._config.on_error == "stop" else None

    def poisonous(self, batch: Batch, why: str) -> CanalError | None:
        """Give the first unit of a batch up, at which connections are lost. Returns what ends the link by policy."""
        if not batch.units:
            return None
        unit, first = batch.units[0], None
        for number in range(unit.count):
            found = command_at(batch, number)
            assert found is not None
            db, argv, end = found
            given_up = self.give_up(end, db, argv, why)
            first = first or given_up
        skip = self._troubles.snapshot_skip if batch.snapshot else self._troubles.skip
        skip.setdefault(unit.end, set()).update(range(unit.count))
        self._troubles.progressed()
        return first if self._config.on_error == "stop" else None

    def refused(self, error: BatchRefused) -> CanalError | None:
        """A batch that the target will not take as a whole: look for the command, then go by the policy.

        Returns what ends the link, or None to go on with another session.
        """
        batch, troubles = error.batch, self._troubles
        if len(batch.units) > 1 or (batch.units and not batch.units[0].atomic and batch.units[0].count > 1):
            if batch.snapshot:
                troubles.snapshot_single = True
            troubles.single_until = max(troubles.single_until, batch.end)
            return None
        skip = troubles.snapshot_skip if batch.snapshot else troubles.skip
        first: CanalError | None = None
        for number, text in error.failures:
            found = command_at(batch, number)
            if found is not None:
                db, argv, end = found
                given_up = self.give_up(end, db, argv, text)
                first = first or given_up
                skip.setdefault(batch.units[0].end, set()).add(number)
        return first if self._config.on_error == "stop" else None
