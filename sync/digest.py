"""Which keys a stretch of the stream writes, as the link would carry it: hashes and nothing else. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.commands import Flag, lookup, written_in
from canal.errors import CanalError
from canal.framing import ANY
from canal.keyscan import command_keys
from canal.position import Position
from canal.resp import parse
from sync.dirtyset import DirtySet
from sync.homes import FUNCTIONS, Place, library_name
from sync.rules import Dropped, Rules
from sync.tag import Tag, is_reserved
from sync.unit import UnitReader
from sync.window import SIMPLE

_DELETES: Final = (b"DEL", b"UNLINK", b"del", b"unlink")
_PASSED: Final = dict.fromkeys(SIMPLE, ANY) | dict.fromkeys(_DELETES, 2)
_WITHOUT_KEYS: Final = frozenset({b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"CLUSTER"})
_SCRIPTS: Final = frozenset({b"EVAL", b"EVALSHA", b"FCALL"})
"""As servers before 5.0 replicate them; what they write is not said."""
_MOST_BYTES: Final = 256 * 1024

Expired = Callable[[Place, int, int], bool]
"""Had its deadline passed at the source? (place, unix ms, end of the delete)"""


class Unknowable(CanalError):
    """A command does not name the keys that it writes."""


class Digest:
    """Fed with a stream from ``position`` on, where ``db`` is selected, it adds to ``keys`` what is written ``after``
    an offset, the end of a unit.

    ``drop``: origins whose tagged writes are not carried. A `sync.unit.Watch`.
    """

    def __init__(
        self,
        keys: DirtySet,
        position: Position,
        db: int,
        source_dc: str,
        drop: frozenset[str],
        expired: Expired,
        after: int = -1,
    ) -> None:
        self.keys = keys
        self.replid = position.replid  # of the newest byte
        self.next = position.offset  # where the next byte to be fed stands
        self.seen = self.needs = ""
        self._drop, self._after = drop, after
        self._expired = expired
        rules = Rules(source_dc, drop, dict(_PASSED), lambda *_: Dropped("known"), flush="replay", watch=self)
        rules.max_bytes = _MOST_BYTES
        self._units = UnitReader(position.offset, db, rules)

    @property
    def position(self) -> Position:
        """A place outside MULTI up to which all is known; reading may go on there."""
        return Position(self.replid, self._units.position)

    @property
    def db(self) -> int:
        """Selected at `position`."""
        return self._units.db

    def feed(self, data: bytes, received_ms: int) -> None:
        """The bytes from `next` on. Raises Unknowable, ProtocolError and what else makes the stream unreadable; then
        nothing is known any more.
        """
        known = self._after - self.next
        for part in (data[:known], data[known:]) if 0 < known < len(data) else (data,):
            self._units.feed(self.next, part, received_ms)
            self.next += len(part)
        if self.keys.over:
            raise Unknowable(f"more than {self.keys.max_keys} keys were written")

    # --- sync.unit.Watch

    def tag(self, tag: Tag, end: int) -> None:
        """Of no concern."""

    def local(self, db: int, raw: bytes, end: int) -> None:
        """A run of commands that pass."""
        if end <= self._after:
            return
        keys, others = command_keys(raw, SIMPLE)
        self.keys.add_keys(db, keys)
        for at in others:
            found = parse(raw, at, len(raw))
            assert found is not None
            argv, after = found
            if len(argv) == 2 and argv[0] in _DELETES:
                self._delete((db, argv[1]), end - len(raw) + after)
            else:
                self.command(db, argv, end)

    def command(self, db: int, argv: list[bytes], end: int) -> None:
        """One command that is looked at."""
        name = argv[0].upper()
        if end <= self._after or name in _WITHOUT_KEYS or (len(argv) > 1 and is_reserved(argv[1])):
            return
        if name == b"FUNCTION" and (library := library_name(argv)):
            self.keys.add((FUNCTIONS, library))
            return
        info = lookup(name)
        written = [] if info is None or name in _SCRIPTS else written_in(db, argv)
        if info is None or info.flags & Flag.ALLKEYS or (not written and info.flags & Flag.WRITE) or name in _SCRIPTS:
            what = name.decode("ascii", "replace")
            raise Unknowable(f"{what} before offset {end} does not name the keys that it changed")
        if len(argv) == 2 and name in _DELETES:
            self._delete(written[0], end)
            return
        for place in written:
            self.keys.add(place)

    def _delete(self, place: Place, end: int) -> None:
        """A delete as a server makes it of an expired key, too. Of one that was not written here it is nobody's write,
        and the other side may have renewed it.
        """
        if not self._expired(place, self._units.received_ms, end) or place in self.keys:
            self.keys.add(place)

    def unit(self, tag: Tag, sources: list[tuple[int, bytes]], end: int) -> None:
        """A tagged transaction: the link's own, or one that it passes on."""
        if tag.origin in self._drop:
            return
        for db, raw in sources:
            self.local(db, raw, end)
