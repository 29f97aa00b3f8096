"""The hot path of cluster targets: commands of a replication stream → lanes of its nodes.

Like `canal.framing` this is plain Python that mypyc compiles where it can; nothing but speed may differ. The caller
says by a table of names which commands have their one key as the first argument; what is not in it stops the walk.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from mypy_extensions import i64


class Lane:
    """Commands for one node in the order of the stream. The lists run in parallel, an item for each command.

    ``parts``: two for each command: the name of its slot as a bulk string, its arguments as bulk strings; ``argcs``:
    how many arguments these are, more than `TOGETHER` by that where the command belongs together with others; ``ends``:
    stream position after its unit; ``numbers``: which command of its batch it is. ``longest``: the most arguments of
    any.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.slots: list[int] = []
        self.ends: list[int] = []
        self.numbers: list[int] = []
        self.argcs: list[int] = []
        self.arguments = 0
        self.longest = 0

    def add(self, slot: int, head: bytes, raw: bytes, argc: int, end: int, number: int) -> None:
        """Append a command; ``argc`` negative when it belongs together with its neighbours of the same end."""
        count = abs(argc)
        self.parts.append(head)
        self.parts.append(raw)
        self.argcs.append(argc if argc >= 0 else count + TOGETHER)
        self.slots.append(slot)
        self.ends.append(end)
        self.numbers.append(number)
        self.arguments += count + 1
        if count > self.longest:
            self.longest = count


TOGETHER: Final = 1 << 30
"""Added to the argument count of commands that are of one unit."""


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def route(
    raw: bytes,
    at: int,
    base: int,
    number: int,
    lanes: list[Lane],
    owners: list[int],
    heads: list[bytes],
    single: dict[bytes, int],
    skips: list[int],
) -> tuple[int, int]:
    """Put the commands of ``raw[at:]`` into the lanes of their slots' nodes until one is not in ``single``.

    ``raw`` holds sound, whole commands. ``single`` maps a name, spelled exactly, to the argument count that it must
    have, 0 for any. ``base``: stream position of ``raw[0]`` where each command is a unit of its own, else (as ``-1 -
    end``) the end of the one unit that all belong to. ``owners``: for each slot the index of its lane; ``heads``: the
    bulk string that names the slot. ``skips``: position of each slot up to which its commands are to be left out, or
    empty. Returns (index where the walk stopped, number of the command there).
    """
    here: i64 = at
    last: i64 = len(raw)
    count: i64 = number
    start: i64 = base
    name: bytes = b""
    name_size: i64 = 0
    wanted: i64 = -1
    skipping: bool = len(skips) > 0
    argc_before: i64 = 0
    argc_shown: int = 0
    together: i64 = 0 if start >= 0 else TOGETHER
    while here < last:
        look: i64 = here + 1
        argc: i64 = 0
        while raw[look] != 13:
            argc = argc * 10 + (raw[look] - 48)
            look += 1
        look += 2
        body: i64 = look
        # the name
        look += 1
        size: i64 = 0
        while raw[look] != 13:
            size = size * 10 + (raw[look] - 48)
            look += 1
        look += 2
        same: bool = size == name_size
        if same:
            index: i64 = 0
            while index < size:
                if raw[look + index] != name[index]:
                    same = False
                    break
                index += 1
        if not same:
            name = raw[int(look) : int(look + size)]
            name_size = size
            wanted = single.get(name, -1)
        if argc < 2 or (wanted != 0 and wanted != argc):
            return int(here), int(count)
        look += size + 2
        # the key
        look += 1
        size = 0
        while raw[look] != 13:
            size = size * 10 + (raw[look] - 48)
            look += 1
        look += 2
        key = raw[int(look) : int(look + size)]
        look += size + 2
        left: i64 = argc - 2
        while left > 0:
            look += 1
            size = 0
            while raw[look] != 13:
                size = size * 10 + (raw[look] - 48)
                look += 1
            look += size + 4
            left -= 1
        brace = key.find(b"{")
        if brace >= 0:
            close = key.find(b"}", brace + 1)
            if close > brace + 1:
                key = key[brace + 1 : close]
        slot = crc_hqx(key, 0) & 16383
        end: i64 = start + look if start >= 0 else -1 - start
        if not skipping or end > skips[slot]:
            lane = lanes[owners[slot]]
            parts = lane.parts
            parts.append(heads[slot])
            parts.append(raw[int(body) : int(look)])
            if argc != argc_before:
                argc_before = argc
                argc_shown = int(argc + together)
            lane.argcs.append(argc_shown)
            lane.slots.append(slot)
            lane.ends.append(int(end))
            lane.numbers.append(int(count))
            lane.arguments += int(argc) + 1
            if argc > lane.longest:
                lane.longest = int(argc)
        here = look
        count += 1
    return int(here), int(count)
