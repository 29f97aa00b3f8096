"""The most memory that a command of ours had, told by its own process.

Its parent cannot ask for it: the kernel keeps a process's ``ru_maxrss`` through exec, so that a child of a test that
holds 200 MB has had no less by that figure, whatever it does. ``VmHWM`` begins anew with the program, but is gone with
its memory before the parent hears of the end. So the command is run by this module, which reads it last.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.process import ROOT


def measured(*arguments: str) -> tuple[str, float]:
    """What ``redis-canal`` with these arguments printed on stdout, and its peak in MB. AssertionError if it failed."""
    with tempfile.NamedTemporaryFile("r") as file:
        argv = [sys.executable, "-m", "tests.support.peak", file.name, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode in (0, 1), done.stderr  # 1: an answer as well, "they differ"
        text = file.read()
    assert text, done.stderr
    return done.stdout, int(text) / 1024


def _run(file: Path, arguments: list[str]) -> None:
    """As ``python -m console.cli.main``, with the peak in kB written to the file at the end."""
    sys.argv[1:] = arguments
    try:
        runpy.run_module("console.cli.main", run_name="__main__", alter_sys=True)
    finally:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        file.write_text(found[1])


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2:])
