"""RESTORE and functions: payloads that only some servers load."""

from __future__ import annotations

from typing import Final

from canal.errors import CanalError
from canal.rdb.commands import key_commands
from canal.rdb.dump import FOOTER_BYTES, dump_payload, payload_version, split_payload
from canal.rdb.dump import Payload as Taken
from canal.rdb.events import Key
from canal.rdb.target import Loadable, NotLoadable, Target, flavor_of
from canal.rdb.wire import Malformed, Short, read_string
from sync.rewrite.rules import NO_FUNCTIONS, Command, Commands, Context, Payload, Result, deadline, number
from sync.rules import Dropped, Impossible

_FUNCTION2: Final = 245


def restore(argv: Command, now_ms: int, context: Context) -> Result:
    """RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n].

    A relative TTL becomes absolute. A payload that the target does not load is converted; ABSTTL (5.0) and REPLACE
    (3.0) that it does not know become PEXPIREAT and DEL.
    """
    if len(argv) < 4:
        return [argv]
    key, payload = argv[1], argv[3]
    replace, absolute, hints = _restore_options(argv[4:])
    at = deadline(argv[2], 1, 0 if absolute or argv[2] == b"0" else now_ms)
    if at is None:
        return [argv]
    replace = replace or context.unconditional
    try:
        loadable = context.restore(key, payload)
    except CanalError as error:
        return Impossible(str(error))
    if loadable is None:
        return Impossible(f"{context.target} cannot load this payload of {len(payload)} bytes")
    if isinstance(loadable, list):
        return [*loadable, *_ends(key, at)]
    return _restore_command(argv, loadable, at, replace, absolute, hints, context)


def _restore_options(options: Command) -> tuple[bool, bool, Command]:
    """REPLACE?, ABSTTL?, and the hints IDLETIME and FREQ as they stand."""
    words = [option.upper() for option in options]
    hints: Command = []
    for index, word in enumerate(words[:-1]):
        if word in (b"IDLETIME", b"FREQ"):
            hints += options[index : index + 2]
    return b"REPLACE" in words, b"ABSTTL" in words, hints


def _ends(key: bytes, at_ms: int) -> Commands:
    return [[b"PEXPIREAT", key, number(at_ms)]] if at_ms else []


def _restore_command(
    argv: Command, payload: bytes, at_ms: int, replace: bool, absolute: bool, hints: Command, context: Context
) -> Commands:
    key = argv[1]
    unchanged = payload is argv[3] and (absolute or not at_ms) and argv[0].upper() == b"RESTORE"
    if context.target.at_least((5, 0)):
        if unchanged and replace == any(option.upper() == b"REPLACE" for option in argv[4:]):
            return [argv]
        words = [*([b"REPLACE"] if replace else []), *([b"ABSTTL"] if at_ms else []), *hints]
        return [[b"RESTORE", key, number(at_ms), payload, *words]]
    if context.target.at_least((3, 0)):
        return [[b"RESTORE", key, b"0", payload, *([b"REPLACE"] if replace else [])], *_ends(key, at_ms)]
    before = [[b"DEL", key]] if replace else []
    return [*before, [b"RESTORE", key, b"0", payload], *_ends(key, at_ms)]


def function(argv: Command, now_ms: int, context: Context) -> Result:
    """FUNCTION LOAD [REPLACE] code | DELETE name | FLUSH [ASYNC|SYNC] | RESTORE payload [FLUSH|APPEND|REPLACE].

    LOAD gets REPLACE: a library that stands on the target already is no reason to stop.
    """
    if not context.target.at_least((7, 0)):
        return Dropped(NO_FUNCTIONS)
    action = argv[1].upper() if len(argv) > 1 else b""
    if action == b"LOAD" and len(argv) == 3:
        return [[b"FUNCTION", b"LOAD", b"REPLACE", argv[2]]]
    if action != b"RESTORE" or len(argv) < 3:
        return [argv]
    policy = argv[3].upper() if len(argv) > 3 else b"APPEND"
    if policy == b"APPEND":  # it succeeded at the source: no library stood in the way
        policy = b"REPLACE"
    try:
        loadable = context.restore(b"", argv[2])
    except CanalError as error:
        return Impossible(str(error))
    if loadable is None:
        return Impossible(f"{context.target} cannot load this payload of functions")
    if isinstance(loadable, bytes):
        return [[b"FUNCTION", b"RESTORE", loadable, policy]]
    return [*([[b"FUNCTION", b"FLUSH"]] if policy == b"FLUSH" else []), *loadable]


class Payloads:
    """The usual `Restore`: as it is where the target loads it, re-stamped where it knows the encoding, else commands.

    Raises RdbError for a payload that is none, NotLoadable for what the target cannot hold.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._plans: dict[int, Loadable] = {}

    def __call__(self, key: bytes, payload: bytes) -> Payload:
        version = payload_version(payload, check=False)
        flavor = flavor_of(version)
        if not key and _is_functions(payload):
            return payload if self.target.loads(flavor, version) else function_loads(payload)
        loadable = self._plans.get(version)
        if loadable is None:
            loadable = self._plans[version] = Loadable(self.target, flavor, version)
        taken = split_payload(payload, check=False)
        plan = loadable.plan(taken.type, len(taken.value), meta=bool(taken.meta))
        if plan.action == "restore":
            return payload
        if plan.action == "restamp":
            return dump_payload(taken.type, taken.value, plan.version, taken.meta)
        if plan.action == "commands":
            return value_commands(key, taken, flavor, self.target)
        raise NotLoadable(f"RESTORE of {key[:100]!r}: {plan.reason}")


def value_commands(key: bytes, payload: Taken, flavor: str, target: Target) -> Commands:
    """The commands that make this value under ``key``, whatever stood there before; without a deadline."""
    record = Key(0, key, payload.type, payload.value, None, None, None, 0, 0, payload.meta)
    return list(key_commands(record, target, flavor=flavor))


def _is_functions(payload: bytes) -> bool:
    return len(payload) >= FOOTER_BYTES and (len(payload) == FOOTER_BYTES or payload[0] == _FUNCTION2)


def function_loads(payload: bytes) -> Commands:
    """The libraries of a FUNCTION DUMP payload as FUNCTION LOAD REPLACE. Raises NotLoadable: not of that form.

    Format: opcode 245 and the code as an RDB string for each library, then the footer of every DUMP payload.
    """
    body = payload[:-FOOTER_BYTES]
    loads: Commands = []
    at = 0
    while at < len(body):
        if body[at] != _FUNCTION2:
            raise NotLoadable(f"payload of functions: expected opcode 245 at byte {at}, got {body[at]}")
        try:
            code, at = read_string(body, at + 1)
        except (Short, Malformed) as bad:
            raise NotLoadable(f"payload of functions: no library after byte {at} ({bad})") from None
        loads.append([b"FUNCTION", b"LOAD", b"REPLACE", bytes(code)])
    return loads
