"""Concurrent writes, told from one datacenter's stream: who wrote what without having seen what. No I/O.

A tagged write of another datacenter arrives; its tag says how much of ours its author had seen. A key that was written
here after that was written by both at once: a *conflict*. The other side sees the same from its own stream. Whoever is
the key's home echoes it (`sync.echo`), and the others wait for that.

`Conflicts` is fed by `sync.unit.UnitReader` with everything in the order of the stream, and asked by `sync.converge`.
See docs/architecture/two-way.md for the rules and the sequences that they come from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from canal.commands import Flag, lookup, read_keys
from canal.keyscan import command_keys
from canal.resp import parse
from sync.commutative import Atoms, Commuting
from sync.homes import FUNCTIONS, Homes, Place, library_name
from sync.lapsed import Lapsed
from sync.seen import Line, Vector, format_seen, parse_position, parse_seen
from sync.streams import Scope, Streams, datacenter_of, stream_name, writer_of
from sync.tag import Tag, is_reserved
from sync.window import SIMPLE, Window, places_written

Source = tuple[int, bytes]
"""(database, commands as RESP) as they stand in the stream."""

_SNAPSHOT: Final = (b"snapshot", b"first", b"again")
_SILENT_S: Final = 600.0
_PROMPT_S: Final = 2.0
_AGAIN_S: Final = 2.0
_STALE_S: Final = 30.0
_MOST_PENDING: Final = 100_000
_MOST_FLOWS: Final = 100_000
_HISTORY: Final = 4096
_WHOLE: Final = frozenset({b"RESTORE", b"DEL", b"UNLINK", b"SET"})


@dataclass(slots=True)
class Conflict:
    """Two writes of one key, neither of which had seen the other; ``winner``: the datacenter whose state stays."""

    place: Place
    first: tuple[str, int]  # (stream: a datacenter or a shard of it, offset in it)
    second: tuple[str, int]
    winner: str
    at: float
    reason: str = "concurrent"


@dataclass(slots=True)
class _Pending:
    """A key whose home has not settled it for everybody yet."""

    positions: dict[str, int]  # of the writes that everybody has to see
    since: float
    acting: bool  # it is for us to echo it
    disputed_at: float  # by the newest write
    asked_at: float = 0.0
    echoed_at: int = 0  # our echo stands in our stream there
    again: bool = False  # written concurrently once more after our echo
    twice: bool = False  # echoed once more after all had seen both writes
    marked: bool = False  # told by other things than the stream, which cannot be read again


@dataclass(slots=True)
class Figures:
    """Counters of one `Conflicts`; they only grow."""

    conflicts: int = 0
    settled: int = 0
    given_up: int = 0  # keys that could not be waited for, for lack of room
    shown: int = 0  # of the conflicts, by the owner


class Conflicts:
    """See the module's text. ``here``: the source's datacenter. ``floor``: what is not known of the stream up to there
    counts as written. ``clock``: monotonic seconds. ``delay_s``: how long to leave the first echo to another link.
    ``there``: the datacenter that our link writes to, whose server can be asked for an echo. Of a source cluster
    ``shard`` is the one whose stream this is, and ``slots`` gives its slots.
    """

    def __init__(
        self,
        here: str,
        homes: Homes,
        *,
        floor: int = -1,
        max_keys: int = 2_000_000,
        commutative: bool = False,
        delay_s: float = 0.0,
        there: str = "",
        shard: str = "0",
        slots: Callable[[], frozenset[int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_conflict: Callable[[Conflict], None] = lambda conflict: None,
    ) -> None:
        self.here = here
        self.stream = stream_name(here, shard)
        self.homes = homes
        self.figures = Figures()
        self.seen = ""  # our own vector as text, for the tags that we write
        self.needs = ""  # likewise, up to the newest write of each: what a third datacenter must have before ours
        self.own: Vector = {}
        self._needed: Vector = {}
        self.asks: dict[Place, None] = {}  # to be echoed here; taken by the owner
        self.prompts: dict[Place, None] = {}  # likewise, at ``there``
        self.strangers: dict[str, str] = {}  # datacenter -> fingerprint, where its policy is another one
        self.pending: dict[Place, _Pending] = {}
        self.settled_to = -1  # reading again from here finds every conflict that is not settled, but for marked ones
        self.expired: Callable[[Place, int], bool] = lambda place, end: False  # had its deadline passed when this came?
        self.lapsed = Lapsed()
        self.had: Container[Place] | None = None  # of all up to ``had_to``, only these keys count as written
        self.had_to = -1
        self.doubted: Callable[[Place], None] = lambda place: None  # told of the others, where somebody had not seen it
        self.quiet = False  # what is read is known already: nothing is told or counted
        self.applied = -1  # of our stream, committed at ``there`` by our link; its tags need not have told yet
        self._on_conflict = on_conflict
        self._clock = clock
        self._delay_s = delay_s
        self._there = there
        self._peers = [name for name in homes.datacenters if name != here]
        self._slots = slots
        self._streams = Streams()
        self._lines = {name: Line() for name in (*homes.datacenters, self.stream)}
        names = [self.stream] if len(self._peers) == 1 else homes.datacenters
        self.windows = {name: Window(max_keys, floor if name == self.stream else -1) for name in names}
        self.local_window = self.windows[self.stream]
        self._known: dict[str, dict[str, int]] = {}  # others' stream -> stream -> how far it was seen there
        self._heard: dict[str, float] = {}
        self._vector: dict[str, int] = {}  # of the tag met last
        self._author = ""  # the stream that it speaks of
        self._position = -1
        self._in_snapshot = False
        self._flows: dict[Place, dict[tuple[Place, str], int]] = {}  # read -> (output, by whom), with the position
        self._flows_until: dict[str, int] = {}
        self._commuting = Commuting() if commutative else None
        self._moved = False
        self._history: deque[tuple[int, str]] = deque(maxlen=_HISTORY)  # (position after which, our own vector)
        self._first_seen = ""

    # --- what the stream brings ---

    def start(self, seen: str, eras: Sequence[tuple[str, int]]) -> None:
        """Our own vector where reading begins, and our stream's history."""
        self.own = parse_seen(seen)
        self.seen = self._first_seen = format_seen(self.own)
        self.learn(eras)

    def learn(self, eras: Sequence[tuple[str, int]]) -> None:
        """Our stream's history as the journal has it."""
        self._lines[self.stream].learn(eras)

    def tag(self, tag: Tag, end: int) -> None:
        """A tag, bare or before its commands, that ends at ``end`` of our stream."""
        fields, origin = tag.fields, tag.origin
        if origin == self.here or origin not in self._lines:
            return
        shard, scope = writer_of(tag.link)
        said = fields.get(b"homes")
        via = fields.get(b"via", b"").decode("utf-8", "replace")
        at = parse_position(fields.get(b"pos", b""))
        forwarded = parse_position(fields.get(b"opos", b""))
        self._in_snapshot = fields.get(b"phase") in _SNAPSHOT
        if said is not None and not via:
            self._policy(origin, said.decode("ascii", "replace"))
        author = origin if via else stream_name(origin, shard)
        if author != origin:
            self._streams.met(origin)
            if (slots := fields.get(b"slots")) is not None:
                self._streams.told(origin, author, slots)
        if scope == "link" and self.stream != self.here:
            return  # of a whole cluster, for people: what is here is told by the node's tag
        where = forwarded or (None if via else at)
        if where is None:
            return
        self._follow(author, where)
        self._author, self._position = author, self._lines[author].place(where)
        # where nothing is said, what was said before still holds: nothing that was seen is unseen again
        said_seen = fields.get(b"seen")
        before = {} if via or said_seen is not None else self._known.get(author, {})
        self._vector = {**before, **self._placed(parse_seen(said_seen or b""))}
        self._vector[author] = self._position
        now = self._clock()
        self._heard[origin] = now
        if via and at is not None and via in self._lines:
            self._heard[via] = now
            self._follow(via, at)
            self._known.setdefault(via, {})[via] = self._lines[via].place(at)
            self._saw(via, at, end, "link")
        if not self._in_snapshot:
            self._known[author] = self._vector
            self._saw(author, where, end, scope)
            self._moved = True

    def local(self, db: int, raw: bytes, end: int) -> None:
        """A run of our own writes, of which nothing but the keys matters."""
        self.local_window.note(db, raw, end)
        if self._commuting is not None:
            self._commuting.note(self.stream, db, raw, end)

    def command(self, db: int, argv: list[bytes], end: int) -> None:
        """One of our own writes that has to be looked at."""
        if len(argv) > 1 and is_reserved(argv[1]):
            return
        name = argv[0].upper()
        if self._concerns_all(name):
            self.local_window.all_written(end)
            return
        deletes = name in (b"DEL", b"UNLINK") and len(argv) == 2  # as a server writes it for a key that expired
        for place in self._written(db, argv):
            if deletes and self.expired(place, end) and self.lapsed.add(place, end):
                continue
            self.lapsed.forget(place)
            self.local_window.touch(place, end)
            entry = self.pending.get(place)
            if entry is not None and entry.acting and name in _WHOLE:
                entry.echoed_at = end
        if self._commuting is not None:
            self._commuting.command(self.stream, db, argv, end)
        self._flow(db, argv, end)

    def unit(self, tag: Tag, sources: Iterable[Source], end: int) -> None:
        """The commands of a tagged transaction."""
        origin = tag.origin
        if len(self._peers) > 1 and not self._in_snapshot:
            self._need(tag)
        window = self.windows.get(origin)
        vector = self._vector
        checks = [
            (name, one, vector.get(name, -1))
            for name, one in self.windows.items()
            if name != origin and one.last > vector.get(name, -1)
        ]
        lapsed = origin != self.here and len(self.lapsed) > 0
        for db, raw in sources:
            if lapsed:
                for place, at in list(self.lapsed.met(db, raw, vector.get(self.stream, -1), self._written)):
                    self._conflict(place, (self.stream, at), (self._author, self._position), "expired")
            if window is not None:
                window.note(db, raw, self._position)
            if checks or self.pending or self._flows or len(self._peers) > 1:
                self._look(origin, db, raw, checks, end)
            if self._commuting is not None:
                self._commuting.note(origin, db, raw, self._position)

    # --- detection ---

    def _look(self, origin: str, db: int, raw: bytes, checks: list[tuple[str, Window, int]], end: int) -> None:
        keys, others = command_keys(raw, SIMPLE)
        flowing: list[list[bytes]] = []
        commuting = self._commuting
        signatures = commuting.signatures(db, raw) if commuting is not None and checks else None
        for key in dict.fromkeys(self._suspects(db, keys, checks)):
            if is_reserved(key):
                continue
            self._one(origin, (db, key), checks, signatures)
        for at in others:
            found = parse(raw, at, len(raw))
            assert found is not None
            argv = found[0]
            name = argv[0].upper()
            if len(argv) > 1 and is_reserved(argv[1]):
                continue
            if self._concerns_all(name):
                for which, window, limit in checks:
                    for place in window.after(limit):
                        self._conflict(place, (which, window.last), (self._author, self._position))
                continue
            for place in self._written(db, argv):
                conflicts = self._one(origin, place, checks, signatures)
                if name in _WHOLE and not conflicts:
                    self._settled(place, origin)
            if read_keys(argv):
                flowing.append(argv)
        for argv in flowing:
            self._tagged_flow(origin, db, argv, checks)

    def restate(self, place: Place) -> None:
        """Echo a disputed key once from here, since its home may not know of the dispute; it settles what that meets.

        So for a copy that we made of a key which is not what it was: where the copying had no effect elsewhere, its
        home's stream says nothing of it.
        """
        entry = self.pending[place]
        if not entry.acting and not entry.asked_at:
            entry.asked_at = self._clock()
            self.asks[place] = None

    def _suspects(self, db: int, keys: list[bytes], checks: list[tuple[str, Window, int]]) -> list[bytes]:
        """Keys that are worth a look, since most are not."""
        if any(window.floor > limit for _, window, limit in checks):
            return keys
        found = [key for _, window, _ in checks for key in window.among(db, keys)]
        flows = self._flows
        if flows:
            found += [key for key in keys if (db, key) in flows]
        return found

    def _one(
        self,
        origin: str,
        place: Place,
        checks: list[tuple[str, Window, int]],
        signatures: dict[Place, Atoms] | None,
    ) -> bool:
        """Look at one key that the transaction writes. True for a conflict."""
        outputs = self._flows.get(place)
        if outputs:
            for (output, by), at in list(outputs.items()):
                if output != place and by != origin and at > self._vector.get(by, -1):
                    self._conflict(output, (by, at), (self._author, self._position), "read")
                    if by == self.stream:
                        self.restate(output)
        for name, window, limit in checks:
            at = window.get(place)
            if at <= limit:
                if window.floor <= limit or self._in_snapshot:
                    continue
                if self._lacked(name, place):
                    self.doubted(place)
                    continue
            commuting = self._commuting
            if (
                commuting is not None
                and signatures is not None
                and at > limit
                and window.floor <= limit
                and place not in self.pending
                and commuting.commute(name, place, limit, signatures.get(place))
            ):
                continue
            self._conflict(place, (name, max(at, window.floor)), (self._author, self._position))
            return True
        return False

    def _lacked(self, name: str, place: Place) -> bool:
        """Is it known that the key was not there where the window of ``name`` begins?"""
        if self.had is None or name != self.stream or self.local_window.floor > self.had_to or place[0] == FUNCTIONS:
            return False
        return place not in self.had

    def _tagged_flow(self, origin: str, db: int, argv: list[bytes], checks: list[tuple[str, Window, int]]) -> None:
        """Outputs of a command whose inputs differ between here and where it was made are not the same either."""
        if len(self._peers) > 1:
            self._remember_flow(origin, db, argv, self._position)
        for _, key in read_keys(argv):
            place = (db, key)
            for name, window, limit in checks:
                at = window.get(place)
                if at > limit or (window.floor > limit and not self._in_snapshot and not self._lacked(name, place)):
                    self._unsettle(db, argv, (name, max(at, window.floor)), (self._author, self._position))
                    return
            if place in self.pending:
                mine = (self.stream, self.local_window.last)
                self._unsettle(db, argv, mine, (self._author, self._position))
                return

    def _flow(self, db: int, argv: list[bytes], end: int) -> None:
        """Our own RENAME, COPY, SUNIONSTORE …: what they read is remembered, for it may turn out to be disputed."""
        sources = [(db, key) for _, key in read_keys(argv)]
        if not sources:
            return
        for place in sources:
            if place in self.pending:
                self._unsettle(db, argv, (self.stream, end), (self.stream, end))
                break
        self._remember_flow(self.stream, db, argv, end)

    def _remember_flow(self, name: str, db: int, argv: list[bytes], end: int) -> None:
        if len(self._flows) >= _MOST_FLOWS:
            self.windows[name].all_written(end)
            return
        outputs = [(place, name) for place in self._written(db, argv)]
        for _, key in read_keys(argv):
            self._flows.setdefault((db, key), {}).update(dict.fromkeys(outputs, end))
        self._flows_until[name] = end

    def _unsettle(self, db: int, argv: list[bytes], first: tuple[str, int], second: tuple[str, int]) -> None:
        for place in self._written(db, argv):
            self._conflict(place, first, second, "read")

    def mark(self, place: Place, reason: str) -> None:
        """A key that was found to differ in another way: an unexpected reply, a broken order."""
        end = self.local_window.last
        self._conflict(place, (self.stream, end), (self.stream, end), reason)
        self.pending[place].marked = True

    def _conflict(
        self, place: Place, first: tuple[str, int], second: tuple[str, int], reason: str = "concurrent"
    ) -> None:
        entry = self.pending.get(place)
        winner = self.homes.home(place)
        now = self._clock()
        if entry is None:
            if len(self.pending) >= _MOST_PENDING:
                self.pending.pop(next(iter(self.pending)))
                self.figures.given_up += 1
            entry = self.pending[place] = _Pending({}, now, winner == self.here, now)
            if entry.acting and self._delay_s == 0.0:
                self._ask(place, entry)
        elif entry.acting:
            entry.again = True
        for name, offset in (first, second):
            entry.positions[name] = max(offset, entry.positions.get(name, -1))
        entry.twice = False
        entry.disputed_at = now
        self._moved = True
        if not self.quiet:
            self.figures.conflicts += 1
            self._on_conflict(Conflict(place, first, second, winner, time.time(), reason))

    def _settled(self, place: Place, origin: str) -> None:
        """A whole value of a disputed key came from somebody who had seen every write that was in dispute."""
        entry = self.pending.get(place)
        if entry is None or entry.acting:
            return
        if _covered(self._vector, entry.positions, origin):
            del self.pending[place]
            self.figures.settled += 1

    # --- what goes by time and by what others have seen ---

    def progress(self) -> None:
        """Settle what everybody has seen, and ask for what is still to be echoed (`asks`)."""
        now = self._clock()
        oldest = self.oldest_seen
        if self._moved:
            self.lapsed.expire(oldest)
            for name, window in self.windows.items():
                window.expire(oldest if name == self.stream else self._seen_by_all_but(name))
            if self._flows and all(self._all_saw(name, end) for name, end in self._flows_until.items()):
                self._flows.clear()
            if self._commuting is not None:
                self._commuting.expire(self.stream, oldest)
            if self.had is not None and oldest >= self.had_to:
                self.had = None
        self._moved = False
        disputed = [at for entry in self.pending.values() if (at := entry.positions.get(self.stream)) is not None]
        self.settled_to = min([oldest, *disputed]) - (1 if disputed else 0)
        for place, entry in list(self.pending.items()):
            if entry.acting:
                self._follow_up(place, entry, now)
            elif now - entry.disputed_at > _PROMPT_S and self._prompt(place, entry, now):
                continue
            elif now - entry.since > _SILENT_S:
                self._stand_in(place, entry, now)

    def _follow_up(self, place: Place, entry: _Pending, now: float) -> None:
        if not entry.asked_at:
            if entry.echoed_at:  # by the other link
                entry.asked_at = now
            elif now - entry.since >= self._delay_s:
                self._ask(place, entry)
            return
        if not entry.echoed_at:
            if now - entry.asked_at > _STALE_S:
                self._ask(place, entry)
            return
        everybody = all(self._at(peer, place) >= entry.echoed_at for peer in self._peers)
        if everybody and len(self._peers) > 1:
            everybody = all(
                self._seen_by(peer, name) >= offset for peer in self._peers for name, offset in entry.positions.items()
            )
        if everybody:
            if entry.again or (len(self._peers) > 1 and not entry.twice):
                entry.twice = not entry.again
                self._ask(place, entry)
            else:
                del self.pending[place]
                self.figures.settled += 1
        elif entry.again and now - entry.asked_at > _AGAIN_S:
            self._ask(place, entry)

    def _prompt(self, place: Place, entry: _Pending, now: float) -> bool:
        """The home has all the writes in dispute, and no echo came: a write that had no effect there is not in its
        stream, so it may not know of the dispute. Its server is asked for the echo from here.
        """
        if self._there != self.homes.home(place):
            return False
        known = self._known.get(self._streams.of(self._there, place), {})
        if self.applied > known.get(self.stream, -1):  # a write without effect there asks for no tag in return
            known = {**known, self.stream: self.applied}
        if not _covered(known, entry.positions, self._there):
            return False
        entry.disputed_at = now
        self.prompts[place] = None
        return True

    def _has_seen(self, name: str, place: Place, entry: _Pending) -> bool:
        return _covered(self._known.get(self._streams.of(name, place), {}), entry.positions, name)

    def _at(self, peer: str, place: Place) -> int:
        """How much of our stream the one of ``peer`` that has this key has seen."""
        return self._known.get(self._streams.of(peer, place), {}).get(self.stream, -1)

    def _stand_in(self, place: Place, entry: _Pending, now: float) -> None:
        """The home is silent: the next in the circle echoes. Or it saw no conflict, and nothing is waited for."""
        if self._has_seen(self.homes.home(place), place, entry):
            # Alive, then: to echo another state over its own would undo writes that nobody else made.
            del self.pending[place]
            return
        for name in self.homes.ranking(place):
            if name == self.here:
                entry.acting = True
                self._ask(place, entry)
                return
            if now - max(self._heard.get(name, 0.0), entry.since) <= _SILENT_S:
                return

    def _ask(self, place: Place, entry: _Pending) -> None:
        entry.asked_at = self._clock()
        entry.echoed_at = 0
        entry.again = False
        self.asks[place] = None

    def take_asks(self) -> list[Place]:
        """Keys to be echoed here now, each told once."""
        asks = [place for place in self.asks if (entry := self.pending.get(place)) and not entry.echoed_at]
        self.asks.clear()
        return asks

    def seen_at(self, position: int) -> str:
        """Our own vector as it was at ``position`` of our stream, or an older one."""
        for at, seen in reversed(self._history):
            if at <= position:
                return seen
        return self._first_seen

    def drop(self, place: Place) -> None:
        """It cannot be echoed: nobody waits for it any more."""
        if self.pending.pop(place, None) is not None:
            self.figures.given_up += 1

    @property
    def oldest_seen(self) -> int:
        """What every other datacenter has seen of our stream, as far as their tags have told; -1 for nothing."""
        return self._seen_by_all_but(self.stream)

    def _seen_by_all_but(self, name: str) -> int:
        peers = self._peers if name == self.stream else [peer for peer in self.homes.datacenters if peer != name]
        return min((self._seen_by(peer, name) for peer in peers), default=-1)

    def _all_saw(self, name: str, end: int) -> bool:
        return self._seen_by_all_but(name) >= end

    def seen_by(self, peer: str, name: str) -> int:
        """How far ``peer`` has applied the stream of ``name``; -1 when that is not known."""
        return self._seen_by(peer, name)

    def _seen_by(self, peer: str, name: str) -> int:
        if peer == self.here:
            return self._lines[name].place(self.own.get(name))
        streams = self._streams.all(peer, None if self._slots is None else self._slots())
        return min((self._known.get(one, {}).get(name, -1) for one in streams), default=-1)

    # --- small things ---

    def _policy(self, origin: str, fingerprint: str) -> None:
        if fingerprint != self.homes.fingerprint:
            self.strangers[origin] = fingerprint
        else:
            self.strangers.pop(origin, None)

    def _follow(self, name: str, position: tuple[str, int]) -> None:
        self._lines.setdefault(name, Line()).follow(*position)

    def _saw(self, name: str, position: tuple[str, int], end: int, scope: Scope) -> None:
        """Our datacenter has all up to there; of a cluster: our shard."""
        before = self.own.get(name)
        if scope == "slot" or (
            scope == "node" and before is not None and before[0] == position[0] and before > position
        ):
            return
        if before != position:
            self.own[name] = position
            self.seen = format_seen(self.own)
            self._history.append((end, self.seen))

    def _need(self, tag: Tag) -> None:
        """Our next writes may build on these."""
        where = parse_position(tag.fields.get(b"opos", tag.fields.get(b"pos", b"")))
        if where is not None and tag.origin in self._lines:
            own = tag.fields.get(b"own", b"")
            self._needed[tag.origin] = (where[0], int(own)) if own.isdigit() and b"opos" not in tag.fields else where
            self.needs = format_seen(self._needed)

    def _placed(self, vector: Vector) -> dict[str, int]:
        return {name: self._lines[name].place(where) for name, where in vector.items() if name in self._lines}

    def _written(self, db: int, argv: list[bytes]) -> list[Place]:
        if argv[0].upper() == b"FUNCTION":
            return [(FUNCTIONS, name)] if (name := library_name(argv)) else []
        return places_written(db, argv)

    def _concerns_all(self, name: bytes) -> bool:
        info = lookup(name)
        return info is not None and bool(info.flags & Flag.ALLKEYS)


def _covered(vector: dict[str, int], positions: dict[str, int], owner: str) -> bool:
    """Does somebody of ``owner`` who has seen this know of all these writes? Of its own in any case."""
    return all(vector.get(name, -1) >= offset for name, offset in positions.items() if datacenter_of(name) != owner)


__all__ = ["Conflict", "Conflicts", "Figures", "Source"]
