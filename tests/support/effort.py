"""How much a test of many cases does: all of it in the whole of `scripts/test`, a fifth in `scripts/test unit`, which
is there to answer in seconds (hypothesis's profile `quick`). What is asserted is the same, and so is the order.
"""

from __future__ import annotations

from hypothesis import settings

FULL_EXAMPLES = 100
QUICK_EXAMPLES = 20


def share(full: int) -> int:
    """That many rounds, or with the profile `quick` a fifth of them."""
    return max(1, full * settings().max_examples // FULL_EXAMPLES)


def examples(full: int) -> settings:
    """`@examples(1500)` for tests of hypothesis that want another number than 100, scaled in the same way."""
    return settings(max_examples=share(full))


def stride(full: int = 1) -> int:
    """Step of a range that is walked: `range(0, len(data), stride())` meets every byte, or with `quick` every fifth."""
    return full * FULL_EXAMPLES // settings().max_examples
