"""One key of a snapshot → the commands that make it at the target. No I/O.

RESTORE with the bytes as they stand where the target loads that version, plain strings as SET; otherwise RESTORE under
an older version's stamp, or ordinary commands (`canal.rdb.target` decides). All deadlines are absolute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from canal.commands import ServerKind
from canal.errors import ReplayError
from canal.rdb.dump import decode_string, dump_payload
from canal.rdb.events import Function, Header, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.target import Loadable, NotLoadable, Target
from sync.status import SnapshotProgress

GRACE_MS: Final = 10_000
"""Keys that end sooner than this get this long: the stream brings their end, and may renew them before."""
_STRING: Final = 0


class Restorer:
    """Makes commands for one target. ``keep``: a key that the target has stays as it is (two-way)."""

    def __init__(self, target: ServerKind, *, keep: bool, status: SnapshotProgress, big_key_bytes: int) -> None:
        self.status = status
        self._keep = keep
        self._big_bytes = big_key_bytes
        self._target = Target.of(target.flavor, ".".join(str(part) for part in (*target.version, 0, 0)[:3]))
        self._loadable: Loadable | None = None
        self._set_pxat = target.at_least((6, 2))
        self._absttl = target.at_least((5, 0))

    def header(self, header: Header) -> None:
        """The RDB's version decides what can be restored as it is."""
        self._loadable = Loadable(self._target, header.flavor, header.version, big_bytes=self._big_bytes)

    def key(self, key: Key) -> list[list[bytes]]:
        """The commands of a whole key. Raises `NotLoadable` for what the target cannot hold by any means."""
        self.status.keys_done += 1
        if key.type == _STRING and key.idle is None and key.freq is None and not key.meta:
            self.status.keys_restored += 1
            return self._string(key)
        loadable = self._loadable
        if loadable is None:
            raise ReplayError("a key came before the header of its RDB")
        plan = loadable.plan(key.type, len(key.value), meta=bool(key.meta))
        if plan.action in ("restore", "restamp"):
            if plan.action == "restore":
                self.status.keys_restored += 1
            else:
                self.status.keys_restamped += 1
            return self._restore(key, plan.version)
        if plan.action == "impossible":
            raise NotLoadable(f"key {key.key!r} in database {key.db}: {plan.reason}")
        self.status.keys_decoded += 1
        return self._decoded(key)

    def function(self, function: Function) -> list[list[bytes]]:
        """FUNCTION LOAD of a library; nothing for a target before functions."""
        if function.pre_release or not self._target.at_least((7, 0)):
            return []
        return [[b"FUNCTION", b"LOAD", b"REPLACE", function.code]]

    def big(self, event: KeyStart | ValuePart | KeyEnd) -> Iterator[tuple[int, list[list[bytes]], int]]:
        """A value that comes in parts: (database, commands, RDB offset of the key boundary or 0)."""
        raise NotLoadable("values in parts are not supported yet")

    def _deadline(self, expire_ms: int | None) -> int:
        if expire_ms is None:
            return 0
        return max(expire_ms, time.time_ns() // 1_000_000 + GRACE_MS)

    def _string(self, key: Key) -> list[list[bytes]]:
        argv = [b"SET", key.key, decode_string(key.value)]
        if self._keep:
            argv.append(b"NX")
        deadline = self._deadline(key.expire_ms)
        if not deadline:
            return [argv]
        if self._set_pxat:
            return [[*argv, b"PXAT", b"%d" % deadline]]
        return [argv, [b"PEXPIREAT", key.key, b"%d" % deadline]]

    def _restore(self, key: Key, version: int) -> list[list[bytes]]:
        payload = dump_payload(key.type, key.value, version, key.meta)
        deadline = self._deadline(key.expire_ms)
        argv = [b"RESTORE", key.key, b"%d" % (deadline if self._absttl else 0), payload]
        if not self._keep:
            argv.append(b"REPLACE")
        if not self._absttl:
            return [argv, [b"PEXPIREAT", key.key, b"%d" % deadline]] if deadline else [argv]
        if deadline:
            argv.append(b"ABSTTL")
        if key.idle is not None:
            argv += [b"IDLETIME", b"%d" % key.idle]
        elif key.freq is not None:
            argv += [b"FREQ", b"%d" % key.freq]
        return [argv]

    def _decoded(self, key: Key) -> list[list[bytes]]:
        raise NotLoadable(f"key {key.key!r} in database {key.db}: has to be decoded, which is not supported yet")
