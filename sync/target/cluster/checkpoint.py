"""The link's own checkpoint at a cluster: written beside the slots' records, now and then, where nobody waits for it.

Where replay goes on is told by the records; the checkpoint says whose they are, and how far a snapshot is applied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis

from canal.errors import CanalError
from canal.position import Position
from canal.resp import encode
from sync.batch import Batch
from sync.tag import Tagger
from sync.target.cluster.fencing import NODES
from sync.target.cluster.node import NodeLink
from sync.target.errors import classify

_SAVE_S: Final = 1.0


class LinkCheckpoint:
    """``run_ids``: of the masters. ``link``: the node that has the checkpoint's slot now; None while it is moving.
    ``fail``: told of an answer after which nothing may go on.
    """

    def __init__(
        self,
        tagger: Tagger,
        run_ids: str,
        replid_at: Callable[[int], str],
        link: Callable[[], NodeLink | None],
        fail: Callable[[CanalError], None],
    ) -> None:
        self._tagger = tagger
        self._run_ids = run_ids
        self._replid_at = replid_at
        self._link = link
        self._fail = fail
        self._saved_at = 0.0
        self._unsaved: Batch | None = None
        self._closed = False

    def save(self, batch: Batch, *, now: bool = False, nodes: bool = False) -> None:
        """The batch is committed: write that down, once a second for what streams. ``now``: in any case; ``nodes``: and
        which masters there are, on whom a snapshot's progress depends.
        """
        moment = time.monotonic()
        if not now and batch.units and moment - self._saved_at < _SAVE_S:
            if self._unsaved is None:  # nothing may come after it
                asyncio.get_running_loop().call_later(_SAVE_S, self._save_late)
            self._unsaved = batch
            return
        self._saved_at, self._unsaved = moment, None
        argv = self._tagger.make(
            Position(self._replid_at(batch.end), batch.end),
            batch.db,
            snapshot=batch.snapshot,
            first=batch.first,
            again=batch.again,
            progress=batch.progress,
            full=True,
        )
        if nodes:
            argv += [NODES, self._run_ids.encode()]
        link = self._link()
        if link is not None:
            link.send(encode(argv), 1, self._saved)

    def close(self) -> None:
        """Nothing is written late any more."""
        self._closed = True

    def _save_late(self) -> None:
        batch, self._unsaved = self._unsaved, None
        if batch is not None and not self._closed:
            self.save(batch, now=True)

    def _saved(self, replies: list[Any]) -> None:
        if isinstance(replies[0], hiredis.ReplyError) and not str(replies[0]).startswith(("MOVED", "ASK", "TRYAGAIN")):
            self._fail(classify(str(replies[0]), "writing the checkpoint"))
