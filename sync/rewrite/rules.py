"""What the rules of rewriting share: their form, what they are told, and words for what they cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from canal.commands import ServerKind, integer
from sync.rules import Dropped, Impossible

Command = list[bytes]
Commands = list[Command]
Result = Commands | Dropped | Impossible

# Why a command is not replayed although nothing is wrong: the closed set of the counters.
SCRIPT_FLUSH: Final = "script-flush"  # the script cache belongs to every user of the target
NO_FUNCTIONS: Final = "no-functions"  # target older than 7.0; what functions write arrives as commands
NO_FIELD_TTL: Final = "no-field-ttl"  # target without field TTLs; the source's HDEL ends the field
NO_IDMP: Final = "no-idmp"  # target without idempotent message ids; it gets every message once anyhow
NO_SHARDED_PUBSUB: Final = "no-sharded-pubsub"  # target older than 7.0
DUPLICATE: Final = "duplicate-message"  # XADD that the source itself recognised as a repetition
NO_CHANGE: Final = "no-change"  # TOUCH, GETEX without options and the like
REASONS: Final = frozenset({SCRIPT_FLUSH, NO_FUNCTIONS, NO_FIELD_TTL, NO_IDMP, NO_SHARDED_PUBSUB, DUPLICATE, NO_CHANGE})

MAX_MS: Final = (1 << 63) - 1

Payload = bytes | Commands | None
Restore = Callable[[bytes, bytes], Payload]
"""(key, DUMP payload) → the payload that the target loads (the same object: as it is), or commands that make the value
whatever the key holds, or None: the target cannot hold it (a CanalError can say why). For FUNCTION RESTORE the key is
empty and the commands are FUNCTION LOADs."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule is told besides the command. ``unconditional``: take conditions (NX, XX, GT …) away."""

    source: ServerKind | None
    target: ServerKind
    unconditional: bool
    restore: Restore

    @property
    def field_ttl(self) -> bool:
        """Has the target deadlines of hash fields?"""
        return self.target.at_least((7, 4), (9, 0))

    def lacks(self, what: str) -> Impossible:
        """The answer for what the target cannot do."""
        return Impossible(f"{self.target} has no {what}")


Rule = Callable[[Command, int, Context], Result]
"""(argv, received unix ms, context) → what to send instead. The argv object itself means: its bytes as they stand."""


def number(value: int) -> bytes:
    """A decimal argument."""
    return b"%d" % value


def deadline(amount: bytes, unit_ms: int, now_ms: int) -> int | None:
    """``now_ms`` plus ``amount`` units, in unix ms, within 64 bits; None when ``amount`` is no integer."""
    value = integer(amount)
    if value is None:
        return None
    return max(min(now_ms + value * unit_ms, MAX_MS), -MAX_MS)


_UNITS: Final[dict[bytes, tuple[int, bool]]] = {
    b"EX": (1000, True),
    b"PX": (1, True),
    b"EXAT": (1000, False),
    b"PXAT": (1, False),
}


@dataclass(slots=True)
class Expiry:
    """The TTL options of one command, read: at most one of them is set by any server that accepts the command."""

    at_ms: int | None = None
    keep: bool = False
    persist: bool = False
    relative: bool = False
    spelled: bytes = b""  # EX, PX, EXAT or PXAT

    def take(self, options: Command, index: int, now_ms: int) -> int:
        """Read the option at ``index`` if it is one of TTL; give the number of arguments it used, 0 when it is not."""
        word = options[index].upper()
        if word == b"KEEPTTL":
            self.keep = True
            return 1
        if word == b"PERSIST":
            self.persist = True
            return 1
        unit = _UNITS.get(word)
        if unit is None or index + 1 >= len(options):
            return 0
        at = deadline(options[index + 1], unit[0], now_ms if unit[1] else 0)
        if at is None:
            return 0
        self.at_ms, self.relative, self.spelled = at, unit[1], word
        return 2


def as_it_is(argv: Command, now_ms: int, context: Context) -> Result:
    """The rule of commands that need none."""
    return [argv]
