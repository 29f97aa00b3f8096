"""Finding where a value ends without decoding it: an interpreter of the grammars in types.py.

A Walker keeps its place between calls, element by element: what was walked need not be given again, so that a value may
arrive in any number of pieces and none of them is read twice.
"""

from __future__ import annotations

from typing import Final, final

from canal.rdb.types import (
    ARRAY_ITEM,
    COUNT,
    EACH,
    LEN,
    MODULE_DATA,
    OPTIONAL_LEN,
    RAW,
    STR,
    TEMPLATE_ID,
    Program,
)
from canal.rdb.wire import Malformed, Short, read_length, skip_string

_MODULE_FIELD_BYTES: Final = {3: 4, 4: 8}  # float, double
_ARRAY_FIELD_BYTES: Final = {1: 8, 2: 8}  # integer, double
_ASCII_DOUBLE_WORDS: Final = 253  # 253 NaN, 254 inf, 255 -inf: no text follows


class _Frame:
    """A body being walked: the step that is next, the iterations left of the body, and the count that the last COUNT
    read.
    """

    __slots__ = ("body", "count", "left", "next")

    def __init__(self, body: Program, left: int) -> None:
        self.body = body
        self.left = left
        self.next = 0
        self.count = 0


@final
class Walker:
    """Walks one value. ``step``: index of the program's step that is under way; ``done`` when all are behind.

    ``count``: elements that the last COUNT of the program announced.
    """

    __slots__ = ("_each_left", "_frames", "_program", "_templates", "count", "need", "step", "template")

    def __init__(self, program: Program, templates: dict[int, tuple[bytes, ...]]) -> None:
        self._program = program
        self._templates = templates
        self._frames: list[_Frame] = []
        self._each_left = -1
        self.step = 0
        self.count = 0
        self.need = 0
        self.template: tuple[bytes, ...] | None = None

    @property
    def done(self) -> bool:
        return self.step == len(self._program)

    def run(self, buf: bytes, pos: int) -> tuple[int, int]:
        """Walk on from ``pos`` to the end of the current step, or as far as ``buf`` reaches.

        Returns (position, whole elements of the step walked). Where the step is not finished, ``need`` is the position
        up to which bytes are needed to get on. Raises Malformed.
        """
        self.need = 0
        step = self._program[self.step]
        try:
            if step.op == EACH:
                if step.flat:
                    return self._run_flat(buf, pos, self.count, step.body)
                return self._run_nested(buf, pos, step.body), 0
            if step.op == MODULE_DATA:
                return self._run_module(buf, pos), 0
            pos, value = self._item(buf, pos, step.op, step.arg)
        except Short as short:
            self.need = short.need
            return pos, 0
        if step.op == COUNT or step.op == TEMPLATE_ID:
            self.count = value
        self.step += 1
        return pos, 0

    def _run_flat(self, buf: bytes, pos: int, count: int, body: Program) -> tuple[int, int]:
        if self._each_left < 0:
            self._each_left = count
        pos, walked, self.need = walk_elements(buf, pos, self._each_left, body)
        self._each_left -= walked
        if self._each_left == 0:
            self._each_left = -1
            self.step += 1
        return pos, walked

    def _run_module(self, buf: bytes, pos: int) -> int:
        pos, ended, self.need = walk_module(buf, pos)
        if ended:
            self.step += 1
        return pos

    def _run_nested(self, buf: bytes, pos: int, body: Program) -> int:
        """The groups of a stream and the like: loops within loops, on a stack of our own."""
        frames = self._frames
        if not frames:
            if self.count == 0:
                self.step += 1
                return pos
            frames.append(_Frame(body, self.count))
        while frames:
            frame = frames[-1]
            if frame.next == len(frame.body):
                frame.left -= 1
                frame.next = 0
                if frame.left == 0:
                    frames.pop()
                    if frames:
                        frames[-1].next += 1
                continue
            step = frame.body[frame.next]
            if step.op == EACH:
                if step.flat:
                    left = self._each_left if self._each_left >= 0 else frame.count
                    pos, walked, self.need = walk_elements(buf, pos, left, step.body)
                    if walked < left:
                        self._each_left = left - walked
                        return pos
                    self._each_left = -1
                    frame.next += 1
                elif frame.count == 0:
                    frame.next += 1
                else:
                    frames.append(_Frame(step.body, frame.count))
            elif step.op == MODULE_DATA:
                pos, ended, self.need = walk_module(buf, pos)
                if not ended:
                    return pos
                frame.next += 1
            else:
                try:
                    pos, value = self._item(buf, pos, step.op, step.arg)
                except Short as short:
                    self.need = short.need
                    return pos
                if step.op == COUNT:
                    frame.count = value
                frame.next += 1
        self.step += 1
        return pos

    def _item(self, buf: bytes, pos: int, op: int, arg: int) -> tuple[int, int]:
        """(position after a single item, its value where it is a length). Raises Short or Malformed."""
        value = 0
        if op == STR:
            pos = skip_string(buf, pos)
        elif op in (LEN, COUNT):
            value, pos = read_length(buf, pos)
        elif op == RAW:
            pos += arg
        elif op == TEMPLATE_ID:
            return self._template(buf, pos)
        elif op == OPTIONAL_LEN:
            if pos >= len(buf):
                raise Short(pos + 1)
            flag = buf[pos]
            if flag > 1:
                raise Malformed(f"expected a flag of 0 or 1, got {flag}", pos)
            value, pos = read_length(buf, pos + 1) if flag else (0, pos + 1)
        if pos > len(buf):
            raise Short(pos)
        return pos, value

    def _template(self, buf: bytes, pos: int) -> tuple[int, int]:
        number, after = read_length(buf, pos)
        fields = self._templates.get(number)
        if fields is None:
            raise Malformed(f"hash template {number} is not defined before its use", pos)
        self.template = fields
        return after, len(fields)


def walk_elements(buf: bytes, pos: int, left: int, body: Program) -> tuple[int, int, int]:
    """Walk up to ``left`` elements of the flat ``body``: (position after the last whole one, how many, need).

    ``need`` is 0 when all were walked, else the position up to which bytes are needed. Raises Malformed.
    """
    end = len(buf)
    ops = [(step.op, step.arg) for step in body]
    walked = 0
    at = pos
    try:
        while walked < left:
            at = pos
            for op, arg in ops:
                if op == STR:
                    first = buf[at]
                    if first < 0x40:
                        at += first + 1
                    else:
                        at = skip_string(buf, at)
                        if at > end:  # by any length a file may state: nothing is looked up there
                            return pos, walked, at
                elif op == RAW:
                    at += arg
                elif op == LEN:
                    first = buf[at]
                    if first < 0x40:
                        at += 1
                    else:
                        _, at = read_length(buf, at)
                elif op == ARRAY_ITEM:
                    at = _skip_array_item(buf, at)
                else:
                    first = buf[at]
                    at += 1 if first >= _ASCII_DOUBLE_WORDS else first + 1
            if at > end:
                return pos, walked, at
            pos = at
            walked += 1
    except IndexError:
        return pos, walked, max(at, end) + 1
    except Short as short:
        return pos, walked, short.need
    return pos, walked, 0


def _skip_array_item(buf: bytes, pos: int) -> int:
    """Tags: 0 string, 1 integer of 8 bytes, 2 double, 3 string of up to 255 bytes. Raises Short, Malformed,
    IndexError.
    """
    tag = buf[pos]
    if tag == 0:
        return skip_string(buf, pos + 1)
    if tag == 3:
        return pos + 2 + buf[pos + 1]
    width = _ARRAY_FIELD_BYTES.get(tag, 0)
    if width == 0:
        raise Malformed(f"expected an array element, got tag {tag}", pos)
    return pos + 1 + width


def walk_module(buf: bytes, pos: int) -> tuple[int, bool, int]:
    """Walk typed module fields: (position after the last whole one, whether the end mark was reached, need)."""
    try:
        while True:
            kind, at = read_length(buf, pos)
            if kind == 0:
                return at, True, 0
            if kind == 1 or kind == 2:
                _, at = read_length(buf, at)
            elif kind == 5:
                at = skip_string(buf, at)
            else:
                width = _MODULE_FIELD_BYTES.get(kind, 0)
                if width == 0:
                    raise Malformed(f"expected a module field, got kind {kind}", pos)
                at += width
            if at > len(buf):
                return pos, False, at
            pos = at
    except Short as short:
        return pos, False, short.need
