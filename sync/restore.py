"""One key of a snapshot → the commands that make it at the target. No I/O.

RESTORE with the bytes as they stand where the target loads that version, plain strings as SET; otherwise RESTORE under
an older version's stamp, or ordinary commands (`canal.rdb.target` decides). All deadlines are absolute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from canal.cluster import slot_of, slot_tag
from canal.commands import COMMANDS, Flag, ServerKind
from canal.errors import ReplayError
from canal.rdb.commands import BigKey, key_commands
from canal.rdb.dump import decode_string, dump_payload, restore_command
from canal.rdb.events import Function, Header, Key, KeyEnd, KeyStart, PlainRun, ValuePart
from canal.rdb.plain import SHAPES, PlainKeys
from canal.rdb.target import Loadable, NotLoadable, Plan, Target
from canal.rdb.types import encoding_name
from sync.homes import FUNCTIONS, library_name
from sync.status import SnapshotProgress
from sync.tag import RESERVED

log = logging.getLogger(__name__)

GRACE_MS: Final = 10_000
"""Keys that end sooner than this get this long: the stream brings their end, and may renew them before."""
_STRING: Final = 0
_NOSCRIPT: Final = frozenset(info.name for info in COMMANDS if info.flags & Flag.NOSCRIPT)
_AT_ONCE_BYTES: Final = 1 << 20
"""Longer values that have to go as commands are made under a temporary name, in several transactions."""


def temporary_key(task: str, shard: str) -> bytes:
    """The name under which a link makes values that come in pieces; reserved, so nobody replicates it."""
    return RESERVED + f"tmp:{task}/{shard}".encode()


@dataclass(frozen=True, slots=True)
class Step:
    """Commands of one key that commit together. ``end``: RDB offset of the key boundary they reach, 0 for none;
    ``at``: RDB offset of what they were made from, where they reach none. ``raw``: one long command as RESP, in the
    place of ``commands``.
    """

    db: int
    commands: list[list[bytes]]
    end: int
    noscript: bool = False
    at: int = 0
    raw: bytes = b""


Keeps = Callable[[int, bytes], bool]
"""(database, key) → does a value that the target has stay?"""


class Restorer:
    """Makes commands for one target. ``keep``: a key that the target has stays as it is (two-way)."""

    def __init__(
        self, target: Target, temporary: bytes, *, keep: bool | Keeps, status: SnapshotProgress, big_key_bytes: int
    ) -> None:
        self.status = status
        self.target = target
        self.encodes = False  # long values as RESP at once: nobody looks at the commands
        self.temporary = temporary
        self.slotted = False  # a cluster target: a temporary name has to be in the slot of the final one
        self._keep = keep if isinstance(keep, bool) else True
        self._keeps = None if isinstance(keep, bool) else keep
        self._big_bytes = big_key_bytes
        self._loadable: Loadable | None = None
        self.flavor = "redis"
        self._set_pxat = target.at_least((6, 2))
        self._absttl = target.at_least((5, 0))
        self._big: BigKey | None = None
        self._shown: set[int] = set()  # value types whose way is told
        self._plain: PlainKeys | None = None
        self._seen = b""

    def header(self, header: Header, target: Target) -> None:
        """The RDB's version and what a probe of the target said decide what can be restored as it is."""
        self.target = target
        self.flavor = header.flavor
        self._loadable = Loadable(target, header.flavor, header.version, big_bytes=self._big_bytes)

    def plain_keys(
        self, buckets: list[Any] | None, skip_to: int, max_keys: int, max_bytes: int, *, timed: bool
    ) -> PlainKeys | None:
        """How the reader may write ordinary keys as commands by itself; None where each key has to be looked at.

        ``timed``: those with a deadline too.
        """
        if self._keep or self._keeps is not None or not self._absttl or self._loadable is None:
            return None
        shapes = bytearray(256)
        for value_type, shape in SHAPES.items():
            if self._loadable.plan(value_type).action in ("restore", "restamp"):
                shapes[value_type] = shape
        self._plain = PlainKeys(
            bytes(shapes),
            self._loadable.plan(_STRING).version,
            self._set_pxat,
            RESERVED,
            buckets,
            skip_to,
            GRACE_MS if timed else -1,
            max_keys,
            max_bytes,
            self._big_bytes,
        )
        return self._plain

    def count_run(self, run: PlainRun) -> None:
        """Keys that the reader wrote as commands."""
        status = self.status
        status.keys_done += run.keys + run.passed
        assert self._plain is not None and self._loadable is not None
        if self._loadable.plan(_STRING).action == "restore":
            status.keys_restored += run.keys
        else:
            status.keys_restored += run.sets
            status.keys_restamped += run.keys - run.sets
        seen = self._plain.seen
        if seen != self._seen:
            self._seen = bytes(seen)
            for value_type in SHAPES:
                if seen[value_type] and value_type not in self._shown:
                    self._show(value_type, self._loadable.plan(value_type))

    def key(self, key: Key) -> Iterator[Step]:
        """A whole key. Raises `NotLoadable` for what the target cannot hold by any means."""
        if self._keeps is not None:
            self._keep = self._keeps(key.db, key.key)
        self.status.keys_done += 1
        if key.expire_ms is not None:
            key.expire_ms = self._deadline(key.expire_ms)
        if key.type == _STRING and key.idle is None and key.freq is None and not key.meta and not self._keep:
            self.status.keys_restored += 1
            if _STRING not in self._shown:
                self._show(_STRING, Plan("restore", 0))
            yield Step(key.db, self._string(key), key.end)
            return
        if self._loadable is None:
            raise ReplayError("a key came before the header of its RDB")
        plan = self._loadable.plan(key.type, len(key.value), meta=bool(key.meta))
        if key.type not in self._shown:
            self._show(key.type, plan)
        if plan.action == "restore" or plan.action == "restamp":
            if plan.action == "restore":
                self.status.keys_restored += 1
            else:
                self.status.keys_restamped += 1
            if self.encodes and self._absttl and len(key.value) >= _AT_ONCE_BYTES:
                yield Step(key.db, [], key.end, raw=self._restore_long(key, plan.version))
            else:
                yield Step(key.db, self._restore(key, plan.version), key.end)
        elif plan.action == "impossible":
            raise NotLoadable(f"key {key.key!r} in database {key.db}: {plan.reason}")
        else:
            self.status.keys_decoded += 1
            yield from self._decoded(key)

    def _show(self, value_type: int, plan: Plan) -> None:
        """What is chosen for an encoding, once, for the status and the log."""
        self._shown.add(value_type)
        name = encoding_name(value_type)
        text = plan.action + (f" as version {plan.version}" if plan.action == "restamp" else "")
        text += f": {plan.reason}" if plan.reason else ""
        if value_type == _STRING and not self._keep:
            text = "set"
        self.status.choices[name] = text
        log.info("values encoded as %s go by %s", name, text)

    def function(self, function: Function) -> Iterator[Step]:
        """FUNCTION LOAD of a library; nothing for a target before functions."""
        if not function.pre_release and self.target.at_least((7, 0)):
            argv = [b"FUNCTION", b"LOAD", b"REPLACE", function.code]
            if self._keep if self._keeps is None else self._keeps(FUNCTIONS, library_name(argv)):
                del argv[2]
            yield Step(0, [argv], 0, noscript=True)

    def big(self, event: KeyStart | ValuePart | KeyEnd) -> Iterator[Step]:
        """A value that comes in parts, made under the temporary name."""
        if isinstance(event, KeyStart):
            if self._keeps is not None:
                self._keep = self._keeps(event.db, event.key)
            self.status.keys_done += 1
            self.status.keys_decoded += 1
            start = event
            self.status.choices[f"{encoding_name(event.type)}, long"] = (
                f"commands in pieces: over {self._big_bytes} bytes"
            )
            if event.expire_ms is not None:
                start = replace(event, expire_ms=self._deadline(event.expire_ms))
            self._big = BigKey(start, self.target, self._temporary(start.key), flavor=self.flavor)
            yield from self._steps(start.db, self._big.begin(), event.offset)
            return
        big = self._big
        if big is None:
            raise ReplayError("a part of a value came without its beginning")
        if isinstance(event, ValuePart):
            yield from self._steps(big.start.db, big.part(event), event.offset)
        else:
            yield Step(big.start.db, self._landed(big.end(), big.start.key), event.end)
            self._big = None

    def _steps(self, db: int, commands: Iterable[list[bytes]], at: int) -> Iterator[Step]:
        for argv in commands:
            yield Step(db, [argv], 0, argv[0] in _NOSCRIPT, at)

    def _decoded(self, key: Key) -> Iterator[Step]:
        """As ordinary commands: at once when small, else piece by piece under the temporary name."""
        if len(key.value) <= _AT_ONCE_BYTES and not self._keep:
            commands = list(key_commands(key, self.target, flavor=self.flavor))
            yield Step(key.db, commands, key.end, any(argv[0] in _NOSCRIPT for argv in commands))
            return
        last: list[list[bytes]] = []
        for argv in key_commands(key, self.target, flavor=self.flavor, temporary=self._temporary(key.key)):
            if last or argv[0] == b"RENAME":
                last.append(argv)
            else:
                yield Step(key.db, [argv], 0, argv[0] in _NOSCRIPT, key.offset)
        yield Step(key.db, self._landed(last, key.key), key.end)

    def _landed(self, last: Iterable[list[bytes]], key: bytes) -> list[list[bytes]]:
        """The end of a value made under the temporary name: RENAME and deadline; or only where nothing stands."""
        commands = list(last)
        if not self._keep:
            return commands
        made = self._temporary(key)
        deadlines = [[b"PEXPIREAT", made, argv[2]] for argv in commands if argv[0] == b"PEXPIREAT"]
        return [*deadlines, [b"RENAMENX", made, key], [b"DEL", made]]

    def _temporary(self, key: bytes) -> bytes:
        if not self.slotted:
            return self.temporary
        return self.temporary + b":{" + slot_tag(slot_of(key)) + b"}"

    def _deadline(self, expire_ms: int) -> int:
        return max(expire_ms, time.time_ns() // 1_000_000 + GRACE_MS)

    def _string(self, key: Key) -> list[list[bytes]]:
        argv = [b"SET", key.key, decode_string(key.value)]
        if key.expire_ms is None:
            return [argv]
        if self._set_pxat:
            return [[*argv, b"PXAT", b"%d" % key.expire_ms]]
        return [argv, [b"PEXPIREAT", key.key, b"%d" % key.expire_ms]]

    def _restore(self, key: Key, version: int) -> list[list[bytes]]:
        payload = dump_payload(key.type, key.value, version, key.meta)
        deadline = key.expire_ms or 0
        if not self._absttl:
            return self._restore_old(key, payload, deadline)
        return [[b"RESTORE", key.key, b"%d" % deadline, payload, *self._restore_options(key)]]

    def _restore_long(self, key: Key, version: int) -> bytes:
        """The same as RESP; the key gives its value up, so that it is in memory once."""
        deadline, options = b"%d" % (key.expire_ms or 0), self._restore_options(key)
        raw = restore_command(key.key, deadline, key.type, key.value, version, key.meta, options)
        key.value = b""
        return raw

    def _restore_options(self, key: Key) -> list[bytes]:
        options = [] if self._keep else [b"REPLACE"]
        if key.expire_ms:
            options.append(b"ABSTTL")
        if key.idle is not None:
            options += [b"IDLETIME", b"%d" % key.idle]
        elif key.freq is not None:
            options += [b"FREQ", b"%d" % key.freq]
        return options

    def _restore_old(self, key: Key, payload: bytes, deadline: int) -> list[list[bytes]]:
        """Before Redis 5.0 RESTORE knows no absolute deadline."""
        if self._keep:
            left = max(1, deadline - time.time_ns() // 1_000_000) if deadline else 0
            return [[b"RESTORE", key.key, b"%d" % left, payload]]
        argv = [b"RESTORE", key.key, b"0", payload, b"REPLACE"]
        return [argv, [b"PEXPIREAT", key.key, b"%d" % deadline]] if deadline else [argv]


def target_of(kind: ServerKind) -> Target:
    """The target as the RDB rooms know it."""
    return Target.of(kind.flavor, ".".join(str(part) for part in (*kind.version, 0, 0)[:3]))
