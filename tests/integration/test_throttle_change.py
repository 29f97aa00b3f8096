"""Limits changed from outside while a link runs: by SIGHUP for `run`, by `task throttle` for a node's task."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.links import LinkProcess
from tests.support.nodes import Site
from tests.support.process import ReservedPort, wait_until

pytestmark = [pytest.mark.servers]


def limit(page: str) -> float | None:
    found = re.search(r"^rediscanal_throttle_commands_per_second{.*} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else None


def test_run_takes_up_its_file_at_sighup(redis_server: StartServer, tmp_path: Path) -> None:
    file, port = tmp_path / "throttle.yaml", ReservedPort()
    file.write_text("commands_per_second: 500\n")

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port.number}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    arguments = ("--http", f"127.0.0.1:{port.number}", "--throttle-file", str(file), "--throttle-latency", "50")
    with LinkProcess(redis_server(), redis_server(), tmp_path, *arguments) as link:
        wait_until(lambda: limit(page()) == 500, 20, "the limit of the file is in force")
        wait_until(lambda: 'state="streaming",' in page() or "streaming" in link.log, 20, "it runs")
        file.write_text("commands_per_second: lots\n")
        link.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "throttle not changed" in link.log, 10, "a wrong file is refused")
        assert limit(page()) == 500
        file.write_text("commands_per_second: 70\n")
        link.process.send_signal(signal.SIGHUP)
        wait_until(lambda: limit(page()) == 70, 10, "the new limit is in force")
        assert link.running
    port.release()


def test_a_task_is_throttled_without_a_new_worker(redis_server: StartServer, tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        node = site.node("a").start()
        source, target = redis_server(), redis_server()
        site.create("t", source, target, "throttle: {commands_per_second: 300}\n")
        wait_until(lambda: limit(node.get("/metrics")) == 300, 10, "the limit of the specification is in force")
        workers = node.workers()
        site.cli("task", "throttle", "t", "--commands", "40")

        def told() -> bool:
            source.client().incr("k")  # figures are sent when something happens
            return limit(node.get("/metrics")) == 40

        wait_until(told, 15, "the new limit is in force")
        assert node.workers() == workers
        site.cli("task", "throttle", "t")

        def free() -> bool:
            source.client().incr("k")
            return limit(node.get("/metrics")) is None

        wait_until(free, 15, "no limit is in force")
        assert site.shard("t")["state"] == "streaming"
    finally:
        site.close()
