"""sd_notify: what is sent, and that nothing ever fails because of it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.systemd import Notifier

UNIT = Path(__file__).resolve().parents[2] / "configs" / "systemd" / "redis-canal.service"


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        path = f"{directory}/notify"
        link.bind(path)
        link.settimeout(5)
        yield link, path


def test_what_systemd_hears(manager: tuple[socket.socket, str]) -> None:
    link, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_s == 30.0
    notifier.ready("node a is registered")
    assert link.recv(999) == b"READY=1\nSTATUS=node a is registered"
    notifier.alive()
    assert link.recv(999) == b"WATCHDOG=1"
    notifier.reloading()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", link.recv(999))
    notifier.status("3 shards")
    notifier.status("3 shards")
    notifier.stopping()
    assert link.recv(999) == b"STATUS=3 shards"
    assert link.recv(999) == b"STOPPING=1\nSTATUS=stopping"


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "@no-such-abstract-socket"}, {"WATCHDOG_USEC": "x"}],
)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("x")
    notifier.alive()
    assert notifier.watchdog_s == 0.0


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0.0


def test_the_unit_file_is_sound_and_hardened(tmp_path: Path) -> None:
    text = UNIT.read_text()
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    service = parser["Service"]
    for name, value in {
        "Type": "notify",
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "StateDirectory": "redis-canal",
        "KillMode": "mixed",
    }.items():
        assert service[name] == value
    assert "LoadCredential=" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    local = tmp_path / "redis-canal.service"
    local.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    verified = subprocess.run([analyze, "verify", str(local)], capture_output=True, text=True)
    mentions = [line for line in verified.stderr.splitlines() if "redis-canal" in line]
    assert not mentions, mentions
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(local)],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr
