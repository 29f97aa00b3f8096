"""The support bundle of a running node: everything that helps is in it, and none of the planted secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from console.cli.support import scrubber
from tests.conftest import StartServer
from tests.support.nodes import Site
from tests.support.process import ROOT, wait_until

pytestmark = [pytest.mark.servers]

SECRETS = ("f1le-Secr3t", "env-Secr3t-xyz", "url-Secr3t", "l0g-Secr3t", "key-Secr3t", "value-Secr3t")


def bundle(*arguments: str, output: Path, **environ: str) -> dict[str, bytes]:
    argv = [sys.executable, "-m", "console.cli.main", "support-bundle", *arguments, "-o", str(output)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(output)
    assert output.stat().st_mode & 0o077 == 0
    with tarfile.open(output) as archive:
        members = {name.partition("/")[2]: archive.extractfile(name) for name in archive.getnames()}
        return {name: file.read() for name, file in members.items() if file is not None}


def test_a_node_with_secrets_everywhere(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(requirepass=SECRETS[0]), redis_server(requirepass=SECRETS[1])
    secret_file = tmp_path / "sh.password"
    secret_file.write_text(SECRETS[0] + "\n")
    log = tmp_path / "service.log"
    log.write_text(f"x redis://canal:{SECRETS[2]}@10.0.0.1:6379 y\npassword={SECRETS[3]}\nAUTH with {SECRETS[0]}\n")
    site = Site(tmp_path)
    try:
        node = site.node("a")
        node.environ = {**os.environ, "BJ_PASSWORD": SECRETS[1]}
        node.configure(credentials=f"{{sh: {{password_file: {secret_file}}}, bj: {{password_env: BJ_PASSWORD}}}}")
        node.start()
        file = site.write_task("sh-bj", source, target, "on_error: continue\n")
        file.write_text(
            file.read_text().replace("'}", "', credentials: sh}", 1).replace("'}", "', credentials: bj}", 1)
        )
        site.cli("task", "create", "-f", str(file), "--start", "--wait", "--timeout", "60")
        target.client().set(SECRETS[4], "x")
        source.client().lpush(SECRETS[4], SECRETS[5])
        wait_until(lambda: 'dead_letters_waiting": 1' in node.get("/status"), 20, "a dead letter")
        listed = site.cli("task", "dead-letters", "sh-bj", "-o", "json")
        assert [letter["command"] for letter in json.loads(listed.stdout)] == ["LPUSH"]
        assert "--state-dir" in listed.stderr
        output = tmp_path / "bundle.tar.gz"
        found = bundle("-c", str(node.config), "--log", str(log), output=output, BJ_PASSWORD=SECRETS[1])
    finally:
        site.close()
    assert set(found) >= {"machine.json", "node.json", "node.yaml", "coordinator.json", "http/status", "http/metrics"}
    assert "log/service.log" in found and not any(name.endswith(".failed") for name in found), sorted(found)
    assert json.loads(found["coordinator.json"])["shards"]["sh-bj"][0]["state"]["state"] == "streaming"
    (link,) = [json.loads(data) for name, data in found.items() if name.startswith("links/")]
    assert link["dead_letters"][0]["command"] == "LPUSH"
    assert b"rediscanal_applied_offset_bytes" in found["http/metrics"]
    for name, data in found.items():
        text = name.encode() + data
        for secret in SECRETS:
            assert secret.encode() not in text, f"{secret} stands in {name}"


def test_a_bundle_of_broken_things_says_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "link.json").write_text("{broken")
    found = bundle("--state-dir", str(tmp_path), "--http", "http://127.0.0.1:9", output=tmp_path / "b.tar.gz")
    assert {"http/status.failed", "machine.json"} <= set(found)
    assert any(name.startswith("links/") and name.endswith(".failed") for name in found)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (b"redis://canal:p%40ss@host:1", b"redis://(hidden)@host:1"),
        (b'{"password": "a b"}', b'{"password": (hidden)}'),
        (b"requirepass: x1, next", b"requirepass: (hidden), next"),
        (b"Authorization: Bearer abc.def", b"Authorization: Bearer (hidden)"),
        (b"password_file: /etc/x", b"password_file: /etc/x"),
        (b"refused a command: SET 'k' 'v' in database 0, x", b"refused a command: SET (hidden) in database 0, x"),
        (b"known value here", b"known (hidden) here"),
    ],
)
def test_scrubbing(text: bytes, hidden: bytes) -> None:
    assert scrubber([b"value"])(text) == hidden
