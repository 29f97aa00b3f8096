"""Concurrent writes, told from one datacenter's stream: who wrote what without having seen what. No I/O.

A tagged write of another datacenter arrives; its tag says how much of ours its author had seen. A key that was written
here after that was written by both at once: a *conflict*. The other side sees the same from its own stream. Whoever is
the key's home echoes it (`sync.echo`), and the others wait for that.

`Conflicts` is fed by `sync.unit.UnitReader` with everything in the order of the stream, and asked by `sync.converge`.
Here is found out which keys are in dispute; `sync.vectors` knows who has seen what, and `sync.disputes` what becomes
of the keys.
See docs/architecture/two-way.md for the rules and the sequences that they come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from canal.commands import Flag, lookup, read_keys
from canal.keyscan import command_keys
from canal.resp import parse
from sync.commutative import Atoms, Commuting
from sync.disputes import Disputes
from sync.homes import FUNCTIONS, Homes, Place, library_name
from sync.lapsed import Lapsed
from sync.streams import stream_name
from sync.tag import Tag, is_reserved
from sync.vectors import Vectors
from sync.window import SIMPLE, Window, places_written

Source = tuple[int, bytes]
"""(database, commands as RESP) as they stand in the stream."""

_SNAPSHOT: Final = (b"snapshot", b"first", b"again")
_MOST_FLOWS: Final = 100_000
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
        self.seen = ""  # our own vector as text, for the tags that we write; here, since it is asked for so often
        self.needs = ""  # likewise, up to the newest write of each: what a third datacenter must have before ours
        self._vectors = Vectors(here, self.stream, homes.datacenters, slots, clock)
        self._disputes = Disputes(here, homes, self._vectors, delay_s=delay_s, there=there, clock=clock)
        self.figures = self._disputes.figures
        self.asks = self._disputes.asks  # to be echoed here; taken by the owner
        self.prompts = self._disputes.prompts  # likewise, at ``there``
        self.pending = self._disputes.pending
        self.strangers: dict[str, str] = {}  # datacenter -> fingerprint, where its policy is another one
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
        self._many = len(self._vectors.peers) > 1
        names = [self.stream] if len(self._vectors.peers) == 1 else homes.datacenters
        self.windows = {name: Window(max_keys, floor if name == self.stream else -1) for name in names}
        self.local_window = self.windows[self.stream]
        self._vector: dict[str, int] = {}  # of the tag met last
        self._author = ""  # the stream that it speaks of
        self._position = -1
        self._in_snapshot = False
        self._flows: dict[Place, dict[tuple[Place, str], int]] = {}  # read -> (output, by whom), with the position
        self._flows_until: dict[str, int] = {}
        self._commuting = Commuting() if commutative else None
        self._moved = False

    # --- what the stream brings ---

    def start(self, seen: str, eras: Sequence[tuple[str, int]]) -> None:
        """Our own vector where reading begins, and our stream's history."""
        self._vectors.start(seen, eras)
        self.seen = self._vectors.seen

    def learn(self, eras: Sequence[tuple[str, int]]) -> None:
        """Our stream's history as the journal has it."""
        self._vectors.learn(eras)

    def tag(self, tag: Tag, end: int) -> None:
        """A tag, bare or before its commands, that ends at ``end`` of our stream."""
        vectors, fields, origin = self._vectors, tag.fields, tag.origin
        if not vectors.concerned(origin):
            return
        self._in_snapshot = fields.get(b"phase") in _SNAPSHOT
        said = fields.get(b"homes")
        if said is not None and not fields.get(b"via"):
            self._policy(origin, said.decode("ascii", "replace"))
        author = vectors.tag(tag, end, snapshot=self._in_snapshot)
        if author is None:
            return
        self._author, self._position, self._vector = author
        self.seen = vectors.seen
        self._moved = self._moved or not self._in_snapshot

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
            if place in self.pending and name in _WHOLE:
                self._disputes.echoed(place, end)
        if self._commuting is not None:
            self._commuting.command(self.stream, db, argv, end)
        self._flow(db, argv, end)

    def unit(self, tag: Tag, sources: Iterable[Source], end: int) -> None:
        """The commands of a tagged transaction."""
        origin = tag.origin
        if self._many and not self._in_snapshot:
            self._vectors.need(tag)
            self.needs = self._vectors.needs
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
            if checks or self.pending or self._flows or self._many:
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
                if name in _WHOLE and not conflicts and place in self.pending:
                    self._disputes.settled(place, origin, self._vector)
            if read_keys(argv):
                flowing.append(argv)
        for argv in flowing:
            self._tagged_flow(origin, db, argv, checks)

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
        if self._many:
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
        winner = self._disputes.dispute(place, (first, second))
        self._moved = True
        if not self.quiet:
            self.figures.conflicts += 1
            self._on_conflict(Conflict(place, first, second, winner, time.time(), reason))

    def restate(self, place: Place) -> None:
        """Echo a disputed key once from here: see `Disputes.restate`."""
        self._disputes.restate(place)

    # --- what the owner does now and then ---

    def progress(self) -> None:
        """Settle what everybody has seen, and ask for what is still to be echoed (`asks`)."""
        now = self._clock()
        vectors = self._vectors
        oldest = vectors.oldest_seen
        if self._moved:
            self.lapsed.expire(oldest)
            for name, window in self.windows.items():
                window.expire(oldest if name == self.stream else vectors.seen_by_all_but(name))
            if self._flows and all(vectors.seen_by_all_but(name) >= end for name, end in self._flows_until.items()):
                self._flows.clear()
            if self._commuting is not None:
                self._commuting.expire(self.stream, oldest)
            if self.had is not None and oldest >= self.had_to:
                self.had = None
        self._moved = False
        disputed = self._disputes.begin(self.stream)
        self.settled_to = oldest if disputed is None else min(oldest, disputed) - 1
        self._disputes.progress(now, self.applied)

    def take_asks(self) -> list[Place]:
        """Keys to be echoed here now, each told once."""
        return self._disputes.take_asks()

    def drop(self, place: Place) -> None:
        """It cannot be echoed: nobody waits for it any more."""
        self._disputes.drop(place)

    def seen_at(self, position: int) -> str:
        """Our own vector as it was at ``position`` of our stream, or an older one."""
        return self._vectors.seen_at(position)

    @property
    def oldest_seen(self) -> int:
        """What every other datacenter has seen of our stream, as far as their tags have told; -1 for nothing."""
        return self._vectors.oldest_seen

    def seen_by(self, peer: str, name: str) -> int:
        """How far ``peer`` has applied the stream of ``name``; -1 when that is not known."""
        return self._vectors.seen_by(peer, name)

    # --- small things ---

    def _policy(self, origin: str, fingerprint: str) -> None:
        if fingerprint != self.homes.fingerprint:
            self.strangers[origin] = fingerprint
        else:
            self.strangers.pop(origin, None)

    def _written(self, db: int, argv: list[bytes]) -> list[Place]:
        if argv[0].upper() == b"FUNCTION":
            return [(FUNCTIONS, name)] if (name := library_name(argv)) else []
        return places_written(db, argv)

    def _concerns_all(self, name: bytes) -> bool:
        info = lookup(name)
        return info is not None and bool(info.flags & Flag.ALLKEYS)


__all__ = ["Conflict", "Conflicts", "Source"]
