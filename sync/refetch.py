"""Keys whose commands are passed over until their whole state has been fetched from the source.

Three things bring a key here: its commands came beyond the fork of a source failover; it expired at a target that was
behind although the source had renewed it; a person asked for it. The rule is always the same. From some point of the
stream on, commands that write the key are not replayed. When replay is close to the source, the key is read there
together with the source's offset ``O`` (MULTI … DUMP, PTTL, TIME, INFO … EXEC, so that they belong together). Commands
up to ``O`` are still passed over; before the first one beyond it the key is restored, and it is an ordinary key again.

Which keys are meant is kept at the target, in a reserved set that is changed in the same transactions that move the
checkpoint. So a crash, or a failed-over target, finds the set that belongs to its position, and nothing is lost or
doubled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from canal.commands import ONE_KEY, read_keys, written_in
from canal.resp import encode
from sync.rewrite import Payloads
from sync.rules import Adjust, Adjusted, Dropped, Impossible, Rules
from sync.sieve import Sieve
from sync.tag import INDEX, RESERVED
from sync.unit import Piece, Unit

Place = tuple[int, bytes]
"""(database, key) as the stream names it."""

_MEMBERS: Final = 1000  # in one command
_ONE_KEY: Final = ONE_KEY - {b"MOVE", b"move"}
_LANDING_BYTES: Final = 1 << 20
_MOST_FETCHED: Final = 1000
PASSED_OVER: Final = "refetched"
"""The reason under which commands are counted whose key is fetched instead."""


def refetch_key(task: str, shard: str) -> bytes:
    """The reserved set of a link's keys."""
    return RESERVED + f"refetch:{task}/{shard}".encode()


def to_member(place: Place) -> bytes:
    """A place as a member of the set: ``<db>:<key>``."""
    return b"%d:%b" % place


def from_member(member: bytes) -> Place:
    """Read a member; ValueError when it is none."""
    db, _, key = member.partition(b":")
    return int(db), key


@dataclass(frozen=True, slots=True)
class Fetched:
    """A key's state at the source when its stream stood at ``offset``. ``payload`` None: it did not exist."""

    place: Place
    offset: int
    payload: bytes | None
    deadline_ms: int  # 0: none


AtTarget = Callable[[Place], Place | None]
"""Where a key of the source stands at the target; None: nowhere."""


def same_place(place: Place) -> Place:
    """The mapping of a link without filters and rewrites."""
    return place


class Refetch:
    """The keys of one session. ``name``: the reserved set. ``payloads`` turns source payloads into the target's."""

    def __init__(self, name: bytes, keys: set[Place], payloads: Payloads, at_target: AtTarget = same_place) -> None:
        self.name = name
        self.keys = keys
        self.fetched: dict[Place, Fetched] = {}
        self._payloads = payloads
        self.at_target = at_target
        self.identity = at_target is same_place
        self.sieve: Sieve | None = None
        self._databases = {db for db, _ in keys}

    def __bool__(self) -> bool:
        return bool(self.keys)

    def wanted(self, most: int) -> list[Place]:
        """Keys that are not fetched yet."""
        out: list[Place] = []
        for place in self.keys:
            if place not in self.fetched:
                out.append(place)
                if len(out) == most:
                    break
        return out

    def govern(self, rules: Rules) -> None:
        """Put this rule before those of ``rules``; commands that may concern the keys are looked at."""
        inner = rules.adjust
        self.sieve = Sieve(rules)
        self.sieve.owned(self._names)
        self.sieve.add([key for _, key in self.keys])

        def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
            if not self.keys:
                return inner(db, argv, received_ms, end)
            return self._adjust(inner, db, argv, received_ms, end)

        rules.adjust = adjust
        rules.over = self._over

    def _over(self, db: int, argv: list[bytes]) -> str:
        """The short way for commands of one key that has not been fetched yet: there may be very many."""
        if not self.keys or len(argv) < 2 or argv[0] not in _ONE_KEY:
            return ""
        place = (db, argv[1])
        return PASSED_OVER if place in self.keys and place not in self.fetched else ""

    def _names(self, name: bytes) -> bool:
        """Is a key of this name waiting, in any database?"""
        return any((db, name) in self.keys for db in self._databases)

    def _adjust(self, inner: Adjust, db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        written = written_in(db, argv)
        touched = {*written, *((db, key) for _, key in read_keys(argv))} & self.keys
        if not touched:
            return inner(db, argv, received_ms, end)
        before: list[tuple[int, list[bytes]]] = []
        for place in touched & self.fetched.keys():
            if end > self.fetched[place].offset:
                before += self._landing(self.fetched[place])
                touched.discard(place)
        if not touched:
            result = inner(db, argv, received_ms, end)
            if isinstance(result, Impossible):
                return result
            return before if isinstance(result, Dropped) else [*before, *result]
        more = self.add([place for place in written if place not in self.keys])
        return [*before, *more] or Dropped(PASSED_OVER)

    def add(self, places: list[Place]) -> list[tuple[int, list[bytes]]]:
        """From here on these are passed over; the commands that keep them at the target, for the same transaction."""
        places = [place for place in dict.fromkeys(places) if place not in self.keys]
        if not places:
            return []
        self.keys.update(places)
        self._databases.update(db for db, _ in places)
        if self.sieve is not None:
            self.sieve.add([key for _, key in places])
        members = [to_member(place) for place in places]
        parts = [members[begin : begin + _MEMBERS] for begin in range(0, len(members), _MEMBERS)]
        return [(0, [b"SADD", INDEX, self.name]), *((0, [b"SADD", self.name, *part]) for part in parts)]

    def drop(self, places: list[Place]) -> list[tuple[int, list[bytes]]]:
        """These are somebody else's by now: neither passed over nor fetched any more."""
        if not places:
            return []
        self.keys.difference_update(places)
        for place in places:
            self.fetched.pop(place, None)
            if self.sieve is not None:
                self.sieve.release(place[1])
        return [(0, [b"SREM", self.name, *(to_member(place) for place in places)])]

    def due(self, position: int) -> list[tuple[int, list[bytes]]]:
        """Commands that restore what was fetched at or before ``position``, where nothing wrote it since.

        For some of the keys at a time, since they are one transaction, and a target is not to be held up by it: call
        again until nothing comes.
        """
        out: list[tuple[int, list[bytes]]] = []
        size = 0
        for fetched in [one for one in self.fetched.values() if one.offset <= position]:
            out += self._landing(fetched)
            size += _LANDING_BYTES // 200 + len(fetched.payload or b"")
            if size >= _LANDING_BYTES:
                break
        return out

    @property
    def laden(self) -> bool:
        """So much is fetched and waits for its offset that no more should be."""
        return len(self.fetched) >= _MOST_FETCHED

    def _landing(self, fetched: Fetched) -> list[tuple[int, list[bytes]]]:
        """Restore one key and take it from the set."""
        self.keys.discard(fetched.place)
        if self.sieve is not None:
            self.sieve.release(fetched.place[1])
        del self.fetched[fetched.place]
        done = (0, [b"SREM", self.name, to_member(fetched.place)])
        place = self.at_target(fetched.place)
        if place is None:  # the filters leave it out by now
            return [done]
        db, key = place
        commands: list[list[bytes]] = [[b"DEL", key]]
        if fetched.payload is not None:
            made = self._payloads(key, fetched.payload)
            if isinstance(made, bytes):
                commands = [[b"RESTORE", key, b"0", made, b"REPLACE"]]
            elif made is not None:
                commands += made
            if fetched.deadline_ms:
                commands.append([b"PEXPIREAT", key, b"%d" % fetched.deadline_ms])
        return [*((db, argv) for argv in commands), done]


def unit_of(commands: list[tuple[int, list[bytes]]], end: int, db: int, received_ms: int) -> Unit:
    """Commands of our own as a unit that stands at ``end``."""
    pieces = [Piece(at, encode(argv), 1) for at, argv in commands]
    return Unit(end, db, pieces, received_ms, atomic=True)
