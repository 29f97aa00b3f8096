"""What a link keeps at a cluster target, and where replay starts after a restart. No I/O.

===========================================  ==========================================================================
``redis-canal:checkpoint:<task>/<shard>``    the link's checkpoint as `sync.tag` gives it: uid, epoch, phase, progress
                                             of a snapshot; its position is saved now and then, for people
``…:{<tag>}``                                the record of one slot, committed with the slot's data: ``pos`` (everything
                                             up to there is applied, nothing beyond), ``low`` (``<offset>/<db>``: up to
                                             there *all* slots were applied when it was written; not written
                                             with every ``pos``), and ``r:<db>:<key>``
                                             for keys that wait to be fetched (`sync.refetch`)
``…:tag:{<tag>}``                            one for each node, in one of its slots: the tag that opens its transactions
                                             and guards them by ``chain`` and ``epoch``
===========================================  ==========================================================================

Replay starts at the lowest of the nodes' frontiers. A node's frontier is the highest ``low`` among the records it has:
a record that a node still holds was written before anything that the node may have lost in a failover, and what ``low``
says was true of all nodes by then. So a node that lost its last writes also lost the records that spoke of them; a
record that came with a moved slot is a witness too. A node without any record has lost everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from canal.cluster import SLOTS, slot_tag
from canal.position import Position
from sync.tag import checkpoint_key

FETCH: Final = b"r:"
"""Prefix of the fields of a slot record that name keys which wait to be fetched."""


def record_prefix(task: str, shard: str) -> bytes:
    """The name of a slot's record up to its hash tag; a tag and ``}`` complete it."""
    return checkpoint_key(task, shard) + b":{"


def record_key(task: str, shard: str, slot: int) -> bytes:
    """The record of a slot."""
    return record_prefix(task, shard) + slot_tag(slot) + b"}"


def tag_key(task: str, shard: str, slot: int) -> bytes:
    """The tag of a node, which lives in ``slot``."""
    return checkpoint_key(task, shard) + b":tag:{" + slot_tag(slot) + b"}"


@dataclass(frozen=True, slots=True)
class Record:
    """A slot's record. ``low`` and ``db``: the frontier when it was written."""

    position: Position
    low: int
    db: int
    fetches: tuple[bytes, ...] = ()


def parse_record(flat: Sequence[bytes]) -> Record | None:
    """From HGETALL; None where there is none, or none that can be read (a snapshot is being applied)."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    low, _, db = fields.get(b"low", b"").partition(b"/")
    if not low.isdigit() or not db.isdigit():
        return None
    try:
        position = Position.parse(fields.get(b"pos", b"").decode("ascii", "replace"))
    except ValueError:
        return None
    fetches = tuple(name[len(FETCH) :] for name in fields if name.startswith(FETCH))
    return Record(position, int(low), int(db), fetches)


@dataclass(slots=True)
class Records:
    """All records of a link as they were found. ``owners``: the node of each slot, by any name."""

    slots: list[Record | None]
    owners: list[str]
    missing: int = 0
    lost: set[str] = field(default_factory=set)  # nodes without any record

    def __post_init__(self) -> None:
        self.missing = sum(record is None for record in self.slots)
        there = {self.owners[slot] for slot in range(SLOTS) if self.slots[slot] is not None}
        self.lost = set(self.owners) - there

    def start(self) -> tuple[Position, int] | None:
        """(position, database) from which replay can go on; None when something is gone."""
        if self.missing:
            return None
        best: dict[str, Record] = {}
        for owner, record in zip(self.owners, self.slots, strict=True):
            assert record is not None
            if owner not in best or record.low > best[owner].low:
                best[owner] = record
        lowest = min(best.values(), key=lambda record: record.low)
        return Position(lowest.position.replid, lowest.low), lowest.db

    def skips(self, beyond: int) -> list[int]:
        """For each slot the offset up to which it is applied; empty when no slot is ahead of ``beyond``."""
        found = [record.position.offset if record is not None else 0 for record in self.slots]
        return found if max(found, default=0) > beyond else []

    def fetches(self) -> list[bytes]:
        """The members of all slots' keys that wait to be fetched."""
        return [member for record in self.slots if record is not None for member in record.fetches]
