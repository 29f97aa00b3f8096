"""RESTORE and FUNCTION RESTORE as they stand in a command stream, for a target that may be of another version.

Their payloads carry a version in the footer but no magic; since Redis and Valkey number theirs apart, the number tells
whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from canal.rdb.commands import Command, key_commands
from canal.rdb.dump import crc64, dump_payload, payload_version, split_payload
from canal.rdb.events import Key
from canal.rdb.target import SHARED_RDB, Loadable, NotLoadable, Target, flavor_of
from canal.rdb.types import OP_FUNCTION_PRE_GA


@dataclass(frozen=True, slots=True)
class Restore:
    """The arguments of a RESTORE. ``ttl_ms``: 0 none, else relative, or a Unix time with ``absolute``."""

    key: bytes
    ttl_ms: int
    payload: bytes
    absolute: bool = False
    replace: bool = False
    idle: int | None = None
    freq: int | None = None

    @classmethod
    def parse(cls, argv: list[bytes]) -> Restore | None:
        """From ``RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n]``; None when it has another form."""
        if len(argv) < 4:
            return None
        hints: dict[str, int] = {}
        flags: set[str] = set()
        rest = iter(argv[4:])
        try:
            ttl_ms = int(argv[2])
            for word in rest:
                name = word.upper().decode("latin-1")
                if name in ("REPLACE", "ABSTTL"):
                    flags.add(name)
                elif name in ("IDLETIME", "FREQ"):
                    hints[name] = int(next(rest))
                else:
                    return None
        except (ValueError, StopIteration):
            return None
        absolute, replace = "ABSTTL" in flags, "REPLACE" in flags
        return cls(argv[1], ttl_ms, argv[3], absolute, replace, hints.get("IDLETIME"), hints.get("FREQ"))


def adapt_restore(argv: list[bytes], target: Target) -> list[Command]:
    """What to send instead of this RESTORE: itself, itself with its payload re-stamped, or commands that make the key.

    A RESTORE that is not understood, or whose payload no server would load, is left as it is: the target will answer.
    Raises NotLoadable where the target cannot hold the value, RdbError where its bytes cannot be decoded.
    """
    restore = Restore.parse(argv)
    if restore is None:
        return [argv]
    if len(restore.payload) <= 10:
        return [argv]
    version = payload_version(restore.payload, check=False)
    flavor = flavor_of(version)
    old = not target.at_least((5, 0))
    if target.loads(flavor, version):
        return _for_old_target(restore, restore.payload) if old else [argv]
    payload = split_payload(restore.payload)
    plan = Loadable(target, flavor, version).plan(payload.type, meta=bool(payload.meta))
    if plan.action == "impossible":
        raise NotLoadable(f"key {restore.key!r}: {plan.reason}")
    if plan.action == "restamp":
        stamped = dump_payload(payload.type, payload.value, plan.version, payload.meta)
        return _for_old_target(restore, stamped) if old else [[*argv[:3], stamped, *argv[4:]]]
    key = Key(0, restore.key, payload.type, payload.value, None, None, None, 0, 0)
    return [*key_commands(key, target, flavor=flavor), *_deadline(restore)]


def _for_old_target(restore: Restore, payload: bytes) -> list[Command]:
    """Before Redis 5.0 RESTORE knew neither ABSTTL nor the hints."""
    command = [b"RESTORE", restore.key, b"0", payload]
    return [[*command, b"REPLACE"] if restore.replace else command, *_deadline(restore)]


def _deadline(restore: Restore) -> list[Command]:
    if not restore.ttl_ms:
        return []
    return [[b"PEXPIREAT" if restore.absolute else b"PEXPIRE", restore.key, b"%d" % restore.ttl_ms]]


def adapt_function_restore(argv: list[bytes], target: Target) -> Command:
    """What to send instead of this ``FUNCTION RESTORE payload [policy]``: itself, or itself re-stamped.

    Raises NotLoadable where the target has no functions, RdbError where the payload is not one.
    """
    payload = argv[2]
    version = payload_version(payload)
    if not target.at_least((7, 0)):
        raise NotLoadable(f"functions need Redis 7.0; the target is {target}")
    flavor = flavor_of(version)
    if target.loads(flavor, version):
        return argv
    if payload[0] == OP_FUNCTION_PRE_GA:
        raise NotLoadable("a function library of a Redis 7.0 release candidate: no release loads that form")
    stamp = target.rdb_version if flavor == target.flavor else min(SHARED_RDB, target.rdb_version)
    body = payload[:-10] + stamp.to_bytes(2, "little")
    return [*argv[:2], body + crc64(body).to_bytes(8, "little"), *argv[3:]]
