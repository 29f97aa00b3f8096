"""Framing of a replication stream: where each command begins and ends, without objects for what is not looked at.

The stream of a master is a sequence of RESP arrays of bulk strings (``*<argc>`` and CRLF, then per argument ``$<len>``,
CRLF, the bytes, CRLF; Redis protocol specification). Everything here works on one ``bytes`` block and indexes into it;
no I/O, no state. Lies in the headers raise `ProtocolError` whose ``offset`` is the index into the block (the caller
adds the block's stream position), never anything else, and nothing is allocated by a length that a peer merely claims.

The hot path, `canal.framing.scan` and ``parse``, is re-exported here.
"""

from __future__ import annotations

from typing import Final

from canal.errors import ProtocolError
from canal.framing import LIMIT, MAX_ARGUMENTS, MAX_BULK, NEED_MORE, SPECIAL, compiled, parse, scan

__all__ = [
    "CRLF",
    "LIMIT",
    "MAX_ARGUMENTS",
    "MAX_BULK",
    "NEED_MORE",
    "SPECIAL",
    "compiled",
    "encode",
    "need",
    "parse",
    "scan",
]

CRLF: Final = b"\r\n"


def _number(buf: bytes, start: int, stop: int, at: int, kind: str, most: int) -> int:
    """The decimal number in ``buf[start:stop]``, between 0 and ``most``."""
    digits = buf[start:stop]
    if not digits.isdigit() or stop - start > 19:
        raise ProtocolError(f"expected a {kind} as decimal digits, got {digits[:32]!r}", at)
    value = int(digits)
    if value > most:
        raise ProtocolError(f"{kind} of {value} is more than {most}, the most that is accepted", at)
    return value


def _count(buf: bytes, at: int, line: int) -> int:
    """The argument count in the header line ``buf[at:line]``, at least 1."""
    if buf[at] != 42:  # '*'
        raise ProtocolError(f"expected a command (*<count>), got {buf[at : at + 32]!r}", at)
    count = _number(buf, at + 1, line, at, "argument count", MAX_ARGUMENTS)
    if count == 0:
        raise ProtocolError("expected a command, got an empty array", at)
    return count


def _size(buf: bytes, at: int, line: int) -> int:
    """The length in the bulk string header ``buf[at:line]``."""
    if buf[at] != 36:  # '$'
        raise ProtocolError(f"expected a bulk string ($<length>), got {buf[at : at + 32]!r}", at)
    return _number(buf, at + 1, line, at, "bulk length", MAX_BULK)


def need(buf: bytes, pos: int, end: int) -> int:
    """At least how many bytes from ``pos`` the incomplete command there takes, as far as its headers tell.

    Lets a reader of big commands wait for enough bytes instead of looking again at every block. Arguments whose headers
    have not come yet count with the six bytes that an empty one takes.
    """
    line = buf.find(CRLF, pos, end)
    if line < 0:
        return end - pos + 1
    argc = _count(buf, pos, line)
    at = line + 2
    for left in range(argc, 0, -1):
        line = buf.find(CRLF, at, end)
        if line < 0:
            return max(end - pos + 1, at - pos + left * 6)
        at = line + 4 + _size(buf, at, line)
        if at > end:
            return at - pos + (left - 1) * 6
    return at - pos


def encode(argv: list[bytes]) -> bytes:
    """One command as RESP."""
    parts = [b"*%d\r\n" % len(argv)]
    for arg in argv:
        parts.append(b"$%d\r\n" % len(arg))
        parts.append(arg)
        parts.append(CRLF)
    return b"".join(parts)
