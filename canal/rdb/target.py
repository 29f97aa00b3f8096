"""What a server of a given flavor and version can load: RESTORE as is, RESTORE re-stamped, or commands.

What decides was measured between all pairs of servers that could be had: a payload of a newer version is refused,
whatever it holds; a payload whose footer names an older version passes where the server knows the value's encoding;
Redis since 7.4 and Valkey since 9 number their versions apart, and share what came before (up to RDB 11). A module's
payload is never re-stamped: older servers crash on one whose version lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from canal.errors import NotRedis, ReplayError
from canal.rdb.dump import dump_payload
from canal.rdb.types import (
    ARRAY,
    HASH_LISTPACK,
    HASH_LISTPACK_EX,
    HASH_LISTPACK_EX_PRE_GA,
    HASH_METADATA,
    HASH_METADATA_PRE_GA,
    HASH_TEMPLATE_ARRAY,
    HASH_TEMPLATE_ARRAY_REF,
    HASH_TEMPLATE_LISTPACK,
    HASH_TEMPLATE_LISTPACK_REF,
    LIST_QUICKLIST,
    LIST_QUICKLIST_2,
    MODULE_2,
    REDIS,
    SET_LISTPACK,
    STREAM,
    STREAM_2,
    STREAM_3,
    STREAM_4,
    STREAM_5,
    STREAMS,
    VALKEY,
    VALKEY_HASH_2,
    ZSET_2,
    ZSET_LISTPACK,
    encoding_name,
)

SHARED_RDB: Final = 11  # the newest version that Redis and Valkey number alike
_FIRST_VALKEY_RDB: Final = 80

# The newest RDB version that each release loads, newest release first.
_REDIS_RDB: Final[list[tuple[tuple[int, ...], int]]] = [
    ((8, 10), 15),
    ((8, 8), 14),
    ((8, 6), 13),
    ((7, 4), 12),
    ((7, 2), 11),
    ((7, 0), 10),
    ((5, 0), 9),
    ((4, 0), 8),
    ((3, 2), 7),
    ((0,), 6),
]
_VALKEY_RDB: Final[list[tuple[tuple[int, ...], int]]] = [((9, 0), 80), ((0,), 11)]

# The RDB version in which each encoding appeared; what is not named here every server with RESTORE knows.
_SINCE: Final[dict[str, dict[int, int]]] = {
    REDIS: {
        LIST_QUICKLIST: 7,
        ZSET_2: 8,
        MODULE_2: 8,
        STREAM: 9,
        HASH_LISTPACK: 10,
        ZSET_LISTPACK: 10,
        LIST_QUICKLIST_2: 10,
        STREAM_2: 10,
        SET_LISTPACK: 11,
        STREAM_3: 11,
        HASH_METADATA_PRE_GA: 12,
        HASH_LISTPACK_EX_PRE_GA: 12,
        HASH_METADATA: 12,
        HASH_LISTPACK_EX: 12,
        STREAM_4: 13,
        STREAM_5: 14,
        ARRAY: 14,
        HASH_TEMPLATE_LISTPACK: 15,
        HASH_TEMPLATE_ARRAY: 15,
    },
    VALKEY: {VALKEY_HASH_2: 80},
}
_BY_REFERENCE: Final = frozenset({HASH_TEMPLATE_LISTPACK_REF, HASH_TEMPLATE_ARRAY_REF})

Action = Literal["restore", "restamp", "commands", "impossible"]


class NotLoadable(ReplayError):
    """A value that the target cannot hold by any means; the message names its kind, the target and the reason."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a value reaches the target. ``version``: the RDB version to stamp on its payload; ``reason`` why not RESTORE
    as is.
    """

    action: Action
    version: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that data is brought to. ``version`` of its own flavor's numbering; ``rdb_version``: the newest it
    loads.
    """

    flavor: str
    version: tuple[int, ...]
    rdb_version: int

    @classmethod
    def of(cls, flavor: str, version: str) -> Target:
        """From a flavor and a version text such as ``7.0.15``. Raises NotRedis when the text holds no version."""
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
        if match is None:
            raise NotRedis(f"expected a version such as 7.0.15 in INFO server, got {version!r}")
        numbers = tuple(int(part or 0) for part in match.groups())
        table = _VALKEY_RDB if flavor == VALKEY else _REDIS_RDB
        rdb = next(rdb for since, rdb in table if numbers >= since)
        return cls(flavor, numbers, rdb)

    @classmethod
    def from_info(cls, info: Mapping[str, object]) -> Target:
        """From the fields of ``INFO server``. Raises NotRedis when they name no version."""
        if info.get("server_name") == VALKEY or "valkey_version" in info:
            return cls.of(VALKEY, str(info.get("valkey_version", "")))
        return cls.of(REDIS, str(info.get("redis_version", "")))

    def at_least(self, redis: tuple[int, ...], valkey: tuple[int, ...] | None = (0,)) -> bool:
        """Whether this is Redis of at least ``redis`` or Valkey of at least ``valkey`` (default: any; None: never)."""
        if self.flavor == VALKEY:
            return valkey is not None and self.version >= valkey
        return self.version >= redis

    def with_rdb_version(self, version: int) -> Target:
        """The same server after a probe showed another newest version than the table says."""
        return replace(self, rdb_version=version)

    def loads(self, flavor: str, version: int) -> bool:
        """Whether it accepts payloads of RDB version ``version`` as a server of ``flavor`` writes them."""
        return version <= (self.rdb_version if flavor == self.flavor else min(self.rdb_version, SHARED_RDB))

    def knows(self, flavor: str, value_type: int) -> bool:
        """Whether it can read the encoding ``value_type`` as a server of ``flavor`` numbers it."""
        since = _SINCE[REDIS].get(value_type, 1)
        if flavor == VALKEY and value_type in _SINCE[VALKEY]:
            since = _SINCE[VALKEY][value_type]
            return self.flavor == VALKEY and self.rdb_version >= since
        if self.flavor == VALKEY:
            return since <= SHARED_RDB
        return since <= self.rdb_version

    def __str__(self) -> str:
        return f"{'Valkey' if self.flavor == VALKEY else 'Redis'} {'.'.join(str(n) for n in self.version)}"


def probe_payload(version: int) -> bytes:
    """A one-byte string value under ``version``: RESTORE of it tells whether a server accepts that version."""
    return dump_payload(0, b"\x010", version)


def flavor_of(version: int) -> str:
    """Who numbers its RDB versions so: the footer of a DUMP payload holds a version, but no magic."""
    return VALKEY if version >= _FIRST_VALKEY_RDB else REDIS


class Loadable:
    """Plans per value type, from a source's RDB to one target; made once per snapshot, asked once per key.

    ``big_bytes``: longer values go as commands in pieces, where commands can carry them; 0: never for their size.
    """

    def __init__(self, target: Target, flavor: str, version: int, *, big_bytes: int = 0) -> None:
        self.target = target
        self.flavor = flavor
        self.version = version
        self.big_bytes = big_bytes
        self._plans: dict[int, Plan] = {}

    def plan(self, value_type: int, size: int = 0, *, meta: bool = False) -> Plan:
        """For a value of ``size`` bytes; ``meta``: it has module metadata (Key.meta), which only RESTORE carries."""
        plan = self._plans.get(value_type)
        if plan is None:
            plan = self._plans[value_type] = self._decide(value_type)
        if meta and plan.action != "restore":
            return Plan("impossible", 0, f"module metadata of keys cannot be brought to {self.target}")
        if self.big_bytes and size > self.big_bytes and not meta and plan.action in ("restore", "restamp"):
            return self._big(value_type, plan)
        return plan

    def _big(self, value_type: int, plan: Plan) -> Plan:
        if value_type == MODULE_2 or self._never_by_commands(value_type):
            return plan
        return Plan("commands", 0, f"longer than {self.big_bytes} bytes")

    def _decide(self, value_type: int) -> Plan:
        loads = self.target.loads(self.flavor, self.version)
        if value_type in _BY_REFERENCE:
            return Plan("commands", 0, "its field names stand elsewhere in the RDB")
        if loads:
            return Plan("restore", self.version)
        newer = f"{self.target} does not load RDB version {self.version} of {self.flavor}"
        if value_type == MODULE_2:
            return Plan("impossible", 0, f"{newer}, and a module's value cannot be converted")
        if self.target.knows(self.flavor, value_type):
            stamp = self.target.rdb_version if self.flavor == self.target.flavor else SHARED_RDB
            return Plan("restamp", min(stamp, self.target.rdb_version), newer)
        impossible = self._never_by_commands(value_type)
        if impossible:
            return Plan("impossible", 0, impossible)
        return Plan("commands", 0, f"{self.target} does not know the encoding {encoding_name(value_type)}")

    def _never_by_commands(self, value_type: int) -> str:
        """Why commands cannot make this type on the target; empty when they can."""
        if value_type == ARRAY:
            return f"arrays can be brought by RESTORE only, and need Redis 8.8; the target is {self.target}"
        if value_type in STREAMS and not self.target.at_least((5, 0)):
            return f"streams need Redis 5.0; the target is {self.target}"
        return ""
