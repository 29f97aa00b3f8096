"""A record of an RDB whose end has not arrived yet, and big values handed over in parts while they arrive."""

from __future__ import annotations

from typing import Final, final

from canal.rdb.events import Event, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.lzf_stream import Unpacker
from canal.rdb.types import EACH, STREAMED, Program
from canal.rdb.walk import Walker
from canal.rdb.wire import Malformed

PART_BYTES: Final = 64 << 10  # parts are collected up to this size before they are handed over


class Record:
    """What is known of a key before its value: database, name, type and what the opcodes before it said."""

    __slots__ = ("db", "expire_ms", "freq", "idle", "key", "meta", "offset", "type")

    def __init__(
        self,
        db: int,
        key: bytes,
        type: int,
        expire_ms: int | None,
        idle: int | None,
        freq: int | None,
        offset: int,
        meta: bytes,
    ) -> None:
        self.db = db
        self.key = key
        self.type = type
        self.expire_ms = expire_ms
        self.idle = idle
        self.freq = freq
        self.offset = offset
        self.meta = meta

    def start(self, head: bytes, count: int, fields: tuple[bytes, ...] | None) -> KeyStart:
        return KeyStart(
            self.db,
            self.key,
            self.type,
            head,
            count,
            self.expire_ms,
            self.idle,
            self.freq,
            self.offset,
            self.meta,
            fields,
        )

    def whole(self, value: bytes, end: int, fields: tuple[bytes, ...] | None) -> Key:
        return Key(
            self.db,
            self.key,
            self.type,
            value,
            self.expire_ms,
            self.idle,
            self.freq,
            self.offset,
            end,
            self.meta,
            fields,
        )


class Held:
    """Bytes of any record that arrive piece by piece; ``take()`` gives them once ``done``."""

    __slots__ = ("_pieces", "need", "size", "walker")

    def __init__(self, program: Program, templates: dict[int, tuple[bytes, ...]]) -> None:
        self.walker = Walker(program, templates)
        self.need = 0
        self.size = 0
        self._pieces: list[bytes] = []

    @property
    def done(self) -> bool:
        return self.walker.done

    def run(self, buf: bytes, pos: int) -> int:
        """Take what ``buf`` has from ``pos`` on; returns the position after it. ``need`` as Walker's. Raises
        Malformed.
        """
        start = pos
        walker = self.walker
        while not walker.done:
            pos, _ = walker.run(buf, pos)
            if walker.need:
                break
        self.need = walker.need
        if pos > start:
            self._pieces.append(buf[start:pos])
            self.size += pos - start
        return pos

    def take(self) -> bytes:
        return b"".join(self._pieces)


@final
class PendingValue:
    """A value whose elements are walked as they arrive: one Key at its end, or parts once it is longer than the bound.

    Whether it comes whole or in parts depends on its length alone, never on how the input was cut.
    """

    __slots__ = ("_each", "_head", "_pieces", "_streamed", "_tail", "bound", "need", "record", "size", "walker")

    def __init__(self, record: Record, program: Program, templates: dict[int, tuple[bytes, ...]], bound: int) -> None:
        self.record = record
        self.walker = Walker(program, templates)
        self.bound = bound if record.type in STREAMED else -1
        self.size = 0
        self.need = 0
        self._each = next((i for i, step in enumerate(program) if step.op == EACH), len(program))
        self._head: list[bytes] = []
        self._pieces: list[ValuePart] = []
        self._tail: list[bytes] = []
        self._streamed = False

    @property
    def done(self) -> bool:
        return self.walker.done

    def run(self, buf: bytes, pos: int, base: int, out: list[Event]) -> int:
        """Take what ``buf`` has from ``pos`` on, add the events it completes; returns the position after it.

        ``base``: offset of the buffer's first byte. ``need`` as Walker's. Raises Malformed.
        """
        walker = self.walker
        while not walker.done:
            step = walker.step
            at, count = walker.run(buf, pos)
            if at > pos:
                self._hold(buf[pos:at], count, step, base + pos)
                pos = at
            if walker.need:
                break
        self.need = walker.need
        if self.bound >= 0 and self.size > self.bound:
            self._hand_over(out)
        if walker.done:
            self._close(base + pos, out)
        return pos

    def _hold(self, piece: bytes, count: int, step: int, offset: int) -> None:
        self.size += len(piece)
        if step < self._each:
            self._head.append(piece)
        elif step > self._each:
            self._tail.append(piece)
        else:
            self._pieces.append(ValuePart(piece, count, offset))

    def _hand_over(self, out: list[Event]) -> None:
        """Announce the key, then give away the elements that have arrived, unless they are few."""
        if self.walker.step < self._each:
            return
        if not self._streamed:
            self._streamed = True
            out.append(self.record.start(b"".join(self._head), self.walker.count, self.walker.template))
        few = sum(len(part.data) for part in self._pieces) < PART_BYTES
        if few and self.walker.step == self._each:
            return
        if not few:
            out.extend(self._pieces)
        elif self._pieces:
            data = b"".join(part.data for part in self._pieces)
            out.append(ValuePart(data, sum(part.count for part in self._pieces), self._pieces[0].offset))
        self._pieces.clear()

    def _close(self, end: int, out: list[Event]) -> None:
        if self._streamed:
            if self._tail:
                tail = b"".join(self._tail)
                out.append(ValuePart(tail, 0, end - len(tail), tail=True))
            out.append(KeyEnd(end))
            return
        value = b"".join([*self._head, *[part.data for part in self._pieces], *self._tail])  # one copy: it may be long
        self._pieces.clear()
        out.append(self.record.whole(value, end, self.walker.template))


@final
class PendingString:
    """A plain string longer than the bound, given away as it arrives."""

    __slots__ = ("left", "need", "record")

    def __init__(self, record: Record, length: int, out: list[Event]) -> None:
        self.record = record
        self.left = length
        self.need = 0
        out.append(record.start(b"", length, None))

    @property
    def done(self) -> bool:
        return self.left == 0

    def run(self, buf: bytes, pos: int, base: int, out: list[Event]) -> int:
        """As PendingValue.run."""
        piece = buf[pos : pos + self.left]
        if piece:
            out.append(ValuePart(piece, 0, base + pos))
            self.left -= len(piece)
            pos += len(piece)
        if self.left:
            self.need = len(buf) + 1
        else:
            out.append(KeyEnd(base + pos))
        return pos


@final
class PackedString:
    """A compressed string whose text is longer than the bound, unpacked and given away as it arrives.

    ``packed``, ``length``: bytes as it stands and of its text; ``at``: offset of the string, which errors name.
    """

    __slots__ = ("at", "left", "need", "record", "unpacker")

    def __init__(self, record: Record, packed: int, length: int, at: int, out: list[Event]) -> None:
        self.record = record
        self.at = at
        self.left = packed
        self.need = 0
        self.unpacker = Unpacker(length)
        out.append(record.start(b"", length, None))

    @property
    def done(self) -> bool:
        return self.left == 0

    def run(self, buf: bytes, pos: int, base: int, out: list[Event]) -> int:
        """As PendingValue.run."""
        piece = buf[pos : pos + self.left]
        try:
            text = self.unpacker.feed(piece)
            self.left -= len(piece)
            if self.left == 0:
                self.unpacker.finish()
        except Malformed as bad:
            raise Malformed(bad.message, self.at - base) from None
        if text:
            out.append(ValuePart(text, 0, base + pos))
        pos += len(piece)
        if self.left:
            self.need = len(buf) + 1
        else:
            out.append(KeyEnd(base + pos))
        return pos
