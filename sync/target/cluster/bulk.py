"""Large batches of a link that is behind: a transaction for each slot, with runs of SET joined to MSET.

A batch is sorted by slot. What it has for one slot goes as MULTI, the slot's record, the commands, EXEC, which Redis
applies wholly or not at all, also while the slot is moving; so a slot's record is written once for all of it, and no
script runs. That costs a node half of what the script costs, once there are a few commands for each slot.

Transactions that are pipelined do not know of each other, and one that was refused must not be overtaken by the next
one of its slot. So the slots of a node are divided into `_SETS` sets, which stay the same, and what a batch has for a
set is sent when the batch before is answered for that set; meanwhile the other sets keep the node busy.

All that went well is told by comparing bytes. What did not is looked up in the batch once more, command by command, and
waits in `moving`, as it came and unjoined; so each command that fails is named by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import hiredis

from canal.cluster import SLOTS, slot_tag
from canal.errors import Unready
from canal.grouping import bundle
from canal.routing import Lane
from sync.batch import Batch
from sync.target.cluster.lanes import argc_of
from sync.target.cluster.moving import AWAY
from sync.target.cluster.node import Flight, NodeLink
from sync.target.cluster.records import record_prefix
from sync.target.cluster.script import WITNESSES, bulk
from sync.target.errors import is_of_keys, is_transient

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter

_SETS: Final = 8
_MOST: Final = 2000
"""Commands of one transaction: so many hold up a node for some 5 ms."""
_NARROW_S: Final = 1.0
_GOOD: Final = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n+OK\r\n"
"""What a node answers to a record that is there already, and one SET or MSET."""
_FIRST: Final = 16
_WIDTH: Final = 100
"""How many times as large as for one server batches may be, so that a slot has several commands of each. They grow by
and by, since nodes stand still while the first one is made up."""
MOST_BYTES: Final = 10 << 20
MOST_BY_SCRIPT: Final = 6000
"""Commands of the parts in which a large batch goes by scripts, where it has to."""


@dataclass(slots=True)
class Chunk:
    """What one node gets of a batch for one set of its slots. ``witness``: its first records carry the frontier."""

    flight: Flight
    which: int
    slots: list[int]
    witness: bool


class Bulk:
    """Sends large batches for a writer. ``least``: commands that make a batch large; 0: none is."""

    def __init__(self, writer: ClusterWriter) -> None:
        self.least = 0
        self._writer = writer
        self._groups: list[list[bytes]] = []
        self._keys: list[bytes] = []
        self._outstanding = 0  # chunks that are not answered
        self._waiting = 0  # of them, chunks that are not sent
        self._narrow_until = 0.0
        self.width = _FIRST

    # what the writer asks

    @property
    def wide(self) -> bool:
        """May batches be large now?"""
        writer = self._writer
        if not self.least or writer.moving.queues or writer.lanes.skips:
            return False
        return not self._narrow_until or time.monotonic() >= self._narrow_until

    @property
    def busy(self) -> bool:
        """Something of a large batch is on its way: scripts have to wait."""
        return self._outstanding > 0

    @property
    def room(self) -> bool:
        """May another batch come? One that cannot go this way only when all others have gone."""
        return not self._waiting and not (self._outstanding and self._writer.moving.queues)

    def takes(self, batch: Batch) -> bool:
        """Whether the batch goes this way."""
        if self.busy or (batch.count >= self.least and self.wide and not batch.snapshot):
            return True
        self.width = _FIRST
        return False

    def send(self, flight: Flight) -> bool:
        """Send a batch. False, and nothing is sent, when one slot has too much of it or a command is for all nodes."""
        writer, batch = self._writer, flight.batch
        if not self._groups:
            self._groups = [[] for _ in range(SLOTS)]
            prefix = record_prefix(writer.task, writer.shard)
            heads = (prefix + slot_tag(slot) + b"}" for slot in range(SLOTS))
            self._keys = [b"$%d\r\n%b\r\n" % (len(key), key) for key in heads]
        groups = self._groups
        split = writer.lanes.split_units
        used = writer.lanes.gather(batch, groups)
        if used is None or max((len(groups[slot]) for slot in used), default=0) > _MOST:
            for group in groups:
                group.clear()
            if used is not None:
                self._narrow_until = time.monotonic() + _NARROW_S
            writer.lanes.split_units = split
            return False
        self.width = min(2 * self.width, _WIDTH)
        self._divide(flight, used)
        for link in writer.links:
            self.release(link)
        return True

    def _divide(self, flight: Flight, used: list[int]) -> None:
        """Slots → chunks of their nodes; a node that has had nothing for long gets a record."""
        writer = self._writer
        owners, now = writer.lanes.owners, time.monotonic()
        parts: list[list[list[int]]] = [[[] for _ in range(_SETS)] for _ in range(len(writer.links) + 1)]
        for slot in used:
            parts[owners[slot]][slot % _SETS].append(slot)
        for slots in parts[0]:
            for slot in slots:
                self._wait(flight, slot)
        for index, link in enumerate(writer.links, 1):
            sets = parts[index]
            marked = link.tag.slot
            if not any(sets) and writer.due(flight.batch, link, now) and owners[marked] == index:
                sets[marked % _SETS].append(marked)
            witness = True
            for which, slots in enumerate(sets):
                if slots:
                    link.marked_at = now
                    flight.pending += 1
                    self._outstanding += 1
                    self._waiting += 1
                    link.ahead.append(Chunk(flight, which, slots, witness))
                    witness = False

    # one node

    def release(self, link: NodeLink) -> None:
        """Send what may go to a node now: behind scripts, and behind what its slots had of the batch before."""
        while link.ahead and not (link.parts or link.held or link.refused) and self._writer.error is None:
            chunk = link.ahead[0]
            if any(one.which == chunk.which for one in link.chunks):
                return
            link.ahead.popleft()
            self._waiting -= 1
            self._emit(link, chunk)

    def _emit(self, link: NodeLink, chunk: Chunk) -> None:
        writer = self._writer
        owners, index = writer.lanes.owners, writer.links.index(link) + 1
        if any(owners[slot] != index for slot in chunk.slots):  # since the batch was divided
            for slot in [slot for slot in chunk.slots if owners[slot] != index]:
                self._wait(chunk.flight, slot)
            chunk.slots = [slot for slot in chunk.slots if owners[slot] == index]
            if not chunk.slots:
                self._outstanding -= 1
                writer.settle(chunk.flight)
                return
        words = writer.tag_words(chunk.flight.batch, b"")[2:]
        parts: list[bytes] = []
        replies, plain = 0, True
        for slots, more in self._witnesses(chunk):
            said = [*words, *more]
            opening = b"*%d\r\n$4\r\nHSET\r\n" % (2 + len(said))
            data, count, all_plain = bundle(slots, self._groups, self._keys, opening, b"".join(map(bulk, said)))
            parts.append(data)
            replies += count
            plain = plain and all_plain
        good = _GOOD * len(chunk.slots) if plain else b""
        link.chunks.append(chunk)
        link.send(b"".join(parts), replies, lambda found: self._answered(link, found), good)

    def _witnesses(self, chunk: Chunk) -> Iterator[tuple[list[int], tuple[bytes, ...]]]:
        """The chunk's slots, by what more their records say."""
        count = WITNESSES if chunk.witness else 0
        if count:
            yield chunk.slots[:count], (b"low", self._writer.low)
        if len(chunk.slots) > count:
            yield chunk.slots[count:], ()

    def _answered(self, link: NodeLink, replies: list[Any]) -> None:
        chunk = link.chunks.popleft()
        self._outstanding -= 1
        if self._writer.error is not None:
            return
        if replies and any(map(_faulty, replies)):
            self._look(chunk, replies)
        self.release(link)
        self._writer.settle(chunk.flight)

    # what did not go well

    def _look(self, chunk: Chunk, replies: list[Any]) -> None:
        """Something of a chunk was refused or failed: each slot's transaction in turn."""
        lanes = self._lanes(chunk.flight)
        at = 0
        for slot in chunk.slots:
            lane = lanes.get(slot)
            sent = [] if lane is None else operations(lane)
            mine = replies[at : at + 3 + len(sent)]
            at += len(mine)
            result = mine[-1]
            if isinstance(result, list):
                self._failures(chunk.flight, lane, sent, result)
            else:
                self._refused(chunk.flight, slot, mine)
            if self._writer.error is not None:
                return

    def _failures(self, flight: Flight, lane: Lane | None, sent: list[list[int]], result: list[Any]) -> None:
        """A transaction was applied, some of its commands failed: all that such a one was joined of."""
        if isinstance(result[0], hiredis.ReplyError):
            self._writer.fail(Unready(f"target: the record of a slot was refused: {result[0]}"))
        for indexes, one in zip(sent, result[1:], strict=True):
            if isinstance(one, hiredis.ReplyError) and lane is not None:
                for index in indexes:
                    flight.fail(lane.numbers[index], str(one))

    def _refused(self, flight: Flight, slot: int, replies: list[Any]) -> None:
        """A transaction was not applied: it is sent again by itself, or nothing can be."""
        texts = [str(one) for one in replies if isinstance(one, hiredis.ReplyError)]
        first = next((text for text in texts if not text.startswith("EXECABORT")), texts[0] if texts else "nothing")
        of_keys = is_of_keys(first) and not isinstance(replies[1], hiredis.ReplyError)
        if is_transient(first) and not first.startswith(AWAY) and not of_keys:
            self._writer.fail(Unready(f"target refused a transaction: {first}"))
            return
        self._wait(flight, slot, moves=first.startswith(AWAY))

    def _wait(self, flight: Flight, slot: int, *, moves: bool = True) -> None:
        lane = self._lanes(flight).get(slot)
        self._groups[slot].clear()
        if lane is not None:
            self._writer.wait(flight, slot, lane, moves=moves)

    def _lanes(self, flight: Flight) -> dict[int, Lane]:
        if flight.lanes is None:
            flight.lanes = self._writer.lanes.by_slot(flight.batch)
        return flight.lanes


def _faulty(reply: Any) -> bool:
    """An error, or what a transaction with an error in it has answered."""
    if isinstance(reply, list):
        return any(isinstance(one, hiredis.ReplyError) for one in reply)
    return isinstance(reply, hiredis.ReplyError)


def operations(lane: Lane) -> list[list[int]]:
    """Which commands of a slot's lane each command of its transaction stands for: `canal.grouping` joins them so."""
    out: list[list[int]] = []
    joins = False
    for index in range(len(lane.slots)):
        is_set = argc_of(lane, index) == 3 and lane.parts[2 * index + 1][:9].upper() == b"$3\r\nSET\r\n"
        if is_set and joins:
            out[-1].append(index)
        else:
            out.append([index])
        joins = is_set
    return out


def cut(batch: Batch, most: int) -> list[Batch]:
    """The batch as several, of at most so many commands as far as its units allow."""
    out: list[Batch] = []
    for unit in batch.units:
        count, size = unit.count, unit.size
        last = out[-1] if out else None
        if last is None or last.count + count > most:
            last = replace(batch, units=[], count=0, size=0, received_ms=unit.received_ms, void=0)
            last.seen = unit.seen if out else batch.seen
            out.append(last)
        last.units.append(unit)
        last.end, last.db = unit.end, unit.db
        last.count += count
        last.size += size
        last.opos, last.needs, last.last_received_ms = unit.opos, unit.needs, unit.received_ms
    out[-1].end, out[-1].db = batch.end, batch.db
    return out
