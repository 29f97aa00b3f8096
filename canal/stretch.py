"""Stretches of plain commands of a late link: which keys they concern, and deadlines held off in passing.

Like `canal.framing` this file is the reference as plain Python, and is compiled by mypyc when the package is built with
a C compiler at hand; nothing but speed may differ. No I/O. The commands are sound: `canal.framing.scan` has seen them,
or is about to.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

NOTHING: Final = 0  # names no key
BUILDS: Final = 1  # its first argument is a key whose old value decides the outcome, the only one
REPLACES: Final = 2  # its first argument is a key that is written whole, the only one
SET: Final = 3  # REPLACES with three arguments, and with PXAT; else it must be looked at
ONE: Final = 4  # REPLACES with two arguments; else it must be looked at


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def survey(buf: bytes, pos: int, end: int, kinds: dict[bytes, int], builds: set[bytes], replaces: set[bytes]) -> int:
    """Add the keys of the commands in ``buf[pos:end]`` to ``builds`` and ``replaces``, as their names say in ``kinds``.

    Returns the index of the first command that has to be looked at, is not complete, or is none at all.
    """
    here: i64 = pos
    last: i64 = end
    name: bytes = b""
    name_size: i64 = 0
    kind: i64 = -1
    key_at: i64 = 0
    key_size: i64 = 0
    while here < last:
        at: i64 = here + 1
        if buf[here] != 42:  # '*'
            return int(here)
        argc: i64 = 0
        while at < last and buf[at] != 13:
            argc = argc * 10 + (buf[at] - 48)
            at += 1
            if at > here + 10:
                return int(here)
        at += 2
        number: i64 = 0
        option_at: i64 = 0
        option_size: i64 = 0
        while number < argc:
            if at >= last or buf[at] != 36:  # '$'
                return int(here)
            head: i64 = at
            at += 1
            size: i64 = 0
            while at < last and buf[at] != 13:
                size = size * 10 + (buf[at] - 48)
                at += 1
                if at > head + 11:
                    return int(here)
            at += 2
            if at + size > last or size < 0:
                return int(here)
            if number == 0:
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
                    kind = kinds.get(name, -1)
                if kind < 0:
                    return int(here)
            elif number == 1:
                key_at, key_size = at, size
            elif number == 3:
                option_at, option_size = at, size
            at += size + 2
            number += 1
        if at > last or number == 0:
            return int(here)
        if kind != NOTHING:
            if argc < 2:
                return int(here)
            if kind == BUILDS:
                builds.add(buf[int(key_at) : int(key_at + key_size)])
            else:
                if kind == ONE and argc != 2:
                    return int(here)
                if kind == SET and argc != 3 and (argc != 5 or not says(buf, option_at, option_size, b"pxat")):
                    return int(here)
                replaces.add(buf[int(key_at) : int(key_at + key_size)])
        here = at
    return int(here)


def hold_off(buf: bytes, near_ms: int, now_ms: int, held: bytes) -> tuple[bytes, list[tuple[bytes, int]]]:
    """Whole commands with each deadline of a key that is at or before ``near_ms`` replaced by ``held`` (digits).

    Returns them, as long as before and the same object when nothing was replaced, and (key, true deadline) of those
    later than ``now_ms``. Deadlines of ``PEXPIREAT key ms`` and ``SET key value PXAT ms``; one that has not as many
    digits as ``held`` stays: no server sends one.
    """
    last: i64 = len(buf)
    near: i64 = near_ms
    now: i64 = now_ms
    held_size: i64 = len(held)
    at: i64 = 0
    done: i64 = 0
    parts: list[bytes] = []
    true: list[tuple[bytes, int]] = []
    key_at: i64 = 0
    key_size: i64 = 0
    while at < last:
        at += 1
        argc: i64 = 0
        while buf[at] != 13:
            argc = argc * 10 + (buf[at] - 48)
            at += 1
        at += 2
        timed: bool = argc == 3 or argc == 5
        number: i64 = 0
        while number < argc:
            at += 1
            size: i64 = 0
            while buf[at] != 13:
                size = size * 10 + (buf[at] - 48)
                at += 1
            at += 2
            if timed:
                if number == 0:
                    timed = says(buf, at, size, b"pexpireat" if argc == 3 else b"set")
                elif number == 1:
                    key_at, key_size = at, size
                elif number == 3:
                    timed = says(buf, at, size, b"pxat")
                if timed and number == argc - 1 and size == held_size:
                    deadline: i64 = digits(buf, at, size)
                    if 0 <= deadline <= near:
                        parts.append(buf[int(done) : int(at)])
                        parts.append(held)
                        done = at + size
                        if deadline > now:
                            true.append((buf[int(key_at) : int(key_at + key_size)], int(deadline)))
            at += size + 2
            number += 1
    if done == 0:
        return buf, true
    parts.append(buf[int(done) : int(last)])
    return b"".join(parts), true


def says(buf: bytes, at: i64, size: i64, word: bytes) -> bool:
    """Does ``word``, lower-case letters, stand there in any case of letters?"""
    length: i64 = len(word)
    if size != length:
        return False
    index: i64 = 0
    while index < size:
        if buf[at + index] | 32 != word[index]:
            return False
        index += 1
    return True


def digits(buf: bytes, at: i64, size: i64) -> i64:
    """The decimal number that stands there; -1 when it is none that a deadline can be."""
    if size < 1 or size > 18:
        return -1
    value: i64 = 0
    index: i64 = 0
    while index < size:
        byte: i64 = buf[at + index]
        if byte < 48 or byte > 57:
            return -1
        value = value * 10 + (byte - 48)
        index += 1
    return value
