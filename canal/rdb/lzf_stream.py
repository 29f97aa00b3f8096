"""LZF text that is unpacked as it arrives, with no more of it in memory than references can reach back to.

Format (liblzf, as Redis and Valkey use it): a control byte below 32 is followed by so many bytes of text and one more.
Any other one is a reference: its upper three bits are the length less two (7: the next byte is added), its lower five
and the byte after that how far back it reaches, less one.
"""

from __future__ import annotations

from typing import Final, final

from canal.rdb.wire import Malformed

_REACH: Final = 8192
_KEEP: Final = 1 << 16  # of text that was given out, before it is cut down to what can be referred to


@final
class Unpacker:
    """Unpacks one string of ``size`` bytes of text."""

    __slots__ = ("_rest", "_text", "left")

    def __init__(self, size: int) -> None:
        self.left = size  # bytes of text that have not come out yet
        self._rest = b""  # the beginning of an item whose end has not arrived
        self._text = bytearray()

    def feed(self, data: bytes) -> bytes:
        """The text that ``data`` completes. Raises Malformed for what is not LZF, or longer than was announced."""
        packed = self._rest + data
        text = self._text
        if len(text) > _KEEP:
            del text[:-_REACH]
        before, at, end = len(text), 0, len(packed)
        bound = before + self.left
        while at < end:
            control = packed[at]
            if control < 32:
                after = at + control + 2
                if after > end:
                    break
                text += packed[at + 1 : after]
            else:
                length = control >> 5
                after = at + (3 if length == 7 else 2)
                if after > end:
                    break
                if length == 7:
                    length += packed[at + 1]
                self._refer(length + 2, ((control & 31) << 8 | packed[after - 1]) + 1)
            if len(text) > bound:
                raise Malformed("LZF text is longer than it announces", 0)
            at = after
        self._rest = packed[at:]
        self.left = bound - len(text)
        return bytes(memoryview(text)[before:])

    def finish(self) -> None:
        """All has arrived: raises Malformed where text is missing, or a piece of an item is left."""
        if self.left or self._rest:
            raise Malformed(f"LZF text ends {self.left} bytes before the length that it announces", 0)

    def _refer(self, length: int, back: int) -> None:
        text = self._text
        start = len(text) - back
        if start < 0:
            raise Malformed("an LZF reference reaches before the beginning of its text", 0)
        if back >= length:
            text += text[start : start + length]
        else:  # it reaches into what it makes: a pattern that repeats itself
            text += (text[start:] * (length // back + 1))[:length]
