"""The manual's first steps, as they stand there: every line is run by a shell in an empty directory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ROOT, ReservedPort, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]
PORTS = ("6381", "6382", "9477", "9480")
BLOCK = re.compile(r"```(\w+)(?: (\S+))?\n(.*?)```", re.DOTALL)


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """Free ones for those that the manual names."""
    held = {name: ReservedPort() for name in PORTS}
    yield {name: str(port.number) for name, port in held.items()}
    for port in held.values():
        port.release()


def section() -> str:
    manual = (ROOT / "docs" / "operations.md").read_text()
    return manual[manual.index("## First steps") : manual.index("## Servers")]


def end_all_in(directory: Path) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                os.kill(int(entry.name), signal.SIGKILL)


def test_first_steps_lead_to_a_pair(tmp_path: Path, ports: dict[str, str]) -> None:
    text = section()
    script = "set -e\n"
    for kind, name, body in BLOCK.findall(text):
        for old, new in ports.items():
            body = body.replace(old, new)
        if kind == "yaml":
            (tmp_path / name).write_text(body)
        elif kind == "sh":
            script += body
    # ports that the files leave to their defaults
    with (tmp_path / "node.yaml").open("a") as file:
        file.write(f"http: {{listen: 127.0.0.1:{ports['9477']}}}\n")
    with (tmp_path / "console.yaml").open("a") as file:
        file.write(f"listen: 127.0.0.1:{ports['9480']}\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        with (tmp_path / "told").open("w") as file:  # no pipe: what stays in the background would hold it open
            code = subprocess.run(
                ["bash", "-c", script],
                cwd=tmp_path,
                env={**os.environ, "PATH": path},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=240,
            ).returncode
        told = (tmp_path / "told").read_text()
        assert code == 0, told
        assert told.splitlines()[-2:] == ["hello from sh", "hello from bj"], told
        for task in ("sh-bj", "bj-sh"):
            assert re.search(rf"^{task}\s.*streaming", told, re.MULTILINE), told

        def shown() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports['9480']}/", timeout=5) as answer:
                    return b"redis-canal" in answer.read()
            except OSError:
                return False

        wait_until(shown, 60, "the console is there")
        assert "Traceback" not in (tmp_path / "node.log").read_text() + (tmp_path / "console.log").read_text()
    finally:
        end_all_in(tmp_path)
