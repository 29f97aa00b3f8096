"""Reading an RDB as it arrives: bytes in, events out, no I/O.

An RdbReader commits element by element. Where bytes are missing it goes back to the last committed element and waits;
inside a collection every element is such a point, so that nothing is read twice however the input is cut. Values up to
``stream_above`` bytes come as one Key with their bytes untouched; longer ones come in parts. Format: Redis src/rdb.c,
rdbLoadRioWithLoadingCtx, and Valkey's; what differs from them or was measured stands in types.py.
"""

from __future__ import annotations

from typing import Final, final

import anycrc

from canal.errors import RdbError
from canal.rdb.events import End, Event, HashTemplate, Header, Key, ResumePoint, SelectDb
from canal.rdb.packed import first_entry
from canal.rdb.pending import Held, PackedString, PendingString, PendingValue, Record
from canal.rdb.plain import PlainKeys
from canal.rdb.records import long_event, long_record, read_record
from canal.rdb.types import (
    COUNT,
    GRAMMAR,
    HASH_TEMPLATE_LISTPACK_REF,
    MODULE_PRE_GA,
    NEWEST_REDIS,
    NEWEST_VALKEY,
    OP_EOF,
    OP_EXPIRE_MS,
    OP_EXPIRE_S,
    OP_FREQ,
    OP_IDLE,
    OP_KEY_META,
    OP_SELECTDB,
    REDIS,
    STRING,
    VALKEY,
    Program,
)
from canal.rdb.walk import walk_elements
from canal.rdb.wire import LZF, Malformed, Short, packed_size, read_length, read_string, skip_string

STREAM_ABOVE: Final = 64 << 20
MAX_ELEMENT: Final = 1 << 30
_CRC64: Final = anycrc.Model("CRC64-REDIS")
_FIRST_CHECKSUM: Final = 5
_SPECIAL: Final = 0xC0  # strings that are compressed or integers
_NO_RECORD: Final = -1
_HINT_BYTES: Final = {OP_EXPIRE_MS: 8, OP_EXPIRE_S: 4, OP_FREQ: 1}
_OF_THE_NEXT_KEY: Final = frozenset({OP_IDLE, *_HINT_BYTES})
_LONG_STRING: Final = 8 << 20
"""Longer plain strings come in parts whatever ``stream_above`` says: each part costs no more than the string does."""


@final
class RdbReader:
    """Reads one RDB.

    ``stream_above``: values longer than this many bytes come as KeyStart, ValuePart…, KeyEnd (where their type has
    elements). ``max_element``: a single string longer than this is taken for corruption; plain string values, which
    come in parts, are not bound by it. ``resume``: begin at this key boundary; the first byte fed is the one at its
    offset, and no Header comes.

    feed() returns the events that its bytes complete. Bytes that cannot be an RDB raise RdbError with offset and key:
    on the call that meets them when no event precedes it, else on the next call, so that no event is lost. The caller
    feeds pieces of moderate size (64 KiB to 1 MiB) and must call finish() at the end of the input, which raises if the
    RDB is not complete.
    """

    def __init__(
        self,
        *,
        stream_above: int = STREAM_ABOVE,
        max_element: int = MAX_ELEMENT,
        resume: ResumePoint | None = None,
    ) -> None:
        self.version = 0
        self.flavor = ""
        self.ended = False
        self.plain: PlainKeys | None = None  # once set, ordinary keys come as PlainRun, written as commands
        self.plain_databases = 1 << 30  # of these databases only
        self._stream_above = stream_above
        self._max_element = max_element
        self._buf = b""
        self._base = 0  # offset of _buf[0]
        self._pos = 0  # committed position in _buf, while parsing
        self._waiting: list[bytes] = []  # fed, but not enough to get on
        self._missing = 0  # bytes to be fed before it is worth trying again
        self._crc = 0
        self._crc_known = True
        self._error: RdbError | None = None
        self._db = 0
        self._templates: dict[int, tuple[bytes, ...]] = {}
        self._grammar: dict[int, Program] = {}
        self._value: PendingValue | PendingString | PackedString | None = None
        self._held: Held | None = None
        self._held_opcode = 0
        self._forget_record()
        if resume is not None:
            self._resume(resume)

    def _resume(self, point: ResumePoint) -> None:
        self.version = point.version
        self.flavor = point.flavor
        self._grammar = GRAMMAR[point.flavor]
        self._base = point.offset
        self._db = point.db
        self._templates = dict(point.templates)
        self._crc = point.crc or 0
        self._crc_known = point.crc is not None

    @property
    def offset(self) -> int:
        """Bytes of the RDB read so far, up to the last committed element."""
        return self._base

    @property
    def unused(self) -> bytes:
        """Bytes fed after the end of the RDB; servers ignore such."""
        return self._buf + b"".join(self._waiting) if self.ended else b""

    def resume_point(self, db: int, offset: int, crc: int | None = None) -> ResumePoint:
        """For the key boundary ``offset`` (the ``end`` of a Key or KeyEnd) in database ``db``; ``crc``: of the bytes
        before it.
        """
        return ResumePoint(self.version, self.flavor, db, offset, crc, dict(self._templates))

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that these bytes complete. ``data`` is copied and may be reused. Raises RdbError."""
        if self._error is not None:
            raise self._error
        if len(data) > 0:
            self._waiting.append(bytes(data))
            self._missing -= len(data)
        if self.ended or self._missing > 0 or not self._waiting:
            return []
        out: list[Event] = []
        self._parse(out)
        return out

    def finish(self) -> None:
        """The input is over: raises RdbError if an error is due, or if the RDB is not complete."""
        if self._error is not None:
            raise self._error
        if not self.ended:
            have = self._base + len(self._buf) + sum(len(piece) for piece in self._waiting)
            raise RdbError(
                f"truncated: the input ends after {have} bytes, before its end mark", have, self._key_in_hand()
            )

    def _key_in_hand(self) -> bytes | None:
        return self._value.record.key if self._value is not None else None

    def _forget_record(self) -> None:
        """What the opcodes before a key say holds for that key alone."""
        self._expire_ms: int | None = None
        self._idle: int | None = None
        self._freq: int | None = None
        self._meta = b""
        self._record = _NO_RECORD  # offset of the first of these opcodes

    def _parse(self, out: list[Event]) -> None:
        """Read as far as the bytes reach. An error that follows events is kept for the next call."""
        self._buf = b"".join([self._buf, *self._waiting])
        self._waiting.clear()
        self._pos = 0
        need = 0
        try:
            if self.version == 0:
                self._header(out)
            while not self.ended:
                if self._value is not None:
                    self._continue_value(self._value, out)
                elif self._held is not None:
                    self._continue_held(self._held, out)
                else:
                    self._keys(out)
        except Short as short:
            need = short.need
            self._check_bound(need - self._pos)
        except Malformed as bad:
            self._error = RdbError(bad.message, self._base + bad.at)
        except RdbError as error:
            self._error = error
        self._commit(need)
        if self._error is not None and not out:
            raise self._error

    def _check_bound(self, size: int) -> None:
        """A length that lies must not make us collect bytes for it without end."""
        if size > self._max_element:
            message = f"an element of {size} bytes exceeds the bound of {self._max_element}"
            self._error = RdbError(message, self._base + self._pos, self._key_in_hand())

    def _commit(self, need: int) -> None:
        """Account for the bytes up to the committed position and drop them."""
        buf, pos = self._buf, self._pos
        if pos and not self.ended:
            self._crc = _CRC64.calc(memoryview(buf)[:pos], self._crc)
        self._buf = buf[pos:]
        self._base += pos
        self._missing = need - len(buf)

    def _header(self, out: list[Event]) -> None:
        buf = self._buf
        if len(buf) < 9:
            if not (b"REDIS".startswith(buf[:5]) or b"VALKEY".startswith(buf[:6])):
                raise self._not_an_rdb()
            raise Short(9)
        if buf.startswith(b"REDIS"):
            self.flavor, digits = REDIS, buf[5:9]
        elif buf.startswith(b"VALKEY"):
            self.flavor, digits = VALKEY, buf[6:9]
        else:
            raise self._not_an_rdb()
        if not digits.isdigit() or int(digits) == 0:
            raise self._not_an_rdb()
        self.version = int(digits)
        self._grammar = GRAMMAR[self.flavor]
        self._pos = 9
        out.append(Header(self.version, self.flavor))

    def _not_an_rdb(self) -> RdbError:
        return RdbError(f"expected REDIS and four digits or VALKEY and three, got {self._buf[:9]!r}", 0)

    def _keys(self, out: list[Event]) -> None:
        """Read keys and opcodes until the RDB ends or a value is left pending. Raises Short, Malformed or RdbError.

        The hot loop: locals only, and no call for a small string beyond that of the Key.
        """
        buf = self._buf
        end = len(buf)
        base = self._base
        bound = self._stream_above
        string_bound = min(bound, _LONG_STRING)
        grammar = self._grammar
        plain = self.plain
        key: bytes | None = None
        try:
            while True:
                pos = self._pos
                key = None
                if plain is not None and self._record == _NO_RECORD and self._db < self.plain_databases:
                    run = plain.take(buf, pos, base, self._db)
                    if run is not None:
                        self._pos = run.after
                        out.append(run)
                        continue
                op = buf[pos]
                program = grammar.get(op)
                if program is None:
                    if self._opcode(op, out):
                        continue
                    return
                first = buf[pos + 1]
                if first < 0x40:
                    at = pos + 2 + first
                    key = buf[pos + 2 : at]
                elif first < 0x80:
                    at = pos + 3 + ((first & 0x3F) << 8 | buf[pos + 2])
                    key = buf[pos + 3 : at]
                else:
                    key, at = read_string(buf, pos + 1)
                if len(program) == 1:
                    first = buf[at]
                    if first < 0x40:
                        after = at + 1 + first
                    elif first < 0x80:
                        after = at + 2 + ((first & 0x3F) << 8 | buf[at + 1])
                    else:
                        after = skip_string(buf, at)
                    if after - at > string_bound and op == STRING and first < _SPECIAL:
                        self._begin_string(key, at, out)
                        return
                    if first == LZF and op == STRING and packed_size(buf, at)[1] > string_bound:
                        self._begin_packed(key, at, out)
                        return
                    if after > end:
                        raise Short(after)
                else:
                    after = self._whole_collection(buf, at, program)
                    if after == 0:
                        self._value = PendingValue(self._take_record(key, op), program, self._templates, bound)
                        self._pos = at
                        return
                if self._record == _NO_RECORD and op != HASH_TEMPLATE_LISTPACK_REF:
                    out.append(Key(self._db, key, op, buf[at:after], None, None, None, base + pos, base + after))
                else:
                    fields = self._template_of(buf, at) if op == HASH_TEMPLATE_LISTPACK_REF else None
                    out.append(self._take_record(key, op).whole(buf[at:after], base + after, fields))
                self._pos = after
        except IndexError:
            raise Short(end + 1) from None
        except Malformed as bad:
            raise RdbError(bad.message, base + bad.at, key) from None

    def _whole_collection(self, buf: bytes, at: int, program: Program) -> int:
        """Where a collection ends that is of a plain layout, all here and not to come in parts; else 0. Raises
        Malformed.
        """
        if at >= len(buf):
            raise Short(at + 1)
        if len(program) != 2 or program[0].op != COUNT or not program[1].flat:
            return 0
        try:
            count, pos = read_length(buf, at)
        except Short:
            return 0
        pos, walked, _ = walk_elements(buf, pos, count, program[1].body)
        return pos if walked == count and pos - at <= self._stream_above else 0

    def _template_of(self, buf: bytes, at: int) -> tuple[bytes, ...]:
        """The fields of the template that a packed value names by its first entry."""
        number = first_entry(read_string(buf, at)[0])
        fields = self._templates.get(number) if isinstance(number, int) else None
        if fields is None:
            raise Malformed(f"hash template {number!r} is not defined before its use", at)
        return fields

    def _take_record(self, key: bytes, op: int) -> Record:
        offset = self._record if self._record != _NO_RECORD else self._base + self._pos
        record = Record(self._db, key, op, self._expire_ms, self._idle, self._freq, offset, self._meta)
        self._forget_record()
        return record

    def _begin_string(self, key: bytes, at: int, out: list[Event]) -> None:
        length, pos = read_length(self._buf, at)
        self._value = PendingString(self._take_record(key, STRING), length, out)
        self._pos = pos

    def _begin_packed(self, key: bytes, at: int, out: list[Event]) -> None:
        packed, length, pos = packed_size(self._buf, at)
        self._value = PackedString(self._take_record(key, STRING), packed, length, self._base + at, out)
        self._pos = pos

    def _continue_value(self, value: PendingValue | PendingString | PackedString, out: list[Event]) -> None:
        try:
            self._pos = value.run(self._buf, self._pos, self._base, out)
        except Malformed as bad:
            raise RdbError(bad.message, self._base + bad.at, value.record.key) from None
        if not value.done:
            raise Short(value.need)
        self._value = None

    def _opcode(self, op: int, out: list[Event]) -> bool:
        """The record at the committed position that is not a key: True when it is behind, False when the caller must
        look anew.
        """
        buf = self._buf
        start = self._pos
        pos = start + 1
        if op == OP_EOF:
            self._end(pos, out)
            return False
        if op == OP_SELECTDB:
            self._db, pos = read_length(buf, pos)
            out.append(SelectDb(self._db))
        elif op in _OF_THE_NEXT_KEY:
            pos = self._hint(op, buf, pos)
            if self._record == _NO_RECORD:
                self._record = self._base + start
        else:
            found = read_record(op, self.flavor, buf, pos)
            if found is None:
                return self._begin_long(op, pos)
            event, pos = found
            out.append(event)
        self._pos = pos
        return True

    def _hint(self, op: int, buf: bytes, pos: int) -> int:
        """Keep what an opcode says of the key that follows; returns the position after it."""
        if op == OP_IDLE:
            self._idle, pos = read_length(buf, pos)
            return pos
        width = _HINT_BYTES[op]
        after = pos + width
        if after > len(buf):
            raise Short(after)
        value = int.from_bytes(buf[pos:after], "little", signed=op != OP_FREQ)
        if op == OP_FREQ:
            self._freq = value
        else:
            self._expire_ms = value if op == OP_EXPIRE_MS else value * 1000
        return after

    def _begin_long(self, op: int, pos: int) -> bool:
        program = long_record(op, self.flavor)
        if program is None:
            raise self._unknown(op)
        self._held = Held(program, self._templates)
        self._held_opcode = op
        if op == OP_KEY_META and self._record == _NO_RECORD:
            self._record = self._base + self._pos
        self._pos = pos
        return False

    def _continue_held(self, held: Held, out: list[Event]) -> None:
        self._pos = held.run(self._buf, self._pos)
        if not held.done:
            raise Short(held.need)
        self._held = None
        raw = held.take()
        if self._held_opcode == OP_KEY_META:
            self._meta = bytes((OP_KEY_META,)) + raw
            return
        event = long_event(self._held_opcode, raw)
        if isinstance(event, HashTemplate):
            self._templates[event.id] = event.fields
        out.append(event)

    def _unknown(self, op: int) -> RdbError:
        at = self._base + self._pos
        if op == MODULE_PRE_GA:
            return RdbError("type 6, of a pre-release of modules: its end cannot be found without the module", at)
        newest = NEWEST_REDIS if self.flavor == REDIS else NEWEST_VALKEY
        what = f"unknown value type or opcode {op} in a {self.flavor} RDB of version {self.version}"
        hint = f"; known up to version {newest}" if self.version > newest else ""
        return RdbError(what + hint, at)

    def _end(self, pos: int, out: list[Event]) -> None:
        """The end mark: check the checksum that follows it, except before version 5, where there is none."""
        buf = self._buf
        if self._record != _NO_RECORD:
            raise RdbError("the RDB ends between a key's attributes and the key", self._base + self._pos)
        if self.version < _FIRST_CHECKSUM:
            self._pos = pos
            self.ended = True
            out.append(End(None, self._base + pos, False))
            return
        if pos + 8 > len(buf):
            raise Short(pos + 8)
        stored = int.from_bytes(buf[pos : pos + 8], "little")
        checked = stored != 0 and self._crc_known
        if checked:
            computed = _CRC64.calc(memoryview(buf)[:pos], self._crc)
            if computed != stored:
                message = f"checksum does not match: the file says {stored:016x}, its bytes give {computed:016x}"
                raise RdbError(message, self._base + pos)
        self._pos = pos + 8
        self.ended = True
        out.append(End(stored, self._base + self._pos, checked))
