"""The framing of a snapshot on the replication connection, without I/O: what of the bytes received is RDB.

Two forms (redis/src/replication.c, readSyncBulkPayload)::

    $<len> CRLF, then len bytes of RDB                          disk-based; the stream may follow in the same read
    $EOF:<mark of 40 bytes> CRLF, then RDB, then the mark       diskless; its length is not known before

Before the header come bare newlines while the source prepares the snapshot, or a line ``-…`` if it gives up. The mark
may stand anywhere relative to the reads, so up to 39 bytes are kept back until it is clear that they do not begin it.
"""

from __future__ import annotations

from collections.abc import Callable

from canal.errors import PeerError, ProtocolError, Unready

MARK_SIZE = 40
MAX_LINE = 1024
MAX_LENGTH = 1 << 48  # 256 TiB: more than any server holds

Take = Callable[[memoryview], None]


class BulkReader:
    """One snapshot. Feed it what arrives until ``done``; RDB bytes go to ``take`` without being copied.

    ``on_header`` is called once, before the first RDB byte, with the length in bytes or None when it is not known.
    """

    def __init__(self, on_header: Callable[[int | None], None], take: Take) -> None:
        self.done = False
        self.received = 0  # RDB bytes handed out
        self._on_header = on_header
        self._take = take
        self._line: bytearray | None = bytearray()  # of the header; None once it was read
        self._left = 0
        self._mark = b""
        self._kept = b""  # the longest end of what was received that may begin the mark

    def feed(self, block: bytearray, start: int, end: int) -> int:
        """Take ``block[start:end]``; returns where it stopped: ``end``, or where the stream begins once ``done``.

        Raises ProtocolError (a header that is none) or Unready (the source gave up and says why).
        """
        at = start
        if self._line is not None:
            at = self._header(block, at, end)
        if self._line is not None or self.done:
            return at
        return self._until_mark(block, at, end) if self._mark else self._until_length(block, at, end)

    def closed(self) -> str:
        """What was going on, for the message when the peer hangs up now."""
        if self._line is not None:
            return "while it prepared the snapshot"
        of = "" if self._mark else f" of {self.received + self._left}"
        return f"after {self.received}{of} bytes of the snapshot"

    def _header(self, block: bytearray, at: int, end: int) -> int:
        line = self._line
        assert line is not None
        while at < end:
            stop = block.find(b"\n", at, end)
            line += block[at : min(end if stop < 0 else stop, at + MAX_LINE + 1)]
            if len(line) > MAX_LINE:
                raise ProtocolError(f"expected the snapshot's header, got a line of more than {MAX_LINE} bytes")
            if stop < 0:
                return end
            at = stop + 1
            if line.rstrip(b"\r"):
                self._open(bytes(line).removesuffix(b"\r"))
                self._line = None
                return at
            line.clear()
        return at

    def _open(self, line: bytes) -> None:
        if line.startswith(b"-"):
            raise _given_up(line)
        digits = line[1:]
        if line.startswith(b"$EOF:") and len(line) == 5 + MARK_SIZE:
            self._mark = line[5:]
            self._on_header(None)
        elif line.startswith(b"$") and digits.isdigit() and len(digits) <= 15 and int(digits) <= MAX_LENGTH:
            self._left = int(digits)
            self.done = self._left == 0
            self._on_header(self._left)
        else:
            raise ProtocolError(f"expected the snapshot's header ($<length> or $EOF:<mark>), got {line[:80]!r}")

    def _until_length(self, block: bytearray, at: int, end: int) -> int:
        stop = min(end, at + self._left)
        self._hand_out(block, at, stop)
        self._left -= stop - at
        self.done = self._left == 0
        return stop

    def _until_mark(self, block: bytearray, at: int, end: int) -> int:
        if self._kept:
            fresh = min(end - at, MARK_SIZE - 1)
            seam = self._kept + block[at : at + fresh]
            found = seam.find(self._mark)
            if found >= 0:
                stop = at + found + MARK_SIZE - len(self._kept)
                self._give(seam[:found])
                self.done = True
                return stop
            if fresh < MARK_SIZE - 1:  # all that came is in the seam
                self._keep(seam, _begins(self._mark, seam))
                return end
            self._keep(self._kept, 0)
        found = block.find(self._mark, at, end)
        if found >= 0:
            self._hand_out(block, at, found)
            self.done = True
            return found + MARK_SIZE
        tail = bytes(block[max(at, end - MARK_SIZE + 1) : end])
        size = _begins(self._mark, tail)
        self._hand_out(block, at, end - size)
        self._kept = tail[len(tail) - size :]
        return end

    def _keep(self, data: bytes, size: int) -> None:
        """Keep the last ``size`` bytes of ``data`` back, hand out what stands before them."""
        self._give(data[: len(data) - size])
        self._kept = data[len(data) - size :]

    def _give(self, data: bytes) -> None:
        if data:
            self._take(memoryview(data))
            self.received += len(data)

    def _hand_out(self, block: bytearray, start: int, stop: int) -> None:
        if stop > start:
            with memoryview(block) as view:
                self._take(view[start:stop])
            self.received += stop - start


def _begins(mark: bytes, data: bytes) -> int:
    """Length of the longest end of ``data`` that is the beginning of ``mark``, the whole mark excepted."""
    at = max(0, len(data) - len(mark) + 1)
    while (at := data.find(mark[:1], at)) >= 0:
        if mark.startswith(data[at:]):
            return len(data) - at
        at += 1
    return 0


def _given_up(line: bytes) -> PeerError:
    words = line[1:200].decode("utf-8", "backslashreplace")
    return Unready(f"the source gave the snapshot up: {words}")
