"""Apply a snapshot: the RDB of the spool → tagged batches, while it is still being received; then the sweep.

Every batch carries the snapshot's position, the mark that the phase is not over, and how many bytes of the RDB are
applied, so that a restart goes on in the file. Applying a key twice gives the same key, so the progress may lag.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

import hiredis

from canal.commands import ServerKind
from canal.errors import CanalError, RdbError
from canal.rdb.dump import dump_payload
from canal.rdb.events import End, Event, Function, Header, Key, KeyEnd, KeyStart, PlainRun, ResizeDb, ValuePart
from canal.rdb.reader import RdbReader
from canal.rdb.target import NotLoadable, Target
from canal.rdb.types import MAY_HAVE_DEADLINES, type_name
from sync.batch import Batch, without
from sync.building import Builder, Pace
from sync.converge import datacenters_of
from sync.fieldexpiry import commands_learned
from sync.homes import Homes, Place, library_name
from sync.keyset import KeySet
from sync.restore import Keeps, Restorer, Step, target_of, temporary_key
from sync.rules import Dropped, Impossible
from sync.sweep import Sweep
from sync.tag import PREFIX, is_reserved
from sync.target.cluster.writer import ClusterWriter
from sync.target.connection import connect
from sync.target.fence import user_keys
from sync.transform import Transform

if TYPE_CHECKING:
    from sync.session import Session

_READ_BYTES: Final = 512 * 1024
_PARSE_BYTES: Final = 64 * 1024
"""Parsed at once: the target is at work on one batch meanwhile, and stands still while more than that is parsed."""
_LARGER: Final = 3
"""Batches of a snapshot are so many times larger in commands than the stream's: keys cost a target little, each round
trip of a gated batch costs it a pause. Their bound in bytes is the same.
"""
_LEAST_BYTES: Final = 4096
_HEADER_BYTES: Final = 9
_NO_SUCH_TYPE: Final = 127
_WITH_FUNCTIONS: Final = 10
"""The first version of RDB files that may hold function libraries: that of Redis 7.0."""
"""A value type that no server knows: its payload is refused for the version first, then for the type."""


@dataclass(frozen=True, slots=True)
class Contact:
    """How target and task stand to each other. ``first``: nothing of the task had been applied before this contact;
    ``again``: another snapshot of the same contact was applied in part; ``resumes``: this one was.
    ``barren``: the source was rolled back, so that of its old state nothing is brought.
    """

    first: bool
    again: bool = False
    resumes: bool = False
    barren: bool = False


class SnapshotRun:
    """One application of the capture's spool, from the RDB offset ``progress`` on."""

    def __init__(
        self, session: Session, progress: int, contact: Contact, target: ServerKind, transform: Transform
    ) -> None:
        config = session.config
        position = session.capture.spool.position
        assert position is not None
        self.session = session
        self.position = position
        self._contact = contact
        self.progress = progress
        self._mirror = not config.two_way and config.snapshot.stale_keys != "keep"
        self._sweeps = not config.two_way
        self._keys = KeySet()
        self._libraries: set[bytes] | None = None  # of functions; None where the source has none because of its version
        # two ways, at first contact: what was not in it, others may write without having seen it
        self._told = config.two_way and contact.first and not contact.again and transform.identity
        self._transform = transform
        self._target = target_of(target)
        self._restorer = Restorer(
            self._target,
            temporary_key(config.task, config.shard),
            keep=self._keeps(),
            status=session.status.snapshot,
            big_key_bytes=config.snapshot.big_key_bytes,
        )
        self._restorer.slotted = isinstance(session.writer, ClusterWriter)
        self._restorer.encodes = transform.identity and not self._restorer.slotted
        commands = 1 if session.troubles.snapshot_single else config.batch_commands * _LARGER
        self._builder = Builder(
            position.offset, progress, commands, config.batch_bytes, first=contact.first, again=contact.again
        )
        self.leaves: Callable[[Place, Place], bool] | None = None  # (here, there) that the target's state wins of
        self._passed_over = False  # parts of a big value that was applied before
        self._start: KeyStart | None = None  # of the value in parts that is under way
        self._from: Place = (0, b"")  # where it is at the source

    @property
    def first(self) -> bool:
        """Is it of a first contact?"""
        return self._contact.first

    @property
    def resumed(self) -> bool:
        """Was a part of it applied by an earlier run, and not looked at by this one?"""
        return self._contact.resumes

    @property
    def had(self) -> KeySet | None:
        """Two ways, at first contact: the keys that it had. None where that is not known, or of no use."""
        return self._keys if self._told else None

    def _keeps(self) -> bool | Keeps:
        """Whose value stays where both sides have a key.

        After a first contact the target's: it may have been written since the source saw it, and what were set back
        now would be built upon until the echo. What differs in the end is the reunion's. With a cluster on either side
        there is none: then it is set back, which the other side's stream shows to be concurrent where it is.
        """
        config, converge = self.session.config, self.session.converge
        if not config.two_way or config.snapshot.existing == "source":
            return False
        clustered = config.source.clustered or config.target.clustered
        if config.snapshot.existing == "home" and converge is not None and clustered and not self._contact.first:
            return False
        if config.snapshot.existing == "target" or (converge is not None and not self._contact.first):
            return True
        homes = converge.homes if converge is not None else Homes(config.home, datacenters_of(config))
        return lambda db, key: homes.home((db, key)) != config.source_dc

    async def run(self) -> None:
        """Apply, sweep, and end the phase with a tag at the snapshot's position. Returns early when capture began anew.

        Raises RdbError for an RDB that cannot be read (nothing after it is applied), Refused by the sweep's guard, and
        what ends the session.
        """
        session = self.session
        generation = session.capture.generation
        self._begin_figures()
        if self._sweeps and await self._found_empty():
            self._sweeps = False
        await self._apply(generation)
        if session.capture.generation != generation:
            return
        await session.drain()
        sweep = Sweep(session, self._keys, self._builder.mark, self._transform, self._target, self._libraries)
        await sweep.tidy(self._restorer.temporary)
        if self._sweeps:
            # at first contact it was asked for; later it is guarded, unless a person has agreed
            confirmed = self._contact.first or session.config.snapshot.confirmed
            await sweep.run(delete=self._mirror, guarded=not confirmed)
        await session.submit(Batch(self.position.offset, 0))
        await session.drain()
        session.status.snapshot.finished = time.time()
        session.capture.spool.delete()

    def _begin_figures(self) -> None:
        shown = self.session.status.snapshot
        shown.keys_done = shown.bytes_done = shown.keys_total = shown.keys_kept = 0
        shown.keys_restored = shown.keys_decoded = shown.keys_restamped = 0
        shown.stale_deleted = shown.stale_kept = 0
        shown.started, shown.finished = time.time(), 0.0

    async def _apply(self, generation: int) -> None:
        session = self.session
        shown = session.status.snapshot
        reader = RdbReader(stream_above=session.config.snapshot.big_key_bytes)
        spool = session.capture.spool.reader()
        rate = session.config.snapshot.max_bytes_per_second
        pace = Pace(rate)
        piece = min(_READ_BYTES, max(_LEAST_BYTES, rate // 20)) if rate else _READ_BYTES
        ended = False
        try:
            await session.submit(self._builder.mark())
            while not ended and (data := await spool.read(piece)):
                if not reader.version:
                    ended = await self._begin(reader, data[:_HEADER_BYTES])
                    data = data[_HEADER_BYTES:]
                for at in range(0, len(data), _PARSE_BYTES):
                    events = deque(reader.feed(data[at : at + _PARSE_BYTES]))
                    while events:  # each is let go as it is dealt with: values are long
                        ended = ended or isinstance(events[0], End)
                        await self._event(events.popleft())
                shown.bytes_done = reader.offset
                if reader.offset > self.progress:
                    await pace.spent(len(data))
                if session.capture.generation != generation:
                    return
            reader.finish()
            if (batch := self._builder.take()) is not None:
                await self._submit(batch)
        finally:
            spool.close()

    async def _begin(self, reader: RdbReader, data: bytes) -> bool:
        """The header by itself: what comes after it is read in the way that suits this target. True for the end."""
        ended = False
        for event in reader.feed(data):
            ended = ended or isinstance(event, End)
            if isinstance(event, Header):
                self._libraries = set() if event.version >= _WITH_FUNCTIONS else None
                self._restorer.header(event, await probe(self.session, event, self._target))
                if self._transform.identity and self.leaves is None:
                    buckets = self._keys.buckets if self._sweeps or self._told else None
                    builder = self._builder
                    reader.plain_databases = self.session.databases
                    reader.plain = self._restorer.plain_keys(
                        buckets,
                        self.progress,
                        builder.max_commands,
                        builder.max_bytes,
                        timed=self.session.deadlines is None,
                    )
        return ended

    async def _event(self, event: Event) -> None:
        if isinstance(event, PlainRun):
            self._restorer.count_run(event)
            if event.commands and (batch := self._builder.add_run(event)) is not None:
                await self._submit(batch)
            return
        try:
            for step in chain.from_iterable(map(self._hooked, self._steps(event))):
                if step.db >= self.session.databases:
                    raise NotLoadable(f"database {step.db}: the target has only {self.session.databases}")
                batch = self._builder.add(step)
                if batch is not None:
                    await self._submit(batch)
        except NotLoadable as error:
            self._impossible(event, error)

    def _hooked(self, step: Step) -> list[Step]:
        """The commands as the user's hook wants them: a step for each database that they are for, in their order."""
        if self._transform.identity:
            return [step]
        result = self._transform.hooked([(step.db, argv) for argv in step.commands])
        if isinstance(result, Impossible):
            raise NotLoadable(result.reason)
        if isinstance(result, Dropped):
            self.session.status.filtered(result.reason)
            return [replace(step, commands=[])]
        parts = [(db, [argv for _, argv in some]) for db, some in groupby(result, key=lambda placed: placed[0])]
        steps = [replace(step, db=db, commands=commands, end=0) for db, commands in parts]
        steps[-1] = replace(steps[-1], end=step.end)
        return steps

    def _steps(self, event: Event) -> Iterable[Step]:
        """What one event of the RDB means for the target."""
        if isinstance(event, Key):
            return self._key(event)
        if isinstance(event, KeyStart | ValuePart | KeyEnd):
            return self._part(event)
        if isinstance(event, Function):
            if self._libraries is not None:
                self._libraries.add(library_name([b"FUNCTION", b"LOAD", event.code]))
            return () if self._contact.barren else self._restorer.function(event)
        if isinstance(event, ResizeDb):
            self._restorer.status.keys_total += event.keys
        return ()

    def _key(self, key: Key) -> Iterable[Step]:
        if is_reserved(key.key):
            if self.session.converge is not None and key.key.startswith(PREFIX):
                self.session.converge.met_in_snapshot(key, self._restorer.flavor)
            return ()
        placed = self._transform.key(key.db, key.key, type_name(key.type))
        if isinstance(placed, Dropped):
            self.session.status.filtered(placed.reason)
            return ()
        self._note(key)
        if key.end <= self.progress or self._left_out((key.db, key.key), placed):
            self._restorer.status.keys_done += 1
            return ()
        key.db, key.key = placed
        return self._restorer.key(key)

    def _left_out(self, here: Place, there: Place) -> bool:
        """Does the target do without the source's state of this key?"""
        return self._contact.barren or (self.leaves is not None and self.leaves(here, there))

    def _note(self, key: Key | KeyStart) -> None:
        """What is remembered of a key that is carried: that it is there, for the sweep; two ways, its deadline."""
        deadlines = self.session.deadlines
        if key.expire_ms is not None and deadlines is not None:
            deadlines.set((key.db, key.key), key.expire_ms if type_name(key.type) == "string" else -key.expire_ms)
        fields = self.session.fields
        if fields is not None and isinstance(key, Key) and key.type in MAY_HAVE_DEADLINES:
            with contextlib.suppress(RdbError):  # what the target makes of the value is seen when it is sent
                fields.learn((key.db, key.key), key.type, key.value)
        if self._sweeps or self._told:
            self._keys.add(key.db, key.key)

    def _part(self, event: KeyStart | ValuePart | KeyEnd) -> Iterator[Step]:
        if isinstance(event, KeyStart):
            placed = self._transform.key(event.db, event.key, type_name(event.type))
            left_out = is_reserved(event.key) or isinstance(placed, Dropped)
            self._passed_over = event.offset < self.progress or left_out
            if not left_out:
                self._note(event)
            self._from = event.db, event.key
            if not isinstance(placed, Dropped):
                self._passed_over = self._passed_over or self._left_out(self._from, placed)
                event = self._start = replace(event, db=placed[0], key=placed[1])
        if self._passed_over:
            return
        fields = None if self._start is None or self._start.type not in MAY_HAVE_DEADLINES else self.session.fields
        for step in self._restorer.big(event):
            if fields is not None:
                commands_learned(fields, self._from, step.commands)
            yield step

    def _impossible(self, event: Event, error: NotLoadable) -> None:
        """A value that the target cannot hold, or the hook not take: a dead letter, and by policy the end."""
        session = self.session
        if isinstance(event, Key):
            at, db, key, expire_ms = event.offset, event.db, event.key, event.expire_ms
            payload = dump_payload(event.type, event.value, 0, event.meta)
        elif isinstance(event, Function):
            at, db, key, expire_ms, payload = 0, 0, b"(function library)", None, event.code
        else:  # of a value in parts, of which nothing more is made
            assert self._start is not None
            at, db, key, expire_ms = self._start.offset, self._start.db, self._start.key, self._start.expire_ms
            payload, self._passed_over = b"", True
        argv = [b"RESTORE", key, b"%d" % (expire_ms or 0), payload, b"REPLACE", b"ABSTTL"]
        problem: CanalError = session.refusals.give_up(at, db, argv, str(error))
        if session.config.on_error == "stop":
            raise problem

    async def _submit(self, batch: Batch) -> None:
        """Send a batch, less what the target has refused before."""
        skip = self.session.troubles.snapshot_skip
        if skip:
            batch.units = [without(unit, skip[unit.end]) if unit.end in skip else unit for unit in batch.units]
            batch.count = sum(unit.count for unit in batch.units)
        await self.session.submit(batch)

    async def _found_empty(self) -> bool:
        """Was the target empty at first contact, so that nothing but this snapshot can be there?"""
        contact = self._contact
        if not contact.first or contact.again:
            return False
        if self.session.config.snapshot.stale_keys is None:
            return True  # it was looked at: with keys in it, first contact is refused
        if contact.resumes:
            return False
        conn = await connect(self.session.config.target)
        try:
            return await user_keys(conn) == 0
        finally:
            conn.close()


async def probe(session: Session, header: Header, target: Target) -> Target:
    """What the target really loads: it is asked, because versions in INFO can be anything.

    The question is a RESTORE whose value no server knows: the version in its footer is looked at first.
    """
    conn = await connect(session.config.target)
    try:
        question = [b"RESTORE", temporary_key(session.config.task, session.config.shard), b"0"]
        question.append(dump_payload(_NO_SUCH_TYPE, b"", header.version))
        reply = (await conn.calls([question]))[0]
    finally:
        conn.close()
    text = str(reply) if isinstance(reply, hiredis.ReplyError) else ""
    loads = target.loads(header.flavor, header.version)
    if "Bad data format" in text and not loads and header.flavor == target.flavor:
        return target.with_rdb_version(header.version)
    if "version or checksum" in text and loads:
        return target.with_rdb_version(header.version - 1)
    return target
