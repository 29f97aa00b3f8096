"""`canal/compaction.py` as plain Python and, where it was built, as compiled code: both have to pass the same tests."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from canal import compaction
from tests.support.process import ROOT


def plain_compaction() -> ModuleType:
    """As plain Python, whatever the package uses."""
    spec = importlib.util.spec_from_file_location("plain_compaction", ROOT / "canal" / "compaction.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_COMPILED = compaction.compiled()
COMPACTIONS: tuple[ModuleType, ...] = (plain_compaction(), *([compaction] if _COMPILED else []))
NAMES = [module.__name__ for module in COMPACTIONS]
