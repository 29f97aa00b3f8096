"""The framing as plain Python and, where it was built, as compiled code: both have to pass the same tests."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from canal import framing
from tests.support.process import ROOT


def plain_framing() -> ModuleType:
    """`canal/framing.py` as plain Python, whatever the package uses."""
    spec = importlib.util.spec_from_file_location("plain_framing", ROOT / "canal" / "framing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FRAMINGS: tuple[ModuleType, ...] = (plain_framing(), *([framing] if framing.compiled() else []))
NAMES = [module.__name__ for module in FRAMINGS]
