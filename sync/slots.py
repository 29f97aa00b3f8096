"""Slots that move between the masters of a source cluster: the target ends with what their new owner has.

Each shard is a stream of its own, so that at the target the old owner's last commands (its DELs among them) may come
after the new owner's first ones. Therefore a slot is handed over at the target, by the map of `sync.slotmap`:

1. The new owner's link sees that the cluster gave it a slot. It asks all other shards, by a token in the map, to commit
   what they have by then: each takes its master's offset and waits until everything up to there is at the target. From
   then on no other stream touches the slot's keys. The old owner takes the slot out of its field likewise.
2. All keys of the slot, those at the source and those at the target, are passed over in the stream and fetched from the
   new owner at an exact offset (`sync.refetch`): what it does not have is removed. When the set of these keys is
   committed, the slot is entered in the new owner's field.

A slot that went away and came back, seen or not, tells so by the RESTORE-ASKING of its keys: in the transaction that
has the first of them the slot leaves the shard's field, and is then taken as any other.

Every step stands at the target and may be repeated, so a crash between any two, a target that failed over and lost some
of them, and workers on different machines make no difference. Nothing is written to the source.

Between the two steps the slot's keys may be wrong for a moment; a command that the target refuses for that is counted
as ``slot-moved``, not as a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import hiredis

from canal.cluster import slot_of
from canal.cluster.shards import known, slots_of, take_up, view_of
from canal.commands import written_in
from canal.errors import CanalError, Unready
from canal.position import Position
from sync.config import LinkConfig
from sync.flush import FLUSH_NAMES
from sync.preflight import refuse_full
from sync.refetch import Place, Refetch
from sync.rules import Adjusted, Dropped, Impossible, Rules
from sync.slotgate import SlotGate, moved
from sync.slotmap import SlotMap, ranges, read, slots_key, store
from sync.status import LinkStatus
from sync.tag import is_reserved
from sync.target.cluster.scanning import nodes_of
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info
from sync.transform import Transform

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_AT_ONCE: Final = 2000
_PAGE: Final = 1000

Commands = list[tuple[int, list[bytes]]]


class SlotKeeper:
    """One shard's part. ``first`` before anything is written, ``run`` beside the link, ``due`` when all is applied."""

    def __init__(self, config: LinkConfig, status: LinkStatus, transform: Transform, wake: Callable[[], None]) -> None:
        self.owned: frozenset[int] = frozenset()  # as the map at the target says
        self.replid = ""  # under which the stream is followed
        self._config = config
        self._status = status
        self._transform = transform
        self._wake = wake
        self._uid = ""
        self._places: list[Place] = []  # to be passed over and fetched
        self._leaving: frozenset[int] = frozenset()  # whose keys are not fetched any more
        self._handed: object | None = None  # the session that has got all of ``_places``
        self._done = asyncio.Event()
        self._asked = False
        self._turn_s = 0.0
        self._dirty: frozenset[int] = frozenset()  # keys were moved into these while others may write to them
        self._came: set[int] = set()  # into which keys were moved while they were being taken
        self._wanted: frozenset[int] = frozenset()  # for which the token in the map asks
        self._anew = config.snapshot.mode == "always"  # two ways: other slots than before are taken with a snapshot

    @property
    def mine(self) -> frozenset[int]:
        """The slots that this shard has for certain: by the cluster's last word, and handed over at the target."""
        return (self.owned - self._dirty) & known(self._config.source).slots

    def owns(self) -> frozenset[int]:
        """``owned``."""
        return self.owned

    def said(self) -> bytes:
        """``owned`` as tags have it."""
        return self._status.slots.encode()

    def settled(self, argv: list[bytes], db: int) -> bool:
        """False when a command writes a key of a slot that is being handed over."""
        mine = self.mine
        return all(slot_of(key) in mine for _, key in written_in(db, argv))

    # --- before anything is written ---

    async def first(self, conn: Connection, uid: str) -> None:
        """Begin the map, or join it. Raises Refused at first contact with a target that holds data."""
        self._uid = uid
        take_up(self._config.source, await view_of(self._config.source, known(self._config.source).nodes))
        for _ in range(100):
            there = await read(conn, self._config.task)
            if there.uid != uid:
                await refuse_full(self._config, conn)
                await store(conn, there, uid)
                continue
            shard = self._config.shard
            if self._config.two_way:
                if await self._pinned(conn, there):
                    return
                continue
            if shard in there.shards:
                self._dirty, self._wanted = there.dirty.get(shard, frozenset()), frozenset()
                self._show(there)
                return
            free = known(self._config.source).slots - there.others(shard)
            await store(conn, there, uid, {f"shard:{shard}": ranges(free)})
        raise Unready(f"target {self._config.target.label}: the map of slots keeps changing")

    async def _pinned(self, conn: Connection, there: SlotMap) -> bool:
        """Two ways: the slots stay what they were. False when the map has to be read again."""
        config, mine = self._config, known(self._config.source).slots
        was = there.shards.get(config.shard)
        if was is None and not await store(conn, there, self._uid, {f"shard:{config.shard}": ranges(mine)}):
            return False
        if was is not None and was != mine and not self._anew:
            raise moved(config.source, was ^ mine)
        self.owned, self._status.slots = mine, ranges(mine)
        return True

    async def pin(self) -> None:
        """Two ways, after a snapshot: the slots that the shard had then are its slots from now on."""
        self._anew = False
        conn = await connect(self._config.target)
        try:
            fields = {f"shard:{self._config.shard}": ranges(self.owned)}
            for _ in range(100):
                there = await read(conn, self._config.task)
                if there.uid != self._uid or await store(conn, there, self._uid, fields):
                    return
            raise Unready(f"target {self._config.target.label}: the map of slots keeps changing")
        finally:
            conn.close()

    def gate(self, wake: Callable[[], None]) -> SlotGate | None:
        """Two ways: what tells how far the stream may be replayed."""
        return SlotGate(self._config.source, lambda: self.owned, wake) if self._config.two_way else None

    def _show(self, there: SlotMap) -> None:
        now = there.shards.get(self._config.shard, frozenset())
        text = ranges(now)
        if text != self._status.slots:
            if self._status.slots:
                log.info("%s/%s has the slots %s", self._config.task, self._config.shard, text or "(none)")
            self._status.slots = text
        self.owned = now

    # --- in the stream ---

    def govern(self, rules: Rules) -> None:
        """FLUSHALL of one master empties its slots only: they are given up, and taken again with what is there then."""
        inner = rules.adjust

        def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
            name = argv[0].upper()
            if name == b"CLUSTER":
                return Dropped("cluster")  # Valkey 8 on tells its replicas SETSLOT by the stream
            if self._config.two_way:
                if name == b"RESTORE-ASKING":
                    raise moved(self._config.source, frozenset({slot_of(argv[1])}))
                return inner(db, argv, received_ms, end)
            if name in FLUSH_NAMES:
                self._dirty |= self.owned
                return self._given_up()
            if name == b"RESTORE-ASKING" and len(argv) > 1:
                slot = slot_of(argv[1])
                self._came.add(slot)
                if slot in self._dirty:
                    return inner(db, argv, received_ms, end)
                self._dirty |= {slot}
                result = inner(db, argv, received_ms, end)
                if isinstance(result, Impossible):
                    return result
                return self._given_up() + ([] if isinstance(result, Dropped) else result)
            return inner(db, argv, received_ms, end)

        rules.adjust = adjust

    def _given_up(self) -> Commands:
        """This shard does not answer for its dirty slots any more, in the transaction that makes them so."""
        key, shard = slots_key(self._config.task), self._config.shard.encode()
        left, dirty = ranges(self.owned - self._dirty).encode(), ranges(self._dirty).encode()
        return [
            (0, [b"HSET", key, b"shard:" + shard, left]),
            (0, [b"HSET", key, b"dirty:" + shard, dirty]),
            (0, [b"HINCRBY", key, b"version", b"1"]),
        ]

    def due(self, refetch: Refetch, session: object) -> Commands:
        """What the session is to commit next for a handover. Called when nothing is on its way."""
        if not self._asked:
            return []
        if self._handed is session:
            self._asked, self._handed = False, None
            self._done.set()
            return []
        commands: Commands = []
        if self._leaving:
            commands += refetch.drop([place for place in refetch.keys if slot_of(place[1]) in self._leaving])
        for begin in range(0, len(self._places), _AT_ONCE):
            commands += refetch.add(self._places[begin : begin + _AT_ONCE])
        self._handed = session
        if not commands:
            self._wake()
        return commands

    async def _commit(self, places: list[Place], leaving: frozenset[int] = frozenset()) -> None:
        """Have it done by the session; returns when it is at the target."""
        self._places, self._leaving, self._handed = places, leaving, None
        self._done.clear()
        self._asked = True
        self._wake()
        try:
            await self._done.wait()
        finally:
            self._asked = False
            self._places = []

    # --- beside the link ---

    async def run(self) -> None:
        """Hand slots over until cancelled. Two ways that is not done (`sync.slotgate`)."""
        trouble = ""
        while not self._config.two_way:
            await asyncio.sleep(max(_LOOK_S, self._turn_s * 5))
            if self._status.state != "streaming" or not self._uid:
                continue
            began = time.monotonic()
            try:
                await self._turn()
                trouble = ""
            except CanalError as error:
                if str(error) != trouble:
                    log.warning("slots cannot be handed over now: %s", error)
                trouble = str(error)
            self._turn_s = min(60.0, time.monotonic() - began)

    async def _turn(self) -> None:
        config = self._config
        view = await view_of(config.source, known(config.source).nodes)
        mine = take_up(config.source, view).slots
        conn = await connect(config.target)
        try:
            there = await read(conn, config.task)
            if there.uid != self._uid or config.shard not in there.shards:
                return  # of another task by now, or a target that was replaced: the next session sees to it
            self._show(there)
            served = frozenset().union(*(slots_of(shard) for shard in view.topology.shards))
            lost = ((self.owned | self._dirty) - mine) & served if view.ok else frozenset()
            gained = (mine - self.owned) | (mine & self._dirty) if view.ok else frozenset()
            self._wanted &= gained  # one that left again is asked for anew: what was answered is of before
            self._status.slots_waiting = len(gained) + len(lost)
            if lost or there.unanswered(config.shard):
                await self._drained(conn, lost, served - mine, there.unanswered(config.shard))
            elif gained:
                await self._take(conn, there, gained - there.others(config.shard))
        finally:
            conn.close()

    async def _drained(
        self, conn: Connection, lost: frozenset[int], elsewhere: frozenset[int], tokens: dict[str, str]
    ) -> None:
        """Have everything committed that came so far; then give the lost slots up, and answer who asked."""
        end = await self._source_position()
        status, shard = self._status, self._config.shard
        while status.replid != end.replid or status.applied_offset < end.offset:
            if status.replid not in (None, end.replid) or status.state != "streaming":
                return  # it has failed over meanwhile: look again
            await asyncio.sleep(0.05)
        await self._commit([], elsewhere)
        there = await read(conn, self._config.task)
        left = there.shards.get(shard, frozenset()) - lost
        dirty = self._dirty - lost
        fields: dict[str, str | None] = {f"ack:{shard}/{name}": token for name, token in tokens.items()}
        if lost:
            fields |= {f"shard:{shard}": ranges(left), f"dirty:{shard}": ranges(dirty) or None}
        if there.uid != self._uid or not await store(conn, there, self._uid, fields):
            return
        if lost:
            log.info("%s/%s: slots %s were moved away", self._config.task, shard, ranges(lost))
            status.slots_moved += len(lost)
            self.owned, self._dirty = left, self._dirty - lost
            status.slots = ranges(left)

    async def _take(self, conn: Connection, there: SlotMap, free: frozenset[int]) -> None:
        """Ask the others first; once all have answered, take the slots that were asked for."""
        shard = self._config.shard
        if not free:
            return
        if not self._wanted:
            if await store(conn, there, self._uid, {f"ask:{shard}": secrets.token_hex(8)}):
                self._wanted = free
            return
        if there.answered(shard):
            wanted, self._wanted = self._wanted & free, frozenset()
            if wanted:
                await self._acquire(conn, wanted)

    async def _source_position(self) -> Position:
        source = await connect(self._config.source, who="source")
        try:
            info = parse_info(await source.call(b"INFO", b"replication"))
        finally:
            source.close()
        return Position(info["master_replid"], int(info["master_repl_offset"]))

    async def _acquire(self, conn: Connection, gained: frozenset[int]) -> None:
        self._came.clear()
        places = dict.fromkeys(await self._at_source(gained))
        async for place in self._at_target(conn, gained):
            places[place] = None
        await self._commit(list(places))
        there = await read(conn, self._config.task)
        shard = self._config.shard
        free = gained - there.others(shard) - self._came
        now = there.shards.get(shard, frozenset()) | free
        dirty = self._dirty - free
        fields = {f"shard:{shard}": ranges(now), f"dirty:{shard}": ranges(dirty) or None, f"ask:{shard}": None}
        if there.uid == self._uid and await store(conn, there, self._uid, fields):
            log.info(
                "%s/%s: slots %s were moved here; %d keys of them are fetched again",
                *(self._config.task, self._config.shard, ranges(free), len(places)),
            )
            self._status.slots_moved += len(free)
            self.owned, self._dirty = now, self._dirty - free
            self._status.slots = ranges(now)

    async def _at_source(self, slots: frozenset[int]) -> list[Place]:
        source = await connect(self._config.source, who="source")
        try:
            order = sorted(slots)
            counts = await source.calls([[b"CLUSTER", b"COUNTKEYSINSLOT", b"%d" % slot] for slot in order])
            asked = [
                [b"CLUSTER", b"GETKEYSINSLOT", b"%d" % slot, b"%d" % (count + 1000)]
                for slot, count in zip(order, counts, strict=True)
                if isinstance(count, int)
            ]
            found: list[Place] = []
            for begin in range(0, len(asked), 100):
                for reply in await source.calls(asked[begin : begin + 100], timeout=60.0):
                    if isinstance(reply, hiredis.ReplyError):
                        raise Unready(f"the source does not list the keys of a slot: {reply}")
                    found += [(0, key) for key in reply]
            return found
        finally:
            source.close()

    async def _at_target(self, conn: Connection, slots: frozenset[int]) -> AsyncIterator[Place]:
        """The target's keys that come from these slots, as the source names them."""
        transform = self._transform
        for node in nodes_of(conn):
            info = parse_info(await node.call(b"INFO", b"keyspace"))
            for db in [int(name[2:]) for name in info if name.startswith("db") and name[2:].isdigit()]:
                await node.call(b"SELECT", b"%d" % db)
                cursor: Any = b"0"
                while True:
                    cursor, names = await node.call(b"SCAN", cursor, b"COUNT", b"%d" % _PAGE)
                    kinds = [b""] * len(names)
                    if transform.needs_type and names:
                        kinds = await node.calls([[b"TYPE", name] for name in names])
                    for name, kind in zip(names, kinds, strict=True):
                        place = None if is_reserved(name) else self._from_source(db, name, kind)
                        if place is not None and slot_of(place[1]) in slots:
                            yield place
                    if cursor == b"0":
                        break
            await node.call(b"SELECT", b"0")

    def _from_source(self, db: int, name: bytes, kind: object) -> Place | None:
        """What the source calls a key of the target; None for one that does not come from there."""
        if self._transform.identity:
            return db, name
        return self._transform.invert(db, name, kind.decode() if isinstance(kind, bytes) else str(kind))

    async def retire(self) -> None:
        """The shard is no more, and all that came of it is applied: its slots are free for others."""
        conn = await connect(self._config.target)
        try:
            for _ in range(100):
                there = await read(conn, self._config.task)
                if there.uid != self._uid or self._config.shard not in there.shards:
                    return
                shard = self._config.shard
                named = (f"shard:{shard}", f"dirty:{shard}", f"ask:{shard}")
                if await store(conn, there, self._uid, dict.fromkeys(named)):
                    return
        finally:
            conn.close()
