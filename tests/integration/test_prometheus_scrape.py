"""A real Prometheus scrapes a real link; every query of the dashboard and every alert rule runs on what it has."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import IN_CI, StartServer
from tests.support.links import LinkProcess
from tests.support.process import ROOT, ReservedPort, end, spawn, wait_until

pytestmark = [pytest.mark.servers]

DASHBOARD = json.loads((ROOT / "configs" / "grafana" / "redis-canal.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
# Without samples in a healthy link without filters, limits and nodes; everything else has data.
EMPTY = ("commands_filtered", "throttle_commands", "throttle_bytes", "rediscanal_node_")


class Prometheus:
    """A server of its own with the repository's rules, scraping one port each half second."""

    def __init__(self, directory: Path, target: int) -> None:
        shutil.copy(ROOT / "configs" / "prometheus" / "redis-canal.rules.yml", directory)
        config = yaml.safe_load((ROOT / "configs" / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._port = ReservedPort()
        self.url = f"http://127.0.0.1:{self._port.number}"
        command = [
            *("prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'db'}"),
            *(f"--web.listen-address=127.0.0.1:{self._port.number}", "--log.level=warn"),
        ]
        self.log = directory / "prometheus.log"
        with self.log.open("ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, cwd=directory)

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                raise
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def scraped(self) -> bool:
        try:
            return bool(self.query('count_over_time(rediscanal_state{state="streaming"}[1m]) > 6'))
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def close(self) -> None:
        end(self.process)
        self._port.release()


@pytest.fixture
def prometheus(redis_server: StartServer, tmp_path: Path) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        (pytest.fail if IN_CI else pytest.skip)("no prometheus here: apt-get install prometheus")
    source, target, port = redis_server(), redis_server(), ReservedPort()
    http = ("--http", f"127.0.0.1:{port.number}")
    with LinkProcess(source, target, tmp_path, *http, "--verify-rate", "50", "--heartbeat"):
        server = Prometheus(tmp_path, port.number)
        try:

            def ready() -> bool:
                source.client().incr("counter")
                return server.scraped()

            wait_until(ready, 60, "Prometheus has scraped a streaming link", every=0.1)
            yield server
        finally:
            server.close()
            port.release()


def filled_in(expression: str) -> str:
    """A query as Grafana sends it."""
    return expression.replace("$task", ".*").replace("$shard", ".*").replace("$__rate_interval", "10s")


def test_every_query_of_the_dashboard_has_data_and_no_alert_fires(prometheus: Prometheus) -> None:
    assert len(QUERIES) > 30
    for title, expression in QUERIES:
        result = prometheus.query(filled_in(expression))
        assert result or any(word in expression for word in EMPTY), f"{title}: no data for {expression}"
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert variable["definition"].startswith("label_values(rediscanal_state")
    (annotation,) = DASHBOARD["annotations"]["list"]
    prometheus.query(filled_in(annotation["expr"]))
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert [rule["name"] for rule in rules if rule["alerts"]] in ([], ["RedisCanalBacklogSmall"])


def test_prometheus_has_help_and_types_of_all_metrics(prometheus: Prometheus) -> None:
    metadata = prometheus.get("metadata")
    ours = {name: rows[0] for name, rows in metadata.items() if name.startswith("rediscanal_")}
    assert len(ours) > 40
    assert all(row["help"] and row["type"] != "unknown" for row in ours.values())


def test_promtool_accepts_what_a_link_serves(redis_server: StartServer, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        (pytest.fail if IN_CI else pytest.skip)("no promtool here: apt-get install prometheus")
    port = ReservedPort()
    with LinkProcess(redis_server(), redis_server(), tmp_path, "--http", f"127.0.0.1:{port.number}"):

        def page() -> bytes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port.number}/metrics", timeout=5) as answer:
                    found: bytes = answer.read()
            except OSError:
                return b""
            return found

        text = wait_until(page, 20, "the link serves metrics")
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    port.release()
