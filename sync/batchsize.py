"""How large the batches of a stream become, and when one waits to become larger.

What bounds them is configured, grows with the line (`sync.pacing`), with a cluster's nodes, and shrinks with the
throttle. A batch leaves as soon as the writer has room, except for a cluster while the stream comes faster than it is
read here: there a large one is cheaper by far (`sync.target.cluster.bulk`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from sync.batch import Batcher
from sync.config import LinkConfig
from sync.pacing import Pacing
from sync.rules import Rules
from sync.target.cluster.writer import ClusterWriter
from sync.target.standalone import Writer
from sync.throttle import Throttle

_DENSE_BYTES: Final = 64 << 10
_DENSE_S: Final = 0.02
"""Who has so much to read is behind the source; more must follow soon."""


class BatchSize:
    """Of one stream: it bounds what ``rules`` and ``batcher`` put together. ``wake`` is set when one need not wait any
    more. ``pacing``: of a gated writer.
    """

    def __init__(
        self,
        config: LinkConfig,
        rules: Rules,
        batcher: Batcher,
        writer: Writer | ClusterWriter,
        pacing: Pacing | None,
        throttle: Throttle,
        wake: asyncio.Event,
    ) -> None:
        self._config = config
        self._rules = rules
        self._batcher = batcher
        self._cluster = writer if isinstance(writer, ClusterWriter) else None
        self._pacing = pacing
        self._throttle = throttle
        self._wake = wake
        self._dense = 0  # chunks of the stream with much to read after them, one after the other
        self._watching = False

    def one_by_one(self, single: bool) -> None:
        """Whether each command is to go alone, to find one that the target does not take."""
        self._rules.max_commands = self._batcher.max_commands = 1 if single else self._config.batch_commands

    def bound(self) -> None:
        """Transactions as large as suits the line, and no larger than the throttle lets through in one go."""
        config, pacing = self._config, self._pacing
        bounds = (config.batch_commands, config.batch_bytes) if pacing is None else (pacing.commands, pacing.size)
        if self._cluster is not None:
            bounds = self._cluster.bounds(*bounds)
        if self._throttle.on:
            bounds = self._throttle.bounds(*bounds)
        self._batcher.max_commands, self._batcher.max_bytes = bounds
        self._rules.max_commands, self._rules.max_bytes = bounds

    def fills(self) -> bool:
        """Does a batch for a cluster wait till it is large? Where the stream comes faster than it is read here."""
        if not self._dense or self._batcher.behind or self._cluster is None:
            return False
        return self._cluster.bulk.wide and not self._throttle.on

    def look_how_far(self, behind: int) -> None:
        """For a cluster: a chunk is read; so many bytes are left of what was received, itself included."""
        if behind < _DENSE_BYTES:
            self._dense = 0
            return
        self._dense += 1
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_later(_DENSE_S, self._look_again, self._dense, 1)

    def _look_again(self, seen: int, more: int) -> None:
        """Nothing has come after such a chunk, twice: once tells nothing where this process itself had to wait."""
        if self._dense and (more or self._dense != seen):
            left = 1 if self._dense != seen else more - 1
            asyncio.get_running_loop().call_later(_DENSE_S, self._look_again, self._dense, left)
            return
        self._dense, self._watching = 0, False
        self._wake.set()
