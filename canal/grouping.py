"""Large batches for clusters: commands → groups by slot → transactions, runs of SET joined to MSET.

Like `canal.framing` this is plain Python that mypyc compiles where it can; nothing but speed may differ. A group holds
what a batch has for one slot, in the order of the stream: of a plain ``SET key value`` its two arguments, of any other
command the whole of it. They begin with ``$`` and ``*``, which is how they are told apart.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from mypy_extensions import i64

_HIGH: Final = bytes(crc_hqx(bytes((byte,)), 0) >> 8 for byte in range(256))
_LOW: Final = bytes(crc_hqx(bytes((byte,)), 0) & 255 for byte in range(256))
_DOLLAR: Final = 36
_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
_AGAIN: Final = _EXEC + _MULTI
_SET: Final = b"*3\r\n$3\r\nSET\r\n"


def compiled() -> bool:
    """True when this module runs as compiled code rather than as plain Python."""
    return not __file__.endswith(".py")


def gather(
    raw: bytes,
    at: int,
    number: int,
    groups: list[list[bytes]],
    used: list[int],
    single: dict[bytes, int],
    met: list[int] | None,
) -> tuple[int, int]:
    """Put the commands of ``raw[at:]`` into the groups of their slots until one is not in ``single``.

    ``raw`` holds sound, whole commands; ``single`` is as `canal.routing.route` has it, but that ``SET key value`` is
    always placed. ``used`` gets each slot whose
    group was empty before, ``met`` the slot of every command. Returns (index where the walk stopped, number of the
    command there).
    """
    here: i64 = at
    last: i64 = len(raw)
    count: i64 = number
    name: bytes = b""
    name_size: i64 = 0
    wanted: i64 = -1
    high: bytes = _HIGH
    low: bytes = _LOW
    while here < last:
        begin: i64 = here
        look: i64 = here + 13
        left: i64 = 1
        if (
            look < last
            and raw[here + 1] == 51  # '*3'
            and raw[here + 2] == 13
            and raw[here + 5] == 51  # '$3'
            and raw[here + 6] == 13
            and raw[here + 8] | 32 == 115  # 'set', in any case
            and raw[here + 9] | 32 == 101
            and raw[here + 10] | 32 == 116
        ):
            begin = look
        else:
            look = here + 1
            argc: i64 = 0
            while raw[look] != 13:
                argc = argc * 10 + (raw[look] - 48)
                look += 1
            look += 3
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
            left = argc - 2
        # the key
        look += 1
        size = 0
        while raw[look] != 13:
            size = size * 10 + (raw[look] - 48)
            look += 1
        look += 2
        index = look
        look += size
        crc: i64 = 0
        while index < look:
            byte: i64 = raw[index]
            if byte == 123:  # '{'
                break
            step: i64 = (crc >> 8) ^ byte
            crc = (((crc & 255) ^ high[step]) << 8) | low[step]
            index += 1
        if index < look:
            crc = _tagged(raw[int(look - size) : int(look)])
        slot: i64 = crc & 16383
        look += 2
        while left > 0:
            look += 1
            size = 0
            while raw[look] != 13:
                size = size * 10 + (raw[look] - 48)
                look += 1
            look += size + 4
            left -= 1
        group = groups[slot]
        if not group:
            used.append(int(slot))
        group.append(raw[int(begin) : int(look)])
        if met is not None:
            met.append(int(slot))
        here = look
        count += 1
    return int(here), int(count)


def _tagged(key: bytes) -> int:
    """CRC of a key that has a brace: of its hash tag, where it has one."""
    brace = key.find(b"{")
    close = key.find(b"}", brace + 1)
    return crc_hqx(key[brace + 1 : close] if close > brace + 1 else key, 0)


def bundle(
    slots: list[int], groups: list[list[bytes]], keys: list[bytes], opening: bytes, words: bytes
) -> tuple[bytes, int, bool]:
    """A transaction for each of these slots: the HSET of its record, then its group, which is emptied.

    ``opening``: the HSET up to its key, which ``keys`` has for each slot as a bulk string; ``words``: what follows.
    Returns (commands, number of their replies, whether each group became one SET or MSET).
    """
    out: list[bytes] = [_MULTI]
    replies: i64 = 3 * len(slots)
    plain: bool = True
    which: i64 = 0
    while which < len(slots):
        if which > 0:
            out.append(_AGAIN)
        slot: i64 = slots[which]
        out.append(opening)
        out.append(keys[slot])
        out.append(words)
        group = groups[slot]
        size: i64 = len(group)
        at: i64 = 0
        queued: i64 = 0
        while at < size:
            piece = group[at]
            end: i64 = at + 1
            if piece[0] != _DOLLAR:
                plain = False
                out.append(piece)
            else:
                while end < size and group[end][0] == _DOLLAR:
                    end += 1
                if end == at + 1:
                    out.append(_SET)
                    out.append(piece)
                else:
                    out.append(b"*%d\r\n$4\r\nMSET\r\n" % int(2 * (end - at) + 1))
                    out.extend(group if end - at == size else group[int(at) : int(end)])
            queued += 1
            at = end
        group.clear()
        if queued != 1:
            plain = False
        replies += queued
        which += 1
    out.append(_EXEC)
    return b"".join(out), int(replies), plain
