"""The hot path runs compiled where it is built so; in CI it must be."""

from __future__ import annotations

import os

import pytest

from canal import compaction, framing, grouping, keyscan, routing, stretch
from canal.rdb import plain


@pytest.mark.parametrize(
    "module",
    [framing, keyscan, stretch, plain, compaction, routing, grouping],
    ids=["framing", "keyscan", "stretch", "plain", "compaction", "routing", "grouping"],
)
def test_the_compiled_module_is_the_one_in_use(module: object) -> None:
    if os.environ.get("CI") != "true" or os.environ.get("REDIS_CANAL_PURE"):
        pytest.skip("plain Python is as right; what is held in CI is that mypyc built it")
    assert module.compiled(), f"{module} runs as plain Python"  # type: ignore[attr-defined]
