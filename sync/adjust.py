"""What a link does to each command on its way: the rules of its `UnitReader`, for one pair of servers. No I/O."""

from __future__ import annotations

from canal.commands import COMMANDS, Flag, ServerKind
from sync.config import LinkConfig
from sync.restore import target_of
from sync.rewrite import Payloads, Rewriter
from sync.transform import Transform, compose
from sync.unit import Rules

_NOSCRIPT = frozenset(info.name for info in COMMANDS if info.flags & Flag.NOSCRIPT)


def make_rules(config: LinkConfig, source: ServerKind | None, target: ServerKind, transform: Transform) -> Rules:
    """The rules of a link between servers of these kinds; ``source`` None: not known, anything may come."""
    # What stands in the stream succeeded where it was made; two ways, a condition that fails here would part the sides.
    rewriter = Rewriter(source, target, restore=Payloads(target_of(target)), unconditional=config.two_way)

    return Rules(
        source_dc=config.source_dc,
        drop=frozenset({config.target_dc, *config.direct}),
        plain=rewriter.plain() if transform.identity else {},
        adjust=compose(transform, rewriter),
        noscript=_NOSCRIPT,
        flush="stop" if config.two_way else "replay",
        max_commands=config.batch_commands,
        max_bytes=config.batch_bytes,
    )
