"""`redis-canal rdb FILE --to-commands | redis-cli --pipe` makes a server equal to the one that wrote the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import assert_equal
from tests.support.dataset import fill
from tests.support.process import ROOT
from tests.support.rdb_apply import snapshot

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(("version", "to"), [("7.0", "7.0"), ("8.2", "valkey-9.1"), ("valkey-9.1", "8.2")])
def test_a_file_as_commands(redis_server: StartServer, tmp_path: Path, version: str, to: str) -> None:
    source, target = redis_server(version), redis_server(to)
    fill(source)
    path = tmp_path / "dump.rdb"
    path.write_bytes(snapshot(source))

    name = to if to.startswith("valkey") else f"redis-{to}"
    command = [sys.executable, "-m", "console.cli.main", "rdb", str(path), "--to-commands", "--for", name]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200, check=True)
    assert written.stderr == b""
    piped = subprocess.run(
        ["redis-cli", "-s", str(target.unix_socket), "--pipe"], input=written.stdout, capture_output=True, timeout=200
    )

    assert piped.returncode == 0, piped.stdout
    assert b"errors: 0" in piped.stdout
    assert_equal(source, target)
