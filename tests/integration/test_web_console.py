"""`redis-canal console` as a process: how it starts, what it refuses, its event stream, and that it ends at once."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.console import ADMIN, SPEC, coordinator, digest
from tests.support.nodes import Site
from tests.support.process import ROOT, ReservedPort, end, spawn, wait_until

COMMAND = [sys.executable, "-m", "console.cli.main", "console"]
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}


@pytest.fixture
def port() -> Iterator[int]:
    reserved = ReservedPort()
    yield reserved.number
    reserved.release()


def write_config(directory: Path, listen: str, *, tokens: bool = True) -> Path:
    file = directory / "console.yaml"
    database = directory / "coordination.db"
    lines = [f'listen: "{listen}"', f"datacenters: {{sh: {{coordination: {{embedded: {{path: {database}}}}}}}}}"]
    if tokens:
        lines.append(f"tokens: [{{name: ann, role: admin, sha256: '{digest(ADMIN)}'}}]")
    file.write_text("\n".join([*lines, f"audit_log: {directory / 'audit.log'}\n"]))
    return file


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), AS_ADMIN)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def start(config: Path, port: int) -> subprocess.Popen[bytes]:
    process = spawn([*COMMAND, "-c", config], stderr=subprocess.PIPE, cwd=ROOT)

    def answers() -> bool:
        assert process.poll() is None
        try:
            return ask(port, "/api/v1/health")[0] == 200
        except OSError:
            return False

    wait_until(answers, 30, "the console answers", every=0.05)
    return process


def refused(*arguments: str | Path) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_what_it_refuses_to_start_with(tmp_path: Path, port: int) -> None:
    config = write_config(tmp_path, "0.0.0.0:0", tokens=False)
    assert "is not loopback, so at least one token is needed" in refused("-c", config)
    config = write_config(tmp_path, f"127.0.0.1:{port}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {where}: Address already in use" in refused("-c", config, "--listen", where)
    assert "Give -c FILE (console.yaml)" in refused()
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").mkdir()
    assert "audit_log:" in refused("-c", config)


def test_a_new_token_fits_its_digest() -> None:
    done = subprocess.run([*COMMAND, "token"], capture_output=True, text=True, cwd=ROOT, timeout=200, check=True)
    token = done.stdout.strip()
    assert len(token) >= 32 and hashlib.sha256(token.encode()).hexdigest() in done.stderr


def test_events_are_streamed_and_sigterm_ends_it_under_an_open_stream(tmp_path: Path, port: int) -> None:
    with coordinator(tmp_path) as there:
        process = start(write_config(tmp_path, f"127.0.0.1:{port}"), port)
        try:
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/events", headers=AS_ADMIN)
            with urllib.request.urlopen(asked, timeout=20) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                lines = iter(stream.readline, b"")
                assert next(line for line in lines if line.startswith(b"event:")) == b"event: all\n"
                there.tasks.create("sh-bj", SPEC)
                found = next(line for line in lines if b'"task":"sh-bj"' in line)
                assert json.loads(found.removeprefix(b"data: "))["tasks"][0]["desired"] == "stopped"
                process.terminate()
                assert process.wait(10) in (0, -15)
        finally:
            end(process)


@pytest.mark.servers
def test_the_api_sees_a_real_task_and_tests_real_connections(
    tmp_path: Path, port: int, redis_server: StartServer
) -> None:
    source, target, locked = redis_server(), redis_server(), redis_server(requirepass="x")
    site = Site(tmp_path)
    process = start(write_config(tmp_path, f"127.0.0.1:{port}"), port)
    try:
        site.node("a").start()
        spec = {
            **SPEC,
            "source": {"datacenter": "sh", "url": source.url},
            "target": {"datacenter": "bj", "url": target.url},
        }
        wait_until(
            lambda: ask(port, "/api/v1/tasks", "POST", {"spec": spec, "start": True})[0] == 201, 15, "it is created"
        )
        status = wait_until(lambda: _streaming(port), 30, "it is streaming", every=0.1)
        assert status["node"] == "a" and status["live"] and status["source_connected"]
        for number in range(500):
            source.control.set("k", number)
        wait_until(
            lambda: (_streaming(port) or {}).get("commands_applied", 0) >= 500, 15, "figures are live", every=0.1
        )
        _, history = ask(port, "/api/v1/tasks/sh-bj/history")
        assert len(history["time"]) == len(history["lag_seconds"]) >= 1  # type: ignore[arg-type]
        _, found = ask(port, "/api/v1/nodes")
        [node] = found["nodes"]  # type: ignore[misc]
        assert node["reachable"] and node["shards"] == ["sh-bj/0"] and node["memory_bytes"] > 10 << 20
        assert ask(port, "/api/v1/tasks/sh-bj/dead-letters")[1] == {"dead_letters": [], "trouble": []}
        assert ask(port, "/api/v1/tasks/sh-bj/logs")[1]["trouble"] == []

        tried = [ask(port, "/api/v1/connections/test", "POST", {"url": url}) for url in (source.url, locked.url)]
        assert tried[0][1]["ok"] is True and tried[0][1]["keys"] == 1
        assert tried[1][1]["ok"] is False and "Authentication required" in str(tried[1][1]["message"])
        closed = ask(port, "/api/v1/connections/test", "POST", {"url": "redis://127.0.0.1:1"})
        assert closed[1]["ok"] is False and "127.0.0.1:1" in str(closed[1]["message"])
        named = ask(port, "/api/v1/connections/test", "POST", {"url": source.url, "credentials": "nobody"})
        assert named[1]["ok"] is None
        assert ask(port, "/api/v1/connections/test", "POST", {"url": "ftp://x"})[0] == 422
    finally:
        end(process)
        site.close()


def _streaming(port: int) -> dict[str, object] | None:
    status, found = ask(port, "/api/v1/tasks/sh-bj/status")
    if status != 200 or found["state"] != "streaming":
        return None
    [shard] = found["shards"]  # type: ignore[misc]
    return shard if shard["live"] and shard["source_connected"] else None
