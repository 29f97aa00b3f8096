"""Two ways: which deadlines at the target are our own, held off while the link was late (`sync.ttl`).

Until its true deadline is put in place, the copy of a held key lives longer at the target than at the source. An expiry
delete is conditional: it would take the held deadline for somebody's fresh one and leave the key there. So which
deadline was held is written in the same transaction, into a reserved hash beside the keys (of the same database), and
the conditional delete looks there. A process that dies, and one on another node that takes over, finds it again; a
target that loses the keys' deadlines by a failover loses it with them. The hash has a deadline of its own, a little
later than the latest held one, since a deadline that has passed holds nothing.
"""

from __future__ import annotations

from typing import Final

from sync.refetch import Place
from sync.tag import RESERVED
from sync.target.connection import Connection
from sync.target.fence import parse_info

_AT_ONCE: Final = 1000
_LONGER_MS: Final = 10_000


def held_key(task: str, shard: str) -> bytes:
    """The reserved hash of a link: key → ``<held> <true>``, unix ms."""
    return RESERVED + f"held:{task}/{shard}".encode()


def record(name: bytes, fresh: dict[Place, tuple[int, int]]) -> list[tuple[int, list[bytes]]]:
    """Commands that remember these: place at the target → its true deadline and the held one."""
    by_db: dict[int, list[bytes]] = {}
    for (db, key), (true, held) in fresh.items():
        by_db.setdefault(db, []).extend((key, b"%d %d" % (held, true)))
    until = max((held for _, held in fresh.values()), default=0) + _LONGER_MS
    out: list[tuple[int, list[bytes]]] = []
    for db, words in by_db.items():
        begins = range(0, len(words), 2 * _AT_ONCE)
        out += [(db, [b"HSET", name, *words[begin : begin + 2 * _AT_ONCE]]) for begin in begins]
        out.append((db, [b"PEXPIREAT", name, b"%d" % until]))
    return out


async def read_held(conn: Connection, name: bytes) -> dict[Place, tuple[int, int]]:
    """All that is remembered at the target: place → (true, held). Leaves database 0 selected.

    Raises Unreachable and the like; what may not be read is not known.
    """
    found: dict[Place, tuple[int, int]] = {}
    keyspace = parse_info(await conn.call(b"INFO", b"keyspace"))
    for db in sorted(int(one[2:]) for one in keyspace if one.startswith("db") and one[2:].isdigit()):
        _, flat, _ = await conn.calls([[b"SELECT", b"%d" % db], [b"HGETALL", name], [b"SELECT", b"0"]])
        if not isinstance(flat, list):
            continue
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            held, _, true = value.partition(b" ")
            if held.isdigit() and true.isdigit():
                found[(db, key)] = (int(true), int(held))
    return found
