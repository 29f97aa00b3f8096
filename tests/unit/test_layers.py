"""Invariants of the source tree: who imports whom, what does no I/O, and what never stands in a tracked file."""

from __future__ import annotations

import ast
import functools
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROOMS = ("canal", "sync", "node", "console")  # from the bottom up

# Protocol code: bytes or values in, values out (design: "so that every boundary can be tested by itself").
WITHOUT_IO = (
    *("canal/position.py", "canal/resp.py", "canal/handshake.py", "canal/commands", "canal/rdb"),
    *("canal/journal/tail.py", "canal/journal/state.py"),
    *("sync/tag.py", "sync/unit.py", "sync/batch.py", "sync/render.py", "sync/transform.py"),
    *("node/coordination/plan.py", "node/coordination/state.py"),
)
IO_MODULES = {"socket", "asyncio", "ssl", "subprocess", "threading", "redis", "kazoo", "sqlite3", "select", "selectors"}

# The client that retries by itself must not come near the data; only these talk to a server by redis-py.
KAZOO_ONLY_IN = "node/coordination/zookeeper.py"


def _files(where: str) -> list[Path]:
    path = ROOT / where
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []


@functools.cache
def _imports(file: Path) -> tuple[str, ...]:
    """Full names of the modules that a file imports, inside functions too."""
    return tuple(_read_imports(file))


def _read_imports(file: Path) -> Iterator[str]:
    package = list(file.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def _first(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_only_downwards(room: str) -> None:
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in _files(room)
        for name in _imports(file)
        if _first(name) in above
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_imports_tests_or_benchmarks(room: str) -> None:
    files = _files(room)
    assert files
    assert not [file for file in files if {_first(name) for name in _imports(file)} & {"tests", "bench"}]


def test_protocol_code_does_no_io() -> None:
    files = [file for where in WITHOUT_IO for file in _files(where)]
    assert len(files) >= 10
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in _imports(file)
        if _first(name) in IO_MODULES
    ]
    assert not wrong


def test_one_file_imports_kazoo() -> None:
    users = {
        str(file.relative_to(ROOT)) for room in ROOMS for file in _files(room) if "kazoo" in map(_first, _imports(file))
    }
    assert users <= {KAZOO_ONLY_IN}


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above are worth nothing if this is not so."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "canal" / "rdb").mkdir(parents=True)
    file = tmp_path / "canal" / "rdb" / "x.py"
    file.write_text(
        "import node.jobs\ndef f():\n    from sync import tag\n    from ..journal import tail\n    from . import y\n"
    )
    assert list(_imports(file)) == ["node.jobs", "sync", "canal.journal", "canal.rdb"]
    with pytest.raises(AssertionError, match=r"x\.py imports node\.jobs"):
        test_imports_point_only_downwards("canal")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


# Put together, so that this file does not name them itself.
FORBIDDEN = re.compile(
    rb"(?<![\w.~-])/(?:" + b"|".join((b"work", b"root", b"home/[a-z]+", b"opt/pypi", b"opt/wheels")) + rb")/"
)


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = {file: FORBIDDEN.search(file.read_bytes()) for file in _tracked() if file.is_file()}
    assert not [f"{file.relative_to(ROOT)}: {match[0].decode()}" for file, match in found.items() if match]


def test_scripts_can_be_executed_and_are_described() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for script in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        assert script.stat().st_mode & stat.S_IXUSR, script
        assert script.name == "run" or f"scripts/{script.name}" in contributing, (
            f"CONTRIBUTING.md does not name {script}"
        )


def test_every_test_file_has_a_name_of_its_own() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
