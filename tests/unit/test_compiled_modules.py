"""The hot paths run compiled where it counts: a build that quietly fell back to plain Python would only be slow."""

from __future__ import annotations

import ast
import importlib
import os

import pytest

from tests.support.process import ROOT


def compiled_modules() -> list[str]:
    """COMPILED of setup.py, as module names."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            paths: list[str] = ast.literal_eval(node.value)
            return [path.removesuffix(".py").replace("/", ".") for path in paths]
    raise AssertionError("setup.py names no COMPILED")


@pytest.mark.parametrize("name", compiled_modules())
def test_it_tells_whether_it_is_compiled(name: str) -> None:
    module = importlib.import_module(name)
    assert module.compiled() is not str(module.__file__).endswith(".py")
    wanted = os.environ.get("CI") == "true" and not os.environ.get("REDIS_CANAL_PURE")
    assert module.compiled() or not wanted, f"{name} runs as plain Python: was it built? (scripts/venv dev)"


@pytest.mark.parametrize("name", compiled_modules())
def test_scripts_venv_builds_it_anew_when_it_changes(name: str) -> None:
    assert name.replace(".", "/") + ".py" in (ROOT / "scripts" / "venv").read_text()
