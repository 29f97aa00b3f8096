"""Which commands of the stream a `UnitReader` looks at one by one while a rule needs it, and which pass as ever.

Looking at a command in Python costs many times what stepping over it costs, so rules that concern some keys name those
keys: commands of one key pass unless it is theirs, commands of several keys are looked at while there are such keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.commands import COMMANDS, ONE_KEY, Flag
from canal.framing import KEY_AT, SET_AT
from sync.rules import Rules

TIMED: Final = frozenset({b"PEXPIREAT", b"EXPIREAT"})
"""Deadlines of keys in commands that pass as they are, besides SET … PXAT."""
FIELD_TTL: Final = frozenset({b"HPEXPIREAT", b"HPERSIST", b"HSETEX", b"HGETEX", b"HEXPIREAT", b"HEXPIRE", b"HPEXPIRE"})
"""Commands about deadlines of hash fields."""
_KEYLESS: Final = frozenset(
    info.name
    for info in COMMANDS
    if not info.keys and info.finder is None and not info.flags & (Flag.OPAQUE | Flag.ALLKEYS)
)


class Sieve:
    """The only one who changes ``plain`` and ``look_at`` of the rules. ``keys``: names that somebody has to see."""

    def __init__(self, rules: Rules) -> None:
        self.keys: set[bytes] = set()
        self.late = False
        self._rules = rules
        self._all = rules.plain
        self._size = -1
        self._timed: dict[bytes, int] = {}
        self._by_key: dict[bytes, int] = {}
        self._owners: list[Callable[[bytes], bool]] = []

    def owned(self, wants: Callable[[bytes], bool]) -> None:
        """Somebody who adds keys; ``wants(name)`` tells whether a key is still to be seen."""
        self._owners.append(wants)

    def add(self, names: list[bytes]) -> None:
        """Look at commands of these keys from the next one on."""
        self.keys.update(names)
        self.settle()

    def release(self, name: bytes) -> None:
        """One owner needs this key no more."""
        if name in self.keys and not any(wants(name) for wants in self._owners):
            self.keys.discard(name)
            if not self.keys:
                self.settle()

    def settle(self) -> None:
        """Put the right tables in place."""
        rules = self._rules
        if not self.late and not self.keys:
            rules.plain, rules.look_at = self._all, None
            return
        if len(self._all) != self._size:  # a two-way link's table shrinks when the first deadline is met
            self._make()
        rules.plain, rules.look_at = (self._by_key, self.keys) if self.keys else (self._timed, None)

    def _make(self) -> None:
        self._size = len(self._all)
        self._timed = {name: code for name, code in self._all.items() if name.upper() not in TIMED | FIELD_TTL}
        for name in (b"PEXPIREAT", b"pexpireat"):
            if name in self._all:
                self._timed[name] = KEY_AT
        self._by_key = {
            name: code
            for name, code in self._timed.items()
            if (name in ONE_KEY and name.upper() != b"MOVE") or name.upper() in _KEYLESS
        }
        for name in (b"DEL", b"UNLINK", b"del", b"unlink"):
            if name in self._all:
                self._by_key[name] = 2


__all__ = ["FIELD_TTL", "SET_AT", "TIMED", "Sieve"]
