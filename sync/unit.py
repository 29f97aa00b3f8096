"""Stream → units: SELECT state, MULTI grouping, tags recognised and dropped or forwarded by origin. No I/O.

A *unit* is what must be applied together: one command, or one source MULTI…EXEC. Consecutive plain commands of one
database travel as one `Unit` of ``atomic=False``: each of them is a unit of its own, so such a run may be cut anywhere
between its commands, though nothing here needs to.

`UnitReader.position` is always outside MULTI and `UnitReader.db` the database selected there: after +CONTINUE a source
sends no SELECT, so the two together are what a checkpoint has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from canal.errors import CanalError, ProtocolError, Refused
from canal.resp import LIMIT, NEED_MORE, encode, need, parse, scan
from sync.flush import FLUSH_NAMES, keep_reserved, reaches_tag
from sync.rules import Adjusted, Counters, Dropped, Impossible, Rules
from sync.tag import RESERVED, Tag, begins_tagged, recognise

_FAR: Final = 1 << 62


class Piece(NamedTuple):
    """Commands of one database as RESP, without SELECT. ``commands``: how many."""

    db: int
    raw: bytes
    commands: int


@dataclass(slots=True)
class DeadLetter:
    """A command that could not be replayed: where it stood, why, and its bytes."""

    offset: int
    db: int
    argv: list[bytes]
    error: str


@dataclass(slots=True)
class Unit:
    """What is applied together. ``end``: stream position after it; ``db``: selected in the stream there."""

    end: int
    db: int
    pieces: list[Piece]
    received_ms: int
    atomic: bool = False
    solo: bool = False  # reaches the tag itself (FLUSHALL …): ends its batch
    noscript: bool = False  # holds a command that scripts may not call
    origin: str = ""  # "" for writes of the source itself; else the datacenter that the tag names
    opos: str = ""
    seen: str = ""  # two-way: what its datacenter had applied of the others before it
    needs: str = ""  # and of that what is needed at the target before it
    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of target commands."""
        return sum(piece.commands for piece in self.pieces)

    @property
    def size(self) -> int:
        """Bytes of its commands."""
        return sum(len(piece.raw) for piece in self.pieces)


class Circulation(CanalError):
    """The source's own writes come back to it: the topology has a loop that ``direct`` does not break."""


class _Misplaced(Exception):
    """A sound command where it means nothing; ``at``: its place in the stream."""

    def __init__(self, said: str, at: int) -> None:
        super().__init__(said)
        self.said, self.at = said, at


class _Transaction:
    """A source MULTI…EXEC that is being collected."""

    __slots__ = ("count", "db", "dead", "noscript", "pieces", "solo", "sources", "start", "tag")

    def __init__(self, start: int, db: int) -> None:
        self.start = start
        self.db = db  # selected inside; becomes the stream's at EXEC
        self.pieces: list[Piece] = []
        self.dead: list[DeadLetter] = []
        self.count = 0
        self.tag: Tag | None = None
        self.solo = False
        self.noscript = False
        self.sources: list[tuple[int, bytes]] = []  # two-way: of a tagged one, the commands as they stand


class UnitReader:
    """Feeds on contiguous stream bytes and gives units. ``on_tag`` is told every tag met (bare ones too)."""

    def __init__(self, position: int, db: int, rules: Rules, on_tag: Callable[[Tag], None] | None = None) -> None:
        self.position = position
        self.db = db
        self.rules = rules
        self.counters = Counters()
        self._on_tag = on_tag
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._next = position  # stream position of the next byte to be fed
        self._tx: _Transaction | None = None
        self._out: list[Unit] = []
        self._received_ms = 0
        self._paths: dict[str, list[str]] = {}  # origin -> tasks that brought its writes to the source, newest last

    @property
    def received_ms(self) -> int:
        """When what is being read was received, unix ms."""
        return self._received_ms

    def dropping(self, buf: bytes) -> bool:
        """Is what `ahead` gave, from its beginning on, part of a transaction that is not replayed?"""
        tx = self._tx
        if tx is None or tx.tag is not None:
            return tx is not None and tx.tag is not None and tx.tag.origin in self.rules.drop
        return tx.count == 0 and begins_tagged(buf, 0, self.rules.drop)

    def feed(self, offset: int, data: bytes, received_ms: int) -> list[Unit]:
        """Take the bytes that follow those fed before; give the units that became complete.

        Raises `ProtocolError` with the stream offset for bytes that are no commands, `Circulation` and `TagError` as
        their names say; the reader is then of no further use.
        """
        if offset != self._next:
            raise ProtocolError(f"expected the stream to go on at {self._next}, got bytes of {offset}", offset)
        self._next = offset + len(data)
        if self._have:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._parts)
            self._parts = []
        base = self._next - len(data)
        self._received_ms = received_ms
        self._out = []
        try:
            used = self._consume(data, base)
            if used < len(data):
                self._need = need(data, used, len(data))
                rest = data[used:] if used else data
                self._parts = [rest]
                self._have = len(rest)
            else:
                self._have = 0
        except _Misplaced as error:
            raise ProtocolError(f"the source's stream: {error.said}", error.at) from None
        except ProtocolError as error:
            at = base + (error.offset or 0)
            raise ProtocolError(f"the source's stream: {str(error).rsplit(' (at', 1)[0]}", at) from None
        return self._out

    def ahead(self, data: bytes) -> tuple[bytes, int]:
        """What `feed` with these bytes would go through, from a command's beginning on, and the database selected."""
        buf = b"".join((*self._parts, data)) if self._have else data
        return buf, self.db if self._tx is None else self._tx.db

    def peek(self, data: bytes) -> Iterator[tuple[int, list[bytes]]]:
        """(database, command) of what `feed` with these bytes would meet, without taking it."""
        buf, db = self.ahead(data)
        at = 0
        while (parsed := parse(buf, at, len(buf))) is not None:
            argv, at = parsed
            if argv[0].upper() == b"SELECT" and len(argv) == 2 and argv[1].isdigit():
                db = int(argv[1])
            else:
                yield db, argv

    def _consume(self, buf: bytes, base: int) -> int:
        rules = self.rules
        end = len(buf)
        pos = 0
        stop = buf.find(RESERVED)
        if stop < 0:
            stop = _FAR
        while True:
            after, count, why = scan(
                buf, pos, end, stop, rules.max_commands, rules.max_bytes, rules.plain, rules.look_at
            )
            if count:
                self._run(buf[pos:after] if pos or after < end else buf, count, base + after)
                pos = after
            if why == LIMIT:
                continue
            if why == NEED_MORE:
                return pos
            parsed = parse(buf, pos, end)
            if parsed is None:
                return pos
            argv, after = parsed
            if stop < after:
                stop = buf.find(RESERVED, after)
                if stop < 0:
                    stop = _FAR
            self._special(argv, buf, pos, after, base)
            pos = after

    def _run(self, raw: bytes, count: int, end: int) -> None:
        self.counters.received += count
        tx = self._tx
        db = self.db if tx is None else tx.db
        watch = self.rules.watch
        seen = needs = ""
        if watch is not None:
            seen, needs = watch.seen, watch.needs
            if tx is not None and tx.tag is not None:
                tx.sources.append((db, raw))
            else:
                watch.local(db, raw, end)
        if self.rules.passing is not None:
            raw = self.rules.passing(db, raw)
        piece = Piece(db, raw, count)
        if piece.db >= self.rules.databases:
            self._beyond(piece, end)
        elif tx is not None:
            tx.pieces.append(piece)
            tx.count += count
        else:
            self.position = end
            unit = Unit(end, self.db, [piece], self._received_ms)
            unit.seen, unit.needs = seen, needs
            self._out.append(unit)

    def _beyond(self, piece: Piece, end: int) -> None:
        """Commands of a database that the target does not have."""
        reason = f"the target has only {self.rules.databases} databases"
        at, size = 0, len(piece.raw)
        while at < size:
            parsed = parse(piece.raw, at, size)
            assert parsed is not None
            argv, at = parsed
            upto = end - size + at
            unit = Unit(upto, self.db, [], self._received_ms)
            unit.dead.append(DeadLetter(upto, piece.db, argv, reason))
            self._place(unit)

    def _special(self, argv: list[bytes], buf: bytes, pos: int, after: int, base: int) -> None:
        name = argv[0].upper()
        end = base + after
        if name == b"SELECT":
            self._select(argv, base + pos, end)
        elif name in (b"PING", b"REPLCONF"):
            self._consumed(end)
        elif name == b"MULTI":
            self._tx = _Transaction(base + pos, self.db)
        elif name == b"EXEC":
            self._exec(end)
        else:
            self.counters.received += 1
            self._command(name, argv, buf, pos, after, base)

    def _consumed(self, end: int) -> None:
        if self._tx is None:
            self.position = end

    def _select(self, argv: list[bytes], start: int, end: int) -> None:
        if len(argv) != 2 or not argv[1].isdigit():
            raise _Misplaced(f"expected SELECT <db>, got {argv[1:]!r}", start)
        if self._tx is not None:
            self._tx.db = int(argv[1])
        else:
            self.db = int(argv[1])
            self.position = end

    def _command(self, name: bytes, argv: list[bytes], buf: bytes, pos: int, after: int, base: int) -> None:
        end = base + after
        tag = recognise(argv)
        if tag is not None:
            self._tag(tag, end)
            if self._tx is not None:
                self._tx.tag = tag
            self._consumed(end)
            return
        tx = self._tx
        watch = self.rules.watch
        if watch is not None:
            if tx is not None and tx.tag is not None:
                tx.sources.append((tx.db, buf[pos:after]))
            else:
                watch.command(self.db if tx is None else tx.db, argv, end)
        if tx is not None and tx.tag is not None and tx.tag.origin in self.rules.drop:
            if len(argv) < 2 or not argv[1].startswith(RESERVED):  # or tags of slots would ask for tags in return
                tx.count += 1  # of a transaction that will be dropped: its commands are not replayed
            if self.rules.observe is not None:
                self.rules.observe(tx.db, argv, self._received_ms)
            return
        db = self.db if tx is None else tx.db
        if self.rules.over is not None and (reason := self.rules.over(db, argv)):
            self.counters.filter(reason)
            if self.rules.observe is not None:
                self.rules.observe(db, argv, self._received_ms)
            if tx is None:
                self.position = end
            else:
                tx.count += 1
            return
        adjusted: Adjusted | None = self._flush(name, base + pos) if name in FLUSH_NAMES else None
        if adjusted is None:
            self.rules.transaction = -1 if tx is None else tx.start
            adjusted = self.rules.adjust(db, argv, self._received_ms, end)
        unit = Unit(end, self.db, [], self._received_ms)
        if watch is not None:
            unit.seen, unit.needs = watch.seen, watch.needs
        if isinstance(adjusted, Dropped):
            self.counters.filter(adjusted.reason)
        elif isinstance(adjusted, Impossible):
            unit.dead.append(DeadLetter(base + pos, db, argv, adjusted.reason))
        else:
            for to_db, command in adjusted:
                out = command
                word = out[0].upper()
                if word in FLUSH_NAMES and reaches_tag(word, out, to_db):  # where it goes, not where it comes from
                    out, word = keep_reserved(out, to_db), b"EVAL"
                    unit.solo = True
                raw = buf[pos:after] if out is argv else encode(out)
                if to_db >= self.rules.databases:
                    if word == b"FLUSHDB":
                        continue  # there is nothing
                    reason = f"the target has only {self.rules.databases} databases"
                    unit.dead.append(DeadLetter(base + pos, to_db, out, reason))
                    continue
                unit.pieces.append(Piece(to_db, raw, 1))
                if word in self.rules.noscript:
                    unit.noscript = True
        self._place(unit)

    def _flush(self, name: bytes, offset: int) -> Dropped | None:
        """What the policy says of FLUSHALL, FLUSHDB and SWAPDB; None: they are adjusted like any other command."""
        policy = self.rules.flush
        if policy == "drop":
            return Dropped("flush")
        if policy == "stop":
            raise Refused(
                f"the source did {name.decode()} at offset {offset}; in a two-way task that stops the link, since it "
                "would remove what the other datacenter wrote: start again with --flush replay or --flush drop "
                "(flush: in the task)"
            )
        return None

    def _place(self, unit: Unit) -> None:
        tx = self._tx
        if tx is not None:
            tx.pieces.extend(unit.pieces)
            tx.dead.extend(unit.dead)
            tx.count += 1
            tx.solo = tx.solo or unit.solo
            tx.noscript = tx.noscript or unit.noscript
            return
        self.position = unit.end
        if unit.pieces or unit.dead:
            self._out.append(unit)

    def _tag(self, tag: Tag, end: int) -> None:
        if tag.origin == self.rules.source_dc:
            raise Circulation(
                f"link {tag.link} brings writes of datacenter {tag.origin} back to it: the tasks form a circle. "
                f"Name {tag.origin} in the `direct` list of that task, or remove one of the tasks"
            )
        if tag.origin not in self.rules.drop:
            self._check_path(tag)
        if self.rules.watch is not None:
            self.rules.watch.tag(tag, end)
        if self._on_tag is not None:
            self._on_tag(tag)

    def _check_path(self, tag: Tag) -> None:
        """Writes of one origin reach a server by one task; by two in turn they are there twice, or go in circles."""
        task = tag.link.partition("/")[0]
        known = self._paths.setdefault(tag.origin, [task])
        if known[-1] == task:
            return
        if task in known:
            raise Circulation(
                f"writes of datacenter {tag.origin} reach the source by two tasks in turn, {known[-1]} and {task}, so "
                f"they are applied twice or go in circles: name {tag.origin} in the `direct` list of the task that "
                "only passes them on"
            )
        known.append(task)

    def _exec(self, end: int) -> None:
        tx = self._tx
        if tx is None:
            raise _Misplaced("expected MULTI before EXEC", end)
        self._tx = None
        self.db = tx.db
        self.position = end
        tag = tx.tag
        watch = self.rules.watch
        seen, needs = ("", "") if watch is None else (watch.seen, watch.needs)
        if watch is not None and tag is not None and tx.sources:
            watch.unit(tag, tx.sources, end)
        if tag is not None and tag.origin in self.rules.drop:
            self.counters.loops_dropped += tx.count
            if tx.count:  # a bare tag asks for none in return, or two idle links would never fall silent
                self.counters.dropped_bytes += end - tx.start
            return
        if not tx.pieces and not tx.dead:
            return
        unit = Unit(end, self.db, _merged(tx.pieces), self._received_ms, atomic=True, solo=tx.solo)
        unit.noscript = tx.noscript
        unit.dead = tx.dead
        unit.seen, unit.needs = seen, needs
        if tag is not None:
            unit.origin = tag.origin
            unit.seen, unit.needs = tag.fields.get(b"seen", b"").decode("ascii", "replace"), ""
            unit.opos = tag.fields.get(b"opos", tag.fields.get(b"pos", b"")).decode("ascii", "replace")
        self._out.append(unit)


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of the same database as one piece, so that a batch has fewer parts."""
    out: list[Piece] = []
    group: list[Piece] = []
    for piece in pieces:
        if group and group[0].db != piece.db:
            out.append(_joined(group))
            group = []
        group.append(piece)
    if group:
        out.append(_joined(group))
    return out


def _joined(group: list[Piece]) -> Piece:
    if len(group) == 1:
        return group[0]
    return Piece(group[0].db, b"".join(piece.raw for piece in group), sum(piece.commands for piece in group))
