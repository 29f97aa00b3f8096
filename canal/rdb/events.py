"""What an RdbReader tells, in file order. Plain records; offsets count bytes from the start of the RDB."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, final


@final
class Key:
    """A whole key. ``value``: its bytes exactly as they stand, without the type byte.

    ``expire_ms``: absolute Unix time in milliseconds, or None. ``idle`` (seconds) and ``freq`` (0 to 255) are hints of
    LRU and LFU sources. ``offset`` is where the key's record begins, its opcodes included, and ``end`` where it ends:
    a key boundary. ``meta``: raw module metadata that DUMP puts before the type byte (opcode 243 of Redis), else
    empty. ``fields``: the field names of a hash that refers to a template (types 30 and 32), else None.
    """

    __slots__ = ("db", "end", "expire_ms", "fields", "freq", "idle", "key", "meta", "offset", "type", "value")

    def __init__(
        self,
        db: int,
        key: bytes,
        type: int,
        value: bytes,
        expire_ms: int | None,
        idle: int | None,
        freq: int | None,
        offset: int,
        end: int,
        meta: bytes = b"",
        fields: tuple[bytes, ...] | None = None,
    ) -> None:
        self.db = db
        self.key = key
        self.type = type
        self.value = value
        self.expire_ms = expire_ms
        self.idle = idle
        self.freq = freq
        self.offset = offset
        self.end = end
        self.meta = meta
        self.fields = fields

    def _astuple(self) -> tuple[Any, ...]:
        place = (self.db, self.key, self.offset, self.end)
        return (*place, self.type, self.value, self.expire_ms, self.idle, self.freq, self.meta, self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._astuple() == other._astuple()

    def __hash__(self) -> int:
        return hash(self._astuple())

    def __repr__(self) -> str:
        shown = self.value if len(self.value) <= 40 else self.value[:40] + b"..."
        where = f"offset={self.offset}, end={self.end}"
        return f"Key(db={self.db}, key={self.key!r}, type={self.type}, value={shown!r}, {where})"


@final
class PlainRun:
    """Ordinary keys of database ``db``, written as commands by `canal.rdb.plain`; only where the reader was asked to.

    ``raw``: the ``commands`` commands as RESP, for ``keys`` keys, ``sets`` of them strings by SET. ``passed``: keys
    that were counted only. ``end``: offset of the key boundary after them; ``after``: the same as an index of the
    block.
    """

    __slots__ = ("after", "commands", "db", "end", "keys", "passed", "raw", "sets")

    def __init__(
        self, db: int, raw: bytes, commands: int, keys: int, passed: int, sets: int, end: int, after: int
    ) -> None:
        self.db = db
        self.raw = raw
        self.commands = commands
        self.keys = keys
        self.passed = passed
        self.sets = sets
        self.end = end
        self.after = after


@dataclass(frozen=True, slots=True)
class Header:
    """The first event: ``flavor`` is ``redis`` or ``valkey``, by the magic."""

    version: int
    flavor: str


@dataclass(frozen=True, slots=True)
class Aux:
    """An informational field; may stand between keys too."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class SelectDb:
    db: int


@dataclass(frozen=True, slots=True)
class ResizeDb:
    """A hint of how many keys follow in this database; not to be relied on."""

    keys: int
    expires: int


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """A hint of how many keys of a cluster slot follow."""

    slot: int
    keys: int
    expires: int


@dataclass(frozen=True, slots=True)
class SlotImport:
    """Valkey: slots that the source was importing from another node when it saved; ``ranges`` are inclusive."""

    job: bytes
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function library: ``code`` for FUNCTION LOAD. ``pre_release``: of a Redis 7.0 candidate, which no release
    loads.
    """

    code: bytes
    pre_release: bool = False


@dataclass(frozen=True, slots=True)
class ModuleAux:
    """Data of a module outside of keys: raw bytes from the module id on, which commands cannot carry."""

    module: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class HashTemplate:
    """Redis 8.10: field names shared by the hashes that name this ``id``."""

    id: int
    fields: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class KeyStart:
    """A key whose value is longer than the reader's bound and follows in parts, closed by KeyEnd.

    ``count``: elements that the value says it has; for a string its length in bytes. ``head``: raw bytes of the value
    before its first element. The other fields are those of Key.
    """

    db: int
    key: bytes
    type: int
    head: bytes
    count: int
    expire_ms: int | None
    idle: int | None
    freq: int | None
    offset: int
    meta: bytes = b""
    fields: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True)
class ValuePart:
    """The next bytes of a big value: ``count`` whole elements (pairs, triples, nodes) of its type as they stand.

    Of a string: the next bytes of its text, count 0. ``tail``: what follows the elements of a stream, its counters and
    groups. ``offset``: of the first of these bytes in the RDB.
    """

    data: bytes
    count: int
    offset: int
    tail: bool = False


@dataclass(frozen=True, slots=True)
class KeyEnd:
    """The big value is complete; ``end`` is a key boundary."""

    end: int


@dataclass(frozen=True, slots=True)
class End:
    """The RDB is complete and its checksum right. ``crc`` as stored: 0 = the writer made none, None = RDB before
    version 5.

    ``checked`` is False where there was nothing to check: no checksum, or a reading that began in the middle without
    one. ``offset``: length of the RDB in bytes.
    """

    crc: int | None
    offset: int
    checked: bool


Event = (
    Key
    | PlainRun
    | Header
    | Aux
    | SelectDb
    | ResizeDb
    | SlotInfo
    | SlotImport
    | Function
    | ModuleAux
    | HashTemplate
    | KeyStart
    | ValuePart
    | KeyEnd
    | End
)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a reading may go on: a key boundary and what the bytes before it had set.

    ``crc``: CRC64 of the bytes before ``offset``; None means that the checksum cannot be checked at the end.
    """

    version: int
    flavor: str
    db: int
    offset: int
    crc: int | None = None
    templates: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A form for json.dumps; from_json reads it."""
        names = {str(n): [base64.b64encode(f).decode() for f in fields] for n, fields in self.templates.items()}
        plain = {"version": self.version, "flavor": self.flavor, "db": self.db, "offset": self.offset, "crc": self.crc}
        return {**plain, "templates": names}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ResumePoint:
        """Raises KeyError, TypeError or ValueError where ``data`` is not of to_json's form."""
        templates = {int(n): tuple(base64.b64decode(f) for f in fields) for n, fields in data["templates"].items()}
        crc = None if data["crc"] is None else int(data["crc"])
        return cls(int(data["version"]), str(data["flavor"]), int(data["db"]), int(data["offset"]), crc, templates)
