"""Two ways: deadlines of hash fields (Redis 7.4+, Valkey 9), as `sync.expiry` has those of keys. No I/O.

A server writes an HDEL when a field's deadline has passed: Redis one for each field, by its cycle and by reads (HGET
…); Valkey one for several, and where that empties the hash an UNLINK of the key in the same transaction. Fields whose
deadline had passed at the source are deleted at the target only if theirs is no later and not gone; the UNLINK says
nothing more and is left out. Other fields of the command are a user's, and are deleted whatever the target has.

Every command that gives a field a deadline or takes it away can be told from the stream, and so can whatever removes or
replaces a whole hash, so there is nothing unsure here. A hash that has such fields has a number; the deadlines belong
to the number, so that DEL, RENAME and RESTORE are one step however many fields there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from canal.commands import ServerKind
from canal.errors import RdbError
from canal.rdb.dump import split_payload
from canal.rdb.elements import whole_hash
from canal.rdb.types import MAY_HAVE_DEADLINES
from canal.resp import encode
from sync.conditional import delete_fields
from sync.expiry import EARLY_MS, SLACK_MS, Deadlines
from sync.homes import Place
from sync.rewrite.deadlines import fields_of

_COUNT_BITS: Final = 24
_MOST: Final = (1 << _COUNT_BITS) - 1
_STALE_MS: Final = 3_600_000

ALWAYS: Final = frozenset({b"HPEXPIREAT", b"HSETEX", b"HPERSIST", b"HGETDEL"})
"""Commands of streams that are about deadlines of fields, or may delete such fields, and that are rare without them."""
WHEN_USED: Final = frozenset({b"HSET", b"HMSET", b"HDEL"})
"""Those that matter once a field with a deadline was met, and not before."""
_WHOLE: Final = frozenset(
    {b"DEL", b"UNLINK", b"RENAME", b"RENAMENX", b"COPY", b"MOVE", b"RESTORE", b"FLUSHALL", b"FLUSHDB", b"SWAPDB"}
)
OBSERVED: Final = ALWAYS | WHEN_USED | _WHOLE


class FieldDeadlines:
    """Deadlines by field: 24 to 36 bytes a field and as many again for each hash that has some.

    At most ``max_fields`` are kept; the rest is counted in ``untracked``, and deleted unconditionally. Those of hashes
    that are gone make room an hour after they have passed.
    """

    def __init__(self, max_fields: int = 10_000_000) -> None:
        self.now_ms = 0  # by the source's clock, as far as the stream was read
        self._fields = Deadlines(max_fields)
        self._hashes = Deadlines(max_fields)  # → number of the hash, and how many of its fields are known
        self._next = 1

    def __len__(self) -> int:
        return len(self._fields)

    @property
    def untracked(self) -> int:
        """Deadlines for which there was no room."""
        return self._fields.untracked + self._hashes.untracked

    @property
    def nbytes(self) -> int:
        """Memory of the tables in bytes."""
        return self._fields.nbytes + self._hashes.nbytes

    def known(self, place: Place) -> int:
        """A number other than 0 when fields of this hash have, or had, deadlines; for `get`."""
        return self._hashes.get(place) >> _COUNT_BITS

    def get(self, number: int, field: bytes) -> int:
        """The deadline of a field in unix ms, 0 when none is known."""
        return self._fields.get((number, field)) if number else 0

    def set(self, place: Place, field: bytes, deadline: int) -> None:
        """Remember a field's deadline; 0 forgets it."""
        known = self._hashes.get(place)
        if not known:
            if not deadline:
                return
            known = self._next << _COUNT_BITS
        self._fields.stale_before = self.now_ms - _STALE_MS
        number, count = known >> _COUNT_BITS, known & _MOST
        had = self._fields.get((number, field)) != 0
        self._fields.set((number, field), deadline)
        if count < _MOST:  # one that ran over stays until the hash goes
            count = max(0, count + (self._fields.get((number, field)) != 0) - had)
        if count and number == self._next:
            self._next += 1
        self._hashes.set(place, number << _COUNT_BITS | count if count else 0)

    def forget(self, place: Place) -> None:
        """The hash is gone, or something else stands there."""
        self._hashes.set(place, 0)

    def move(self, place: Place, to: Place) -> None:
        """The hash has another name now, or another database."""
        if place != to:
            known = self._hashes.get(place)
            self._hashes.set(place, 0)
            self._hashes.set(to, known)

    def clear(self) -> None:
        """Nothing is known any more."""
        fields, hashes = self._fields, self._hashes
        self._fields, self._hashes = Deadlines(fields.max_keys), Deadlines(hashes.max_keys)
        self._fields.untracked, self._hashes.untracked = fields.untracked, hashes.untracked


class FieldRule:
    """Judges deletes of fields. ``flavor``: of the source, for payloads and for what Valkey's commands do."""

    def __init__(self, deadlines: FieldDeadlines, flavor: str = "redis") -> None:
        self.deadlines = deadlines
        self.offset_ms = 0  # the source's clock minus ours
        self.conditional = 0  # fields deleted with a condition
        self.flavor = flavor
        # of the delete judged last: where its transaction begins and it ends, its hash, its fields that had passed
        self._last: tuple[int, int, Place, dict[bytes, int]] = (-1, -1, (-1, b""), {})
        self._nothing_else = False  # it named no others

    # --- what commands do to deadlines ---

    def observe(self, db: int, argv: list[bytes], received_ms: int) -> None:
        """Follow what a command of the source's stream does to the deadlines of fields."""
        name = argv[0].upper()
        if name in ALWAYS or name in WHEN_USED:
            self._observe_fields(name, (db, argv[1]) if len(argv) > 1 else (db, b""), argv, received_ms)
        elif name in _WHOLE and len(self.deadlines):
            self._observe_keys(name, db, argv)
        if name == b"RESTORE" and len(argv) > 3:
            self._restored((db, argv[1]), argv[3])

    def _observe_fields(self, name: bytes, place: Place, argv: list[bytes], received_ms: int) -> None:
        deadlines = self.deadlines
        if name in WHEN_USED and not deadlines.known(place):
            return
        deadlines.now_ms = now = received_ms + self.offset_ms
        if name in (b"HDEL", b"HGETDEL"):
            for field in self._gone(place, _deleted(argv), now):
                deadlines.set(place, field, 0)
            return
        for field, deadline in self._effects(name, place, argv, now):
            deadlines.set(place, field, deadline)

    def _effects(self, name: bytes, place: Place, argv: list[bytes], now: int) -> Iterator[tuple[bytes, int]]:
        if name in (b"HSET", b"HMSET"):
            yield from ((field, 0) for field in argv[2::2])
            return
        found = fields_of(argv, 2 if name == b"HSETEX" else 1)
        if found is None:
            return
        options, fields = found
        words = [word.upper() for word in options]
        if name == b"HPERSIST":
            yield from ((field, 0) for field in fields)
        elif name == b"HSETEX":
            if b"KEEPTTL" not in words:
                deadline = _deadline_of(words)
                yield from ((field, deadline) for field in fields[::2])
        elif argv[2].isdigit():
            number = self.deadlines.known(place)
            for field in fields:
                if len(fields) == 1 or self._has_effect(words[1:], self.deadlines.get(number, field), argv[2], now):
                    yield field, int(argv[2])

    def _gone(self, place: Place, fields: list[bytes], now: int) -> list[bytes]:
        """Of the fields that a command names, those that it takes away.

        At Valkey fields that have expired stay for its cycle, which names no others in its HDEL; a user's HDEL, which
        is sent on for the sake of others, only names them.
        """
        number = self.deadlines.known(place)
        if self.flavor != "valkey" or not number:
            return fields
        return [one for one in fields if not 0 < self.deadlines.get(number, one) <= now + EARLY_MS] or fields

    def _has_effect(self, conditions: list[bytes], known: int, wanted: bytes, now: int) -> bool:
        """Redis sends on only the fields that HPEXPIREAT did something to, Valkey all that were named."""
        if self.flavor != "valkey":
            return True
        if known and known <= now:
            return False  # gone, though its HDEL is still to come
        deadline = int(wanted)
        return not (
            (b"NX" in conditions and known)
            or (b"XX" in conditions and not known)
            or (b"GT" in conditions and (not known or deadline <= known))
            or (b"LT" in conditions and known and deadline >= known)
        )

    def _observe_keys(self, name: bytes, db: int, argv: list[bytes]) -> None:
        deadlines = self.deadlines
        if name in (b"FLUSHALL", b"FLUSHDB", b"SWAPDB"):
            deadlines.clear()
        elif name in (b"RENAME", b"RENAMENX") and len(argv) == 3:
            deadlines.move((db, argv[1]), (db, argv[2]))
        elif name == b"MOVE" and len(argv) == 3 and argv[2].isdigit():
            deadlines.move((db, argv[1]), (int(argv[2]), argv[1]))
        elif name == b"COPY" and len(argv) > 2:
            words = [word.upper() for word in argv[3:]]
            to = words[words.index(b"DB") + 1] if b"DB" in words[:-1] else b""
            deadlines.forget((int(to) if to.isdigit() else db, argv[2]))  # those of the copy are not known
        elif name == b"RESTORE":
            deadlines.forget((db, argv[1]))
        else:
            for key in argv[1:]:
                deadlines.forget((db, key))

    def _restored(self, place: Place, payload: bytes) -> None:
        try:
            value = split_payload(payload, check=False)
            if value.type in MAY_HAVE_DEADLINES:
                self.learn(place, value.type, value.value)
        except RdbError:
            pass  # a server has taken it, so we know less than it does: its fields' deadlines are not known

    def learn(self, place: Place, value_type: int, value: bytes) -> None:
        """Take up the deadlines of a whole hash of an RDB or a DUMP. Raises RdbError."""
        for field, _, deadline in whole_hash(value_type, self.flavor, value):
            if deadline:
                self.deadlines.set(place, field, deadline)

    # --- deletes ---

    def judge(
        self, db: int, argv: list[bytes], received_ms: int, end: int, transaction: int
    ) -> list[list[bytes]] | None:
        """What to send for an HDEL or HGETDEL that ends at ``end`` of the stream, within the transaction that begins
        at ``transaction`` (-1: none). None: as it is.
        """
        place = (db, argv[1])
        number = self.deadlines.known(place)
        # Redis puts an HDEL of what it finds expired before the one that HGETDEL becomes, which names the field again
        earlier = self._last[3] if self._follows(place, argv, end, transaction) else {}
        if not number and not earlier:
            return None
        fields = _deleted(argv)
        now = received_ms + self.offset_ms + EARLY_MS
        passed: dict[bytes, int] = {}
        for field in fields:
            deadline = self.deadlines.get(number, field) or earlier.get(field, 0)
            if deadline and deadline <= now:
                passed[field] = deadline
        if not passed:
            return None
        self.conditional += len(passed)
        rest = [field for field in fields if field not in passed]
        self._last, self._nothing_else = (transaction, end, place, passed), not rest
        ends = [(field, deadline + SLACK_MS) for field, deadline in passed.items()]
        return [*([[b"HDEL", argv[1], *rest]] if rest else []), *delete_fields(argv[1], ends)]

    def follows_from(self, db: int, argv: list[bytes], end: int, transaction: int) -> bool:
        """Is this UNLINK, which ends at ``end``, only what a server adds when its last fields have expired?"""
        return len(argv) == 2 and self._nothing_else and self._follows((db, argv[1]), argv, end, transaction)

    def _follows(self, place: Place, argv: list[bytes], end: int, transaction: int) -> bool:
        """Does this stand right behind the delete judged last, of the same hash and in the same transaction?"""
        before, at, judged, _ = self._last
        return 0 <= before == transaction and judged == place and end - at == len(encode(argv))


def has_field_ttl(server: ServerKind) -> bool:
    """Does this server know deadlines of hash fields?"""
    return server.at_least((7, 4), (9, 0))


def commands_learned(rule: FieldRule, place: Place, commands: Iterable[list[bytes]]) -> None:
    """Take up the deadlines that these commands, which make a hash piece by piece, give to fields."""
    for argv in commands:
        if argv[0] == b"HPEXPIREAT":
            for field in argv[5:]:
                rule.deadlines.set(place, field, int(argv[2]))


def _deleted(argv: list[bytes]) -> list[bytes]:
    """The fields that HDEL or HGETDEL names."""
    if argv[0].upper() == b"HDEL":
        return argv[2:]
    found = fields_of(argv, 1)
    return found[1] if found else []


def _deadline_of(words: list[bytes]) -> int:
    """The absolute deadline among the options of HSETEX, 0 when there is none."""
    for word, value in pairwise(words):
        if word in (b"PXAT", b"EXAT") and value.isdigit():
            return int(value) * (1 if word == b"PXAT" else 1000)
    return 0


__all__ = ["ALWAYS", "OBSERVED", "WHEN_USED", "FieldDeadlines", "FieldRule", "commands_learned", "has_field_ttl"]
