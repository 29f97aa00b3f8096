"""What a link does to each command on its way: the rules of its `UnitReader`, for one pair of servers. No I/O."""

from __future__ import annotations

from canal.commands import PLAIN, ServerKind
from sync.config import LinkConfig
from sync.unit import Adjusted, Rules


def make_rules(config: LinkConfig, source: ServerKind, target: ServerKind) -> Rules:
    """The rules of a link between servers of these kinds."""
    plain = dict.fromkeys(PLAIN, 0)
    plain[b"SET"] = plain[b"set"] = 3

    def adjust(db: int, argv: list[bytes], received_ms: int) -> Adjusted:
        return [(db, argv)]

    drop = (
        frozenset({config.target_dc, *config.direct})
        if config.two_way or config.direct
        else frozenset({config.target_dc})
    )
    return Rules(
        config.source_dc, drop, plain, adjust, noscript=frozenset({b"EVAL", b"EVALSHA", b"FUNCTION", b"SCRIPT"})
    )
