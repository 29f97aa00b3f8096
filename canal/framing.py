"""The hot path: step over commands of a replication stream that pass through untouched; and one command as arguments.

`scan` makes no objects per command. This file is the reference as plain Python; the same file is compiled by mypyc
when the package is built with a C compiler at hand (about ninety times as fast), and nothing but speed may differ:
``tests/unit/test_resp.py`` runs on both. Bytes are looked at one by one because that is what compiles to machine code.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from canal.errors import ProtocolError

NEED_MORE: Final = 0
"""`scan` stopped because the next command is not complete in the block."""
SPECIAL: Final = 1
"""`scan` stopped before a command that has to be looked at."""
LIMIT: Final = 2
"""`scan` stopped because it stepped over as many commands or bytes as asked."""

ANY: Final = 0
SET_AT: Final = -(1 << 24) - 1
KEY_AT: Final = -(1 << 24) - 2
SIZE_AT: Final = -(1 << 25)
"""What `scan` demands of a command besides its name, where it is no exact number of arguments: nothing; SET with a
value, or with PXAT and a deadline after it; a key and a deadline (PEXPIREAT without conditions); SIZE_AT - n, that its
first argument has not n bytes."""

MAX_ARGUMENTS: Final = 1 << 24
MAX_BULK: Final = 1 << 30
"""Bytes of one argument; above Redis's own default ``proto-max-bulk-len`` (512 MiB)."""


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def bad_count(buf: bytes, at: int) -> ProtocolError:
    """The error for what stands at ``at`` in the place of ``*<count>``."""
    return ProtocolError(
        f"expected a command (*<count>, at most {MAX_ARGUMENTS} arguments), got {buf[at : at + 32]!r}", at
    )


def bad_size(buf: bytes, at: int) -> ProtocolError:
    """The error for what stands at ``at`` in the place of ``$<length>``."""
    return ProtocolError(f"expected a bulk string ($<length>, at most {MAX_BULK} bytes), got {buf[at : at + 32]!r}", at)


def is_pxat(buf: bytes, at: i64, size: i64) -> bool:
    """Does PXAT stand there, in any case of letters?"""
    return (
        size == 4
        and buf[at] | 32 == 112
        and buf[at + 1] | 32 == 120
        and buf[at + 2] | 32 == 97
        and buf[at + 3] | 32 == 116
    )


def scan(
    buf: bytes,
    pos: int,
    end: int,
    stop: int,
    max_commands: int,
    max_bytes: int,
    plain: dict[bytes, int],
    watch: set[bytes] | None = None,
) -> tuple[int, int, int]:
    """Step over whole commands in ``buf[pos:end]`` whose names are in ``plain``.

    ``plain`` maps a name, spelled exactly, to the argument count that it must have (the name counts), -n for fewer than
    n, or ANY, SET_AT, KEY_AT, or SIZE_AT - n: special where the first argument has n bytes. A command whose first
    argument is in ``watch`` is special, and one that reaches beyond index ``stop`` (there stands something that must be
    looked at).
    Returns (index after the last command stepped over, number of commands, why it stopped). Raises ProtocolError with
    the index where no command can stand.
    """
    here: i64 = pos
    last: i64 = end
    far: i64 = stop
    first: i64 = pos
    bound: i64 = here + max_bytes
    most: i64 = max_commands
    count: i64 = 0
    name: bytes = b""
    name_size: i64 = 0
    wanted: i64 = -1
    key_at: i64 = 0
    key_size: i64 = 0
    while count < most and here < bound:
        at: i64 = here
        if at >= last:
            return int(here), int(count), NEED_MORE
        if buf[at] != 42:  # '*'
            raise bad_count(buf, int(at))
        at += 1
        argc: i64 = 0
        limit: i64 = at + 9
        while True:
            if at >= last:
                return int(here), int(count), NEED_MORE
            byte: i64 = buf[at]
            if byte < 48 or byte > 57:
                break
            argc = argc * 10 + (byte - 48)
            at += 1
            if at > limit:
                raise bad_count(buf, int(here))
        if byte != 13 or argc == 0 or argc > MAX_ARGUMENTS:
            raise bad_count(buf, int(here))
        at += 2
        number: i64 = 0
        option_at: i64 = 0
        option_size: i64 = 0
        while number < argc:
            if at >= last:
                return int(here), int(count), NEED_MORE
            head: i64 = at
            if buf[at] != 36:  # '$'
                raise bad_size(buf, int(at))
            at += 1
            size: i64 = 0
            limit = at + 10
            while True:
                if at >= last:
                    return int(here), int(count), NEED_MORE
                byte = buf[at]
                if byte < 48 or byte > 57:
                    break
                size = size * 10 + (byte - 48)
                at += 1
                if at > limit:
                    raise bad_size(buf, int(head))
            if byte != 13 or at == head + 1 or size > MAX_BULK:
                raise bad_size(buf, int(head))
            at += 2
            if number == 0:
                if at + size > last:
                    return int(here), int(count), NEED_MORE
                same: bool = size == name_size
                if same:
                    index: i64 = 0
                    while index < size:
                        if buf[at + index] != name[index]:
                            same = False
                            break
                        index += 1
                if not same:
                    name = buf[int(at) : int(at + size)]
                    name_size = size
                    wanted = plain.get(name, -1)
                if wanted == SET_AT:
                    if argc != 3 and argc != 5:
                        return int(here), int(count), SPECIAL
                elif wanted == KEY_AT:
                    if argc != 3:
                        return int(here), int(count), SPECIAL
                elif (wanted > 0 and wanted != argc) or (wanted < 0 and argc >= -wanted):
                    return int(here), int(count), SPECIAL
            elif number == 1:
                key_at, key_size = at, size
            elif number == 3:
                option_at, option_size = at, size
            at += size + 2
            number += 1
        if at > last:
            return int(here), int(count), NEED_MORE
        if at > far:
            return int(here), int(count), SPECIAL
        if wanted == SET_AT and argc == 5 and not is_pxat(buf, option_at, option_size):
            return int(here), int(count), SPECIAL
        if wanted <= SIZE_AT and key_size == SIZE_AT - wanted:
            return int(here), int(count), SPECIAL
        if watch is not None and argc > 1 and buf[int(key_at) : int(key_at + key_size)] in watch:
            return int(here), int(count), SPECIAL
        if at > bound and here > first:
            return int(here), int(count), LIMIT
        here = at
        count += 1
    return int(here), int(count), LIMIT


def join_sets(raw: bytes, most: int, runs: list[int] | None = None) -> tuple[bytes, int]:
    """Whole commands with runs of ``SET key value`` written as one MSET each, of at most ``most`` keys.

    MSET does to each key what SET does to it, its deadline included, at half the cost to a server. Returns (commands,
    how many they are now). ``runs`` gets, for each command of the result, how many commands of ``raw`` it stands for.
    ``raw`` holds sound, whole commands: what `scan` and `canal.resp.encode` give.
    """
    out: list[bytes] = []
    pairs: list[bytes] = []
    count: i64 = 0
    number: i64 = 0  # pairs of the run that is under way
    bound: i64 = most
    begin: i64 = 0  # what stands before this index is in ``out``
    start: i64 = 0  # of the run
    at: i64 = 0
    last: i64 = len(raw)
    while at < last:
        here: i64 = at
        is_set: bool = (
            here + 13 < last
            and raw[here + 1] == 51  # '*3'
            and raw[here + 2] == 13
            and raw[here + 5] == 51  # '$3'
            and raw[here + 6] == 13
            and raw[here + 8] | 32 == 115  # 'set', in any case
            and raw[here + 9] | 32 == 101
            and raw[here + 10] | 32 == 116
        )
        at += 1
        left: i64 = 0
        if is_set:
            at += 12
            left = 2
        else:
            while raw[at] != 13:
                left = left * 10 + (raw[at] - 48)
                at += 1
            at += 2
        while left > 0:
            at += 1
            size: i64 = 0
            while raw[at] != 13:
                size = size * 10 + (raw[at] - 48)
                at += 1
            at += size + 4
            left -= 1
        if is_set and number < bound:
            if number == 0:
                start = here
            pairs.append(raw[int(here + 13) : int(at)])
            number += 1
            continue
        if number > 1:
            out.append(raw[int(begin) : int(start)])
            out.append(b"*%d\r\n$4\r\nMSET\r\n" % int(2 * number + 1))
            out.extend(pairs)
            begin = here
        if number > 0:
            pairs.clear()
            count += 1
            if runs is not None:
                runs.append(int(number))
        number = 0
        if is_set:
            start = here
            pairs.append(raw[int(here + 13) : int(at)])
            number = 1
        else:
            count += 1
            if runs is not None:
                runs.append(1)
    if number > 0:
        count += 1
        if runs is not None:
            runs.append(int(number))
    if number > 1:
        out.append(raw[int(begin) : int(start)])
        out.append(b"*%d\r\n$4\r\nMSET\r\n" % int(2 * number + 1))
        out.extend(pairs)
        begin = at
    if begin == 0:
        return raw, int(count)
    out.append(raw[int(begin) :])
    return b"".join(out), int(count)


def parse(buf: bytes, pos: int, end: int) -> tuple[list[bytes], int] | None:
    """The command at ``pos`` as its arguments, and the index after it; None when it is not complete in the block.

    Raises ProtocolError with the index where no command can stand.
    """
    last: i64 = min(end, len(buf))
    at: i64 = pos
    if at >= last:
        return None
    if buf[at] != 42:  # '*'
        raise bad_count(buf, pos)
    at += 1
    argc: i64 = 0
    limit: i64 = at + 9
    while True:
        if at >= last:
            return None
        byte: i64 = buf[at]
        if byte < 48 or byte > 57:
            break
        argc = argc * 10 + (byte - 48)
        at += 1
        if at > limit:
            raise bad_count(buf, pos)
    if byte != 13 or argc == 0 or argc > MAX_ARGUMENTS:
        raise bad_count(buf, pos)
    at += 2
    argv: list[bytes] = []
    while argc > 0:
        if at >= last:
            return None
        head: i64 = at
        if buf[at] != 36:  # '$'
            raise bad_size(buf, int(at))
        at += 1
        size: i64 = 0
        limit = at + 10
        while True:
            if at >= last:
                return None
            byte = buf[at]
            if byte < 48 or byte > 57:
                break
            size = size * 10 + (byte - 48)
            at += 1
            if at > limit:
                raise bad_size(buf, int(head))
        if byte != 13 or at == head + 1 or size > MAX_BULK:
            raise bad_size(buf, int(head))
        at += 2
        if at + size + 2 > last:
            return None
        if buf[at + size] != 13 or buf[at + size + 1] != 10:
            bad = int(at + size)
            raise ProtocolError(
                f"expected the end of a bulk string of {int(size)} bytes, got {buf[bad : bad + 2]!r}", bad
            )
        argv.append(buf[int(at) : int(at + size)])
        at += size + 2
        argc -= 1
    return argv, int(at)


def script_arguments(raw: bytes, most: int) -> tuple[bytes, int]:
    """Whole commands as the arguments of a script: per command its argument count, then its arguments, as they stand.

    Returns (bulk strings, how many); (b"", -1) when a command has more than ``most`` arguments. ``raw`` holds sound,
    whole commands: what `scan` and `canal.resp.encode` give.
    """
    parts: list[bytes] = []
    counts: dict[int, bytes] = {}
    total: i64 = 0
    at: i64 = 0
    last: i64 = len(raw)
    while at < last:
        at += 1
        argc: i64 = 0
        while raw[at] != 13:
            argc = argc * 10 + (raw[at] - 48)
            at += 1
        if argc > most:
            return b"", -1
        at += 2
        body: i64 = at
        left: i64 = argc
        while left > 0:
            at += 1
            size: i64 = 0
            while raw[at] != 13:
                size = size * 10 + (raw[at] - 48)
                at += 1
            at += size + 4
            left -= 1
        number = int(argc)
        head = counts.get(number)
        if head is None:
            digits = b"%d" % number
            head = counts[number] = b"$%d\r\n%b\r\n" % (len(digits), digits)
        parts.append(head)
        parts.append(raw[int(body) : int(at)])
        total += argc + 1
    return b"".join(parts), int(total)
