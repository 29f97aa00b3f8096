"""The hot path of two-way links: the keys of a run of commands, without an object per argument.

This file is the reference as plain Python; the same file is compiled by mypyc when the package is built with a C
compiler at hand, and nothing but speed may differ. No I/O.
"""

from __future__ import annotations

from mypy_extensions import i64


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def command_keys(raw: bytes, one_key: dict[bytes, int]) -> tuple[list[bytes], list[int]]:
    """The first argument of each command in ``raw`` whose name (spelled exactly) is in ``one_key``, and for each other
    command the index at which it begins. ``raw`` holds sound, whole commands: what `canal.framing.scan` steps over.
    """
    keys: list[bytes] = []
    others: list[int] = []
    at: i64 = 0
    last: i64 = len(raw)
    name: bytes = b""
    name_size: i64 = -1
    simple: bool = False
    while at < last:
        begin: i64 = at
        at += 1
        argc: i64 = 0
        while raw[at] != 13:
            argc = argc * 10 + (raw[at] - 48)
            at += 1
        at += 2
        number: i64 = 0
        while number < argc:
            at += 1
            size: i64 = 0
            while raw[at] != 13:
                size = size * 10 + (raw[at] - 48)
                at += 1
            at += 2
            if number == 0:
                same: bool = size == name_size
                if same:
                    index: i64 = 0
                    while index < size:
                        if raw[at + index] != name[index]:
                            same = False
                            break
                        index += 1
                if not same:
                    name = raw[int(at) : int(at + size)]
                    name_size = size
                    simple = name in one_key
                if not simple or argc < 2:
                    others.append(int(begin))
            elif number == 1 and simple:
                keys.append(raw[int(at) : int(at + size)])
            at += size + 2
            number += 1
    return keys, others
