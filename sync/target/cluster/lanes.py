"""Batches → lanes: which command goes to which node, and what our own commands become on a cluster. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

from canal.cluster import SLOTS, slot_of
from canal.cluster.slots import tags
from canal.commands import ONE_KEY, all_keys
from canal.grouping import gather
from canal.resp import encode, parse
from canal.routing import TOGETHER, Lane, route
from sync.batch import Batch
from sync.flush import KEEP
from sync.refetch import from_member, refetch_key
from sync.tag import INDEX
from sync.target.cluster.records import FETCH, record_key
from sync.ttl import CORRECT
from sync.unit import Piece, Unit

SINGLE: Final[dict[bytes, int]] = {
    **{name: 0 for name in ONE_KEY if name.upper() != b"MOVE"},
    **dict.fromkeys((b"DEL", b"del", b"UNLINK", b"unlink", b"TOUCH", b"touch"), 2),
    **dict.fromkeys((b"MSET", b"mset"), 3),
}
"""Names of commands that `canal.routing.route` may place by their first argument."""

Everywhere = tuple[int, list[bytes]]
"""(number in the batch, command) for all nodes."""


class Lanes:
    """Knows what splits a batch. ``owners``: the lane of each slot: a node's from 1 on, 0 while the slot is moving."""

    def __init__(self, task: str, shard: str, at_target: Callable[[int, bytes], bytes | None]) -> None:
        self.owners = [0] * SLOTS
        self.skips: list[int] = []
        self.split_units = 0  # transactions over several slots
        self._task, self._shard = task, shard
        self._fetches = refetch_key(task, shard)
        self._at_target = at_target
        self._heads = [b"$%d\r\n%b\r\n" % (len(tag), tag) for tag in tags()]

    def split(self, batch: Batch, count: int) -> tuple[list[Lane], list[Everywhere]]:
        """``count`` lanes, and the commands that every node gets."""
        lanes = [Lane() for _ in range(count)]
        everywhere: list[Everywhere] = []
        number = 0
        for unit in batch.units:
            run = len(unit.pieces) == 1 and (not unit.atomic or unit.count == 1)
            before = None if run or batch.snapshot else [len(lane.slots) for lane in lanes]
            for piece in unit.pieces:
                number = self._piece(unit, piece, run, number, lanes, everywhere, batch.snapshot)
            if before is not None and unit.atomic:
                slots = {slot for lane, had in zip(lanes, before, strict=True) for slot in lane.slots[had:]}
                self.split_units += len(slots) > 1
        return lanes, everywhere

    def by_slot(self, batch: Batch) -> dict[int, Lane]:
        """A lane for each slot, wherever the slot is."""
        every = copy.copy(self)
        every.owners, every.skips = [0] * SLOTS, []
        (lane,), _ = every.split(batch, 1)
        out: dict[int, Lane] = {}
        for index, slot in enumerate(lane.slots):
            _copy(lane, index, out.setdefault(slot, Lane()))
        return out

    def gather(self, batch: Batch, groups: list[list[bytes]]) -> list[int] | None:
        """Put the batch's commands into the groups of their slots, as `canal.grouping` has them; the slots they met.

        None when one is for every node.
        """
        used: list[int] = []
        number, split = 0, 0
        for unit in batch.units:
            met: list[int] | None = [] if unit.atomic and unit.count > 1 else None
            for piece in unit.pieces:
                number = self._gather(unit, piece, number, groups, used, met)
                if number < 0:
                    return None
            split += met is not None and len(set(met)) > 1
        self.split_units += split
        return used

    def _gather(
        self,
        unit: Unit,
        piece: Piece,
        number: int,
        groups: list[list[bytes]],
        used: list[int],
        met: list[int] | None,
    ) -> int:
        """The number of the command after the piece; -1 when one is for every node."""
        raw, at = piece.raw, 0
        single = {} if self._fetches in raw or INDEX in raw else SINGLE
        while at < len(raw):
            at, number = gather(raw, at, number, groups, used, single, met)
            if at == len(raw):
                break
            parsed = parse(raw, at, len(raw))
            assert parsed is not None
            argv, at = parsed
            found = self._places(argv)
            if found is None:
                return -1
            for slot, command in found:
                if not groups[slot]:
                    used.append(slot)
                groups[slot].append(encode(command))
                if met is not None:
                    met.append(slot)
            number += 1
        return number

    def _piece(
        self,
        unit: Unit,
        piece: Piece,
        run: bool,
        number: int,
        lanes: list[Lane],
        everywhere: list[Everywhere],
        snapshot: bool,
    ) -> int:
        raw = piece.raw
        base = 0 if snapshot else unit.end - len(raw) if run else -1 - unit.end
        at = 0
        own = self._fetches in raw or INDEX in raw
        while at < len(raw):
            single = {} if own else SINGLE
            at, number = route(raw, at, base, number, lanes, self.owners, self._heads, single, self.skips)
            if at < len(raw):
                parsed = parse(raw, at, len(raw))
                assert parsed is not None
                argv, at = parsed
                self._odd(argv, unit, number, run or snapshot, lanes, everywhere)
                number += 1
        return number

    def _odd(
        self,
        argv: list[bytes],
        unit: Unit,
        number: int,
        alone: bool,
        lanes: list[Lane],
        everywhere: list[Everywhere],
    ) -> None:
        commands = self._places(argv)
        if commands is None:
            everywhere.append((number, argv))
            return
        for slot, command in commands:
            self.place(lanes, slot, command, unit.end, number, alone and len(commands) == 1)

    def _places(self, argv: list[bytes]) -> list[tuple[int, list[bytes]]] | None:
        """What a command is on a cluster, and in which slots; None when it is for every node."""
        name = argv[0].upper()
        if name in (b"SADD", b"SREM") and argv[1] == INDEX:
            return []  # of the set that holds fields here, not members
        if name in (b"SADD", b"SREM") and argv[1] == self._fetches:
            return self._fields(name, argv[2:])
        if name == b"EVAL" and argv[1] == CORRECT:
            return _corrections(argv)
        if name == b"EVAL" and argv[1] == KEEP:
            return None  # FLUSHALL: the batch is alone
        keys = all_keys(argv)
        return [(slot_of(keys[0][1]), argv)] if keys else None

    def place(self, lanes: list[Lane], slot: int, argv: list[bytes], end: int, number: int, alone: bool) -> None:
        """Put one command into its lane, unless the slot is beyond it."""
        if self.skips and end <= self.skips[slot]:
            return
        raw = encode(argv)
        body = raw[raw.index(b"\r\n") + 2 :]
        argc = len(argv) if alone else -len(argv)
        lanes[self.owners[slot]].add(slot, self._heads[slot], body, argc, end, number)

    def mark(self, lane: Lane, slot: int, end: int) -> None:
        """Have the slot's record written without a command, unless the slot is beyond it: its record would go back, and
        after another crash what it has applied would be applied once more.
        """
        if self.skips and end <= self.skips[slot]:
            return
        lane.add(slot, self._heads[slot], b"", 0, end, -1)

    def _fields(self, name: bytes, members: list[bytes]) -> list[tuple[int, list[bytes]]]:
        """The set of keys that wait to be fetched → fields of the records of their slots."""
        out = []
        for member in members:
            key = self._at_target(*from_member(member))
            slot = slot_of(key) if key is not None else 0
            record = record_key(self._task, self._shard, slot)
            field = FETCH + member
            out.append((slot, [b"HSET", record, field, b"1"] if name == b"SADD" else [b"HDEL", record, field]))
        return out


def _corrections(argv: list[bytes]) -> list[tuple[int, list[bytes]]]:
    """The script of `sync.ttl` that puts deadlines right, one key a call."""
    count = int(argv[2])
    keys, words = argv[3 : 3 + count], argv[3 + count :]
    return [(slot_of(key), [b"EVAL", CORRECT, b"1", key, words[2 * i], words[2 * i + 1]]) for i, key in enumerate(keys)]


def without(lane: Lane, slots: set[int]) -> Lane:
    """A copy of the lane less these slots."""
    out = Lane()
    for index, slot in enumerate(lane.slots):
        if slot not in slots:
            _copy(lane, index, out)
    return out


def of_slot(lane: Lane, slot: int, begin: int) -> Lane:
    """A copy of what the lane holds of one slot, from the ``begin``-th command on."""
    out = Lane()
    for index in range(begin, len(lane.slots)):
        if lane.slots[index] == slot:
            _copy(lane, index, out)
    return out


def less(lane: Lane, gone: set[int]) -> Lane:
    """A copy of the lane less the commands of these indexes."""
    out = Lane()
    for index in range(len(lane.slots)):
        if index not in gone:
            _copy(lane, index, out)
    return out


def _copy(lane: Lane, index: int, out: Lane) -> None:
    head, raw = lane.parts[2 * index : 2 * index + 2]
    out.parts += [head, raw]
    out.argcs.append(lane.argcs[index])
    out.slots.append(lane.slots[index])
    out.ends.append(lane.ends[index])
    out.numbers.append(lane.numbers[index])
    count = argc_of(lane, index)
    out.arguments += count + 1
    out.longest = max(out.longest, count)


def argc_of(lane: Lane, index: int) -> int:
    """How many arguments a lane's command has; 0 where only its slot's record is to be written."""
    return lane.argcs[index] % TOGETHER


def command_of(lane: Lane, index: int) -> bytes:
    """A lane's command as RESP."""
    return b"*%d\r\n%b" % (argc_of(lane, index), lane.parts[2 * index + 1])
