"""Leases on shards, their epochs, and the progress that is recorded under them.

A lease is an ephemeral record: it ends when its holder gives it back or is not heard of for its session's time-out, and
everybody who watches is told. The epoch counter beside it outlives every lease and only grows, so that each holder can
be told from all before it; the target enforces the order (a worker that finds a higher epoch there stops).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from canal import formats
from canal.errors import Refused
from node.coordination.base import Conflict, Create, Remove, SessionLost, Store, Write
from node.coordination.plan import ShardId
from node.coordination.records import LeaseRecord, decode, decode_object, encode
from node.coordination.state import Backward, Known, ShardState, Stale, check, new_run
from node.coordination.tasks import shard_path

_TRIES = 20
_AT_ONCE = 50  # records in one transaction: far below ZooKeeper's 1 MB packet


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a shard, as its holder knows it. ``token`` is new with every acquisition."""

    shard: ShardId
    node: str
    epoch: int
    token: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A record to be published: what the writer knows to stand there, and what shall replace it."""

    shard: ShardId
    known: Known
    new: ShardState


class Leases:
    """Leases, epochs and states of shards, over a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def acquire(self, shard: ShardId, node: str) -> Lease | None:
        """Take a free lease under the next epoch; None when somebody holds it or the shard is gone."""
        base = shard_path(shard)
        for _ in range(_TRIES):
            epoch, version = self._epoch(shard)
            if version < 0:
                return None
            lease = Lease(shard, node, epoch + 1, secrets.token_hex(8))
            try:
                self._store.commit(
                    Create(f"{base}/lease", _lease_record(lease), ephemeral=True),
                    Write(f"{base}/epoch", _epoch_record(lease.epoch), version),
                )
            except Conflict as conflict:
                if conflict.path.endswith("/epoch") and conflict.reason == "changed":
                    continue
                return None
            return lease
        return None

    def holder(self, shard: ShardId) -> str | None:
        """The node that holds the shard's lease; watched."""
        path = f"{shard_path(shard)}/lease"
        there = self._store.get(path, watch=True)
        return decode(LeaseRecord, there.data, path).node if there else None

    def holds(self, lease: Lease) -> bool:
        """True when the coordinator says now that ``lease`` is in force."""
        return self._own(lease) is not None

    def release(self, lease: Lease) -> bool:
        """Give a lease back; False when it was not held any more."""
        version = self._own(lease)
        if version is None:
            return False
        try:
            self._store.commit(Remove(f"{shard_path(lease.shard)}/lease", version))
        except Conflict:
            return False
        return True

    def drop_own(self, shard: ShardId) -> None:
        """Remove a lease that this session holds without knowing its token: the answer to its taking never came."""
        path = f"{shard_path(shard)}/lease"
        there = self._store.get(path)
        if there is not None and there.mine:
            with contextlib.suppress(Conflict):
                self._store.commit(Remove(path, there.version))

    def raise_epoch(self, lease: Lease, at_least: int) -> Lease:
        """Move a held lease to an epoch higher than its own, the counter's, and not below ``at_least``.

        For an owner whose target knows a higher epoch than this coordinator (whose data was lost). Raises `SessionLost`
        when the lease is not held any more: then the higher epoch belongs to the new owner.
        """
        base = shard_path(lease.shard)
        for _ in range(_TRIES):
            own = self._own(lease)
            epoch, version = self._epoch(lease.shard)
            if own is None or version < 0:
                raise SessionLost(f"the lease on {lease.shard} is not held any more; another node may run it")
            higher = replace(lease, epoch=max(epoch + 1, at_least))
            try:
                self._store.commit(
                    Write(f"{base}/lease", _lease_record(higher), own),
                    Write(f"{base}/epoch", _epoch_record(higher.epoch), version),
                )
            except Conflict:
                continue
            return higher
        raise Refused(f"the epoch of {lease.shard} is being changed by others; somebody edits the coordinator by hand")

    def _own(self, lease: Lease) -> int | None:
        """The version of the lease's record while it is this session's and of this acquisition."""
        path = f"{shard_path(lease.shard)}/lease"
        there = self._store.get(path)
        if there is None or not there.mine or decode(LeaseRecord, there.data, path).token != lease.token:
            return None
        return there.version

    def _epoch(self, shard: ShardId) -> tuple[int, int]:
        path = f"{shard_path(shard)}/epoch"
        there = self._store.get(path)
        return (int(decode_object(there.data, path).get("epoch", 0)), there.version) if there else (0, -1)

    # ---- progress -------------------------------------------------------------------------------------------------

    def read_state(self, shard: ShardId) -> Known:
        """What is recorded of a shard, with its version."""
        path = f"{shard_path(shard)}/state"
        there = self._store.get(path)
        return Known(decode(ShardState, there.data, path), there.version) if there else Known()

    def begin_run(
        self, lease: Lease, *, phase: str = "", edit: Callable[[ShardState], ShardState] | None = None
    ) -> Known:
        """Open the next run of a shard in its new owner's name, going on from the last published position.

        From here on every write of an earlier owner is refused. Raises `Stale` when the lease is not held.
        """
        for _ in range(_TRIES):
            known = self.read_state(lease.shard)
            if not self.holds(lease) or known.version < 0:
                raise Stale(f"{lease.shard}: the lease under epoch {lease.epoch} is not held; no run was begun")
            new = new_run(known.state, node=lease.node, epoch=lease.epoch, now=time.time(), phase=phase)
            try:
                return self.write_state(lease.shard, known, edit(new) if edit else new)
            except Stale:
                continue
        raise Stale(f"{lease.shard}: others write its state all the time; no run was begun")

    def write_state(self, shard: ShardId, known: Known, new: ShardState) -> Known:
        """Replace the record that the writer knows; raises `Stale` or `Backward` and changes nothing otherwise."""
        check(known.state, new)
        try:
            [version] = self._store.commit(_progress_write(Progress(shard, known, new)))
        except Conflict as conflict:
            raise Stale(
                f"{shard}: its record is not at version {known.version} any more ({conflict.reason});"
                " another node writes it now, or the task was deleted"
            ) from None
        return Known(new, version)

    def write_states(self, updates: Sequence[Progress]) -> dict[ShardId, Known | Stale]:
        """Publish many records in few transactions; each shard is accepted or refused by itself."""
        done: dict[ShardId, Known | Stale] = {}
        for start in range(0, len(updates), _AT_ONCE):
            part = []
            for update in updates[start : start + _AT_ONCE]:
                try:
                    check(update.known.state, update.new)
                    part.append(update)
                except Backward as error:
                    done[update.shard] = Stale(f"{update.shard}: {error}")
            try:
                versions = self._store.commit(*(_progress_write(update) for update in part))
            except Conflict:
                done.update((update.shard, self._one(update)) for update in part)
                continue
            for update, version in zip(part, versions, strict=True):
                done[update.shard] = Known(update.new, version)
        return done

    def _one(self, update: Progress) -> Known | Stale:
        try:
            return self.write_state(update.shard, update.known, update.new)
        except Stale as stale:
            return stale


def _progress_write(update: Progress) -> Write:
    return Write(f"{shard_path(update.shard)}/state", encode(update.new), update.known.version, quiet=True)


def _lease_record(lease: Lease) -> bytes:
    return encode(LeaseRecord(lease.node, lease.epoch, lease.token, time.time()))


def _epoch_record(epoch: int) -> bytes:
    return json.dumps({"format": formats.written(), "epoch": epoch}).encode()
