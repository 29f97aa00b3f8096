"""``redis-canal run`` as a user starts it: a process, its exit codes, its HTTP, its signals, its terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.process import ROOT, end, spawn, wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.servers
RUN = (sys.executable, "-m", "console.cli.main", "run")


class Running:
    """One ``run`` process; its stderr goes to a file."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.log = directory / "log"
        with self.log.open("ab") as log:
            self.process = spawn([*RUN, *arguments], stdout=log, stderr=log, cwd=ROOT, env=environment)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def http(self) -> str:
        """The address that it says it listens on."""
        found = wait_until(lambda: [line for line in self.text().splitlines() if "listening on http" in line], 30)
        return str(found[0].partition("listening on ")[2])

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status")[1])
        return found

    def ready(self) -> None:
        wait_until(lambda: self.get("/readiness")[0] == 200 or self.ended(), 30, "the link is ready")
        wait_until(lambda: self.status()["state"] == "streaming", 30)

    def ended(self) -> bool:
        code = self.process.poll()
        assert code is None, f"run ended with {code}:\n{self.text()}"
        return False


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Starts ``run`` with a state directory and HTTP on a free port."""
    with contextlib.ExitStack() as stack:

        def start(source: Server, target: Server, *more: str, **environment: str) -> Running:
            state = ("--state-dir", str(tmp_path / "state"), "--http", "127.0.0.1:0")
            running = Running(tmp_path, "--source", source.url, "--target", target.url, *state, *more, **environment)
            stack.callback(end, running.process)
            return running

        yield start


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    return redis_server(), redis_server()


def fails(*arguments: str, timeout: float = 200) -> tuple[int, str]:
    """Exit code and the one line on stderr of a run that must fail. Log lines may stand before it."""
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("redis-canal: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.rstrip("\n").endswith(lines[0])
    return done.returncode, lines[0].removeprefix("redis-canal: error: ")


def test_a_link_from_start_to_stop(pair: tuple[Server, Server], run: Any) -> None:
    source, target = pair
    source.control.mset({f"k{number}": number for number in range(1000)})
    link = run(source, target)
    link.ready()
    source.control.set("later", "yes")
    wait_until(lambda: target.control.get("later") == b"yes")
    status = link.status()
    assert (status["task"], status["source_dc"], status["target_dc"]) == ("source-target", "source", "target")
    assert (status["full_resyncs"], status["errors"], status["last_error"]) == (1, 0, None)
    wait_until(lambda: link.status()["replid"] == source.replid)
    wait_until(lambda: link.status()["lag_bytes"] == 0)
    assert link.get("/liveness") == (200, "alive\n")
    wait_until(lambda: "-> streaming; " in link.text())
    source.control.incr("last")
    link.process.send_signal(signal.SIGTERM)
    assert link.process.wait(20) == 0
    assert target.control.get("last") == b"1"
    assert "Traceback" not in link.text()
    assert "-> stopped" in link.text()


def test_sigint_is_as_good_and_a_restart_continues(pair: tuple[Server, Server], run: Any) -> None:
    source, target = pair
    first = run(source, target)
    first.ready()
    source.control.set("a", 1)
    wait_until(lambda: target.control.get("a"))
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(20) == 0
    source.control.set("b", 1)
    first.log.unlink()
    second = run(source, target)
    second.ready()
    wait_until(lambda: target.control.get("b"))
    assert source.sync_full == 1


def test_a_second_signal_stops_at_once(pair: tuple[Server, Server], run: Any) -> None:
    source, target = pair
    link = run(source, target, "--stop-timeout", "600")
    link.ready()
    target.pause()
    source.control.set("a", 1)
    wait_until(lambda: link.status()["journaled_offset"] >= source.offset, what="there is something to apply")
    link.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "applying what is journaled" in link.text())
    assert link.process.poll() is None
    link.process.send_signal(signal.SIGTERM)
    assert link.process.wait(20) == 130
    assert "Traceback" not in link.text()
    target.resume()


def test_metrics_of_a_running_link(pair: tuple[Server, Server], run: Any) -> None:
    source, target = pair
    link = run(source, target)
    link.ready()
    source.control.set("a", 1)
    wait_until(lambda: target.control.get("a"))
    wait_until(lambda: link.status()["commands_applied"] >= 1)
    code, text = link.get("/metrics")
    assert code == 200
    labels = 'shard="0",source_dc="source"'
    assert f"rediscanal_state{{{labels}" in text
    assert 'state="streaming",target_dc="target",task="source-target"} 1.0' in text
    if shutil.which("promtool") is not None:
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_json_logs_are_json(pair: tuple[Server, Server], run: Any) -> None:
    source, target = pair
    link = run(source, target, "--json-logs", "-v")
    wait_until(lambda: any("streaming" in line for line in link.text().splitlines()), 30)
    link.process.terminate()
    assert link.process.wait(20) == 0
    for line in link.text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_the_live_display_on_a_terminal(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    source.control.mset({f"k{number}": number for number in range(1000)})
    outer, inner = pty.openpty()
    arguments = ("--source", source.url, "--target", target.url, "--state-dir", str(tmp_path))
    process = spawn([*RUN, *arguments], stdout=inner, stderr=inner, cwd=ROOT, env={"TERM": "xterm", "COLUMNS": "150"})
    os.close(inner)
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(outer, 65536):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: b"streaming" in seen and b"commands/s" in seen, 30)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        end(process)
        reader.join(60)
        os.close(outer)
    text = seen.decode(errors="replace")
    assert "source → target" in text
    assert "stopped" in text
    assert "Traceback" not in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_passwords_come_from_files_and_environment(redis_server: StartServer, run: Any, tmp_path: Path) -> None:
    source, target = redis_server(requirepass="s3cret"), redis_server(requirepass="t4rget")
    (tmp_path / "pw").write_text("s3cret\n")
    link = run(source, target, "--source-password-file", str(tmp_path / "pw"), REDIS_CANAL_TARGET_PASSWORD="t4rget")
    link.ready()
    source.control.set("a", 1)
    wait_until(lambda: target.control.get("a"))
    line = Path(f"/proc/{link.process.pid}/cmdline").read_bytes()
    for secret in ("s3cret", "t4rget"):
        assert secret.encode() not in line
        assert secret not in link.text()
        assert secret not in link.get("/status")[1]


class TestMistakes:
    """Each is one line that says what to do, and exit code 2 or 4."""

    def state(self, tmp_path: Path) -> tuple[str, ...]:
        return ("--state-dir", str(tmp_path / "state"))

    @pytest.mark.parametrize("side", ["source", "target"])
    def test_nobody_listens(self, redis_server: StartServer, tmp_path: Path, side: str) -> None:
        url = redis_server().url
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            urls = {"source": url, "target": url} | {side: f"redis://127.0.0.1:{reserved.getsockname()[1]}"}
            code, line = fails("--source", urls["source"], "--target", urls["target"], *self.state(tmp_path))
        assert (code, "connection refused" in line) == (4, True), line

    @pytest.mark.parametrize("side", ["source", "target"])
    def test_wrong_password(self, redis_server: StartServer, tmp_path: Path, side: str) -> None:
        locked, free = redis_server(requirepass="right"), redis_server()
        urls = {"source": free.url, "target": free.url} | {side: locked.url.replace("//", "//:wrong@")}
        code, line = fails("--source", urls["source"], "--target", urls["target"], *self.state(tmp_path))
        assert code == 4
        assert "password" in line
        assert "wrong@" not in line

    def test_a_source_that_is_not_redis(self, redis_server: StartServer, tmp_path: Path) -> None:
        def serve(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(100)
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, args=(listener,), daemon=True)
            thread.start()
            url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
            code, line = fails("--source", url, "--target", redis_server().url, *self.state(tmp_path))
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)
        assert code == 4
        assert "is it the right port?" in line

    def test_source_and_target_are_the_same(self, redis_server: StartServer, tmp_path: Path) -> None:
        server = redis_server()
        other = server.url.replace("127.0.0.1", "localhost")
        code, line = fails("--source", server.url, "--target", other, *self.state(tmp_path))
        assert code == 2
        assert "same server" in line

    def test_a_state_directory_that_cannot_be_written(self, pair: tuple[Server, Server], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a directory")
        state = ("--state-dir", str(tmp_path / "file" / "below"))
        code, line = fails("--source", pair[0].url, "--target", pair[1].url, *state)
        assert code == 2
        assert str(tmp_path / "file") in line

    def test_two_daemons_of_one_task(self, pair: tuple[Server, Server], run: Any, tmp_path: Path) -> None:
        source, target = pair
        link = run(source, target)
        link.ready()
        code, line = fails("--source", source.url, "--target", target.url, *self.state(tmp_path))
        assert code == 2
        assert str(tmp_path / "state") in line
        link.ended()
        source.control.set("a", 1)
        wait_until(lambda: target.control.get("a"))

    def test_a_target_that_holds_keys(self, pair: tuple[Server, Server], tmp_path: Path) -> None:
        source, target = pair
        target.control.mset({"a": 1, "b": 2})
        code, line = fails("--source", source.url, "--target", target.url, *self.state(tmp_path))
        assert code == 1
        assert "holds 2 keys" in line
        assert "--stale-keys keep" in line
        assert target.control.dbsize() == 2

    def test_an_http_address_in_use(self, pair: tuple[Server, Server], tmp_path: Path) -> None:
        source, target = pair
        http = ("--http", f"127.0.0.1:{source.port}")
        code, line = fails("--source", source.url, "--target", target.url, *http, *self.state(tmp_path))
        assert code == 2
        assert "cannot listen on 127.0.0.1:" in line

    def test_two_way_without_names(self, pair: tuple[Server, Server], tmp_path: Path) -> None:
        code, line = fails("--source", pair[0].url, "--target", pair[1].url, "--two-way", *self.state(tmp_path))
        assert code == 2
        assert "--two-way needs --source-dc and --target-dc" in line
