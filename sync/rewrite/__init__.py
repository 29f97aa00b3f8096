"""Per-command adjustments between what a source propagates and what a target understands. Pure, no I/O.

`Rewriter.command` takes one command as it stands in the stream and gives the commands to send instead: usually the same
object. Rules are in three files: deadlines.py (relative times become absolute when they were received), spellings.py
and streams.py (words for older targets), payloads.py (RESTORE and functions); table.py says which apply to a pair.

What it does not do: look inside scripts (``EVAL`` of sources before 5.0 runs as it is, relative times and all); undo
what sources before 6.0 lose by themselves (INCRBYFLOAT arrives there as a bare SET and takes the TTL from every copy).
"""

from __future__ import annotations

from typing import Final

from canal.commands import COMMANDS, CommandInfo, Flag, ServerKind, lookup
from canal.framing import ANY, SET_AT
from sync.rewrite.payloads import Payloads
from sync.rewrite.rules import REASONS, Command, Commands, Context, Payload, Restore, Result
from sync.rewrite.table import only_limit, rules_for
from sync.rules import Dropped, Impossible

__all__ = [
    "REASONS",
    "Command",
    "Commands",
    "Dropped",
    "Impossible",
    "Payload",
    "Payloads",
    "Restore",
    "Result",
    "Rewriter",
    "plain_for",
]

SHORT_XADD: Final = -10  # fewer than ten: a LIMIT, with what has to stand beside it, makes ten


class Rewriter:
    """The rules of one pair of servers.

    ``source`` None: not known, anything may come. ``restore`` converts payloads that the target does not load; without
    it they pass where the target is of the source's flavor and not older, and are impossible elsewhere.
    ``unconditional``: take conditions away (two-way tasks: what stands in the stream succeeded at its origin).
    """

    def __init__(
        self,
        source: ServerKind | None,
        target: ServerKind,
        *,
        restore: Restore | None = None,
        unconditional: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.context = Context(source, target, unconditional, restore or self._as_is_or_not_at_all)
        self._rules = rules_for(source, target, unconditional)

    def command(self, argv: Command, received_ms: int, db: int = 0) -> Result:
        """What to send for ``argv``, received at ``received_ms`` (unix ms) while ``db`` was selected.

        ``[argv]`` with the same object: send its bytes as they stand. `Dropped` names a reason of REASONS, `Impossible`
        says in words what the target lacks. Commands unknown to the table (modules) pass.
        """
        name = argv[0].upper()
        rule = self._rules.get(name)
        if rule is not None and len(argv) > 1:
            return rule(argv, received_ms, self.context)
        info = lookup(name)
        if info is None or info.exists_on(self.target.flavor, self.target.version):
            return [argv]
        return self.context.lacks(name.decode("ascii", "replace"))

    def plain(self) -> dict[bytes, int]:
        """Names, in upper and lower case, that pass unchanged, with what `canal.framing.scan` demands of them besides:
        ANY, exactly so many arguments (the name counts), fewer than so many (negative: XADD), or SET_AT.
        """
        found = {
            spelling: ANY
            for info in COMMANDS
            if info.name not in self._rules and self._passes(info)
            for spelling in (info.name, info.name.lower())
        }
        found[b"SET"] = found[b"set"] = SET_AT if self.target.at_least((6, 2)) else 3
        if only_limit(self.source, self.target):
            found[b"XADD"] = found[b"xadd"] = SHORT_XADD
        for name in (b"EXPIREAT", b"PEXPIREAT"):
            if name not in found:
                found[name] = found[name.lower()] = 3
        return found

    def _passes(self, info: CommandInfo) -> bool:
        looked_at = Flag.ALLKEYS | Flag.NEVER | Flag.NOSCRIPT
        if info.flags & looked_at or info.name in (b"PING", b"SELECT"):
            return False
        return info.exists_on(self.target.flavor, self.target.version)

    def _as_is_or_not_at_all(self, key: bytes, payload: bytes) -> Payload:
        same = self.source is not None and self.target.same_or_newer_than(self.source)
        return payload if same else None


def plain_for(source: ServerKind | None, target: ServerKind, *, identity: bool = True) -> dict[bytes, int]:
    """`Rewriter.plain` for a pair; empty with a transform (``identity`` False): then every command is looked at."""
    return Rewriter(source, target).plain() if identity else {}
