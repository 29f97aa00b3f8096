"""The console over two datacenters, each with a tree of its own in a real ZooKeeper, and real nodes: as in earnest."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.nodes import Site
from tests.support.process import ROOT, ReservedPort, spawn, wait_until
from tests.support.servers import Server
from tests.support.zookeeper import ZooKeeper

pytestmark = [pytest.mark.servers, pytest.mark.zookeeper, pytest.mark.timeout(300)]


class Api:
    """`redis-canal console` without tokens, asked as a program asks."""

    def __init__(self, directory: Path, sites: dict[str, Site]) -> None:
        self._port = ReservedPort()
        config = directory / "console.yaml"
        lines = [f"listen: 127.0.0.1:{self._port.number}", "datacenters:"]
        lines += [f"  {name}: {{coordination: {{{site.coordination}}}}}" for name, site in sites.items()]
        config.write_text("\n".join(lines) + "\n")
        with (directory / "console.log").open("wb") as log:
            self._process = spawn(
                [sys.executable, "-m", "console.cli.main", "console", "-c", config], stderr=log, cwd=ROOT
            )
        wait_until(lambda: self.up, 60, "the console answers")
        self._cookie, self._csrf = self._session()

    @property
    def up(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def _session(self) -> tuple[str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port.number, timeout=30)
        connection.request("GET", "/api/v1/session")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return (answer.getheader("Set-Cookie") or "").partition(";")[0], found["csrf"]

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port.number, timeout=30)
        headers = {"Content-Type": "application/json"}
        if method != "GET":
            headers |= {"Cookie": self._cookie, "X-CSRF-Token": self._csrf}
        try:
            connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def task(self, name: str, datacenter: str) -> dict[str, Any]:
        status, found = self.ask("GET", f"/tasks/{name}?datacenter={datacenter}")
        return found if status == 200 else {"state": f"{status}: {found}", "live": False}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._port.release()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[ZooKeeper, dict[str, Site]]]:
    with ZooKeeper.start() as zookeeper:
        made = {}
        for name in ("sh", "bj"):
            (tmp_path / name).mkdir()
            made[name] = Site(tmp_path / name, f'zookeeper: {{hosts: "{zookeeper.hosts}", chroot: /canal/{name}}}')
            node = made[name].node(f"{name}-1")
            node.configure(datacenter=name, lease_timeout_seconds="4")
            node.start()
        yield zookeeper, made
        for site in made.values():
            site.close()


def reachable(api: Api) -> list[str]:
    found = api.ask("GET", "/datacenters")[1]["datacenters"]
    return sorted(dc["datacenter"] for dc in found if dc["reachable"])


def new_task(name: str, source: str, target: str, first: Server, second: Server) -> dict[str, Any]:
    made = {
        "source": {"datacenter": source, "url": first.url},
        "target": {"datacenter": target, "url": second.url},
    }
    return {"spec": {"task": name, **made}, "start": True}


def test_tasks_of_one_name_failover_and_an_ensemble_that_goes_away(
    sites: tuple[ZooKeeper, dict[str, Site]], redis_server: StartServer, tmp_path: Path
) -> None:
    zookeeper, both = sites
    first, second, third = redis_server(), redis_server(), redis_server()
    first.client().mset({"a": 1, "b": 2})
    api = Api(tmp_path, both)
    try:
        wait_until(lambda: reachable(api) == ["bj", "sh"], 60, "the console has read both coordinators")
        # one name in two datacenters: told apart, never mixed up
        for body in (new_task("one", "sh", "bj", first, second), new_task("one", "bj", "gz", second, third)):
            status, found = api.ask("POST", "/tasks", body)
            assert status == 201, found
        for home in both:
            wait_until(lambda home=home: api.task("one", home)["live"], 60, f"task one of {home} is shown live")
        assert sorted(task["home"] for task in api.ask("GET", "/tasks")[1]["tasks"]) == ["bj", "sh"]
        status, found = api.ask("GET", "/tasks/one")
        assert status == 409 and "several datacenters have a task 'one' (sh, bj)" in found["error"]["message"]
        assert api.ask("PUT", "/tasks/one/pause?datacenter=bj")[0] == 202
        wait_until(lambda: api.task("one", "bj")["state"] == "paused", 60, "that of bj is paused")
        assert api.task("one", "sh")["state"] == "streaming"
        assert api.task("one", "sh")["source"]["url"] == first.url

        # ZooKeeper away: figures stay live, and it is said what is missing
        zookeeper.kill()
        wait_until(lambda: reachable(api) == [], 60, "it is said")
        task = next(task for task in api.ask("GET", "/tasks")[1]["tasks"] if task["home"] == "sh")
        assert task["live"] and task["state"] == "streaming"
        status, found = api.ask("PUT", "/tasks/one/pause?datacenter=sh")
        assert status == 503 and "cannot be reached" in found["error"]["message"]
        zookeeper.run()
        zookeeper.wait_ready()
        wait_until(lambda: reachable(api) == ["bj", "sh"], 60, "it is back")
        wait_until(lambda: api.task("one", "sh")["state"] == "streaming", 60, "and all is as before")

        # turned round: the new task is kept by the other coordinator
        assert api.ask("PUT", "/tasks/one/stop?datacenter=bj")[0] == 202
        status, found = api.ask("POST", "/tasks/one/reverse?datacenter=sh", {"name": "back", "timeout_seconds": 60})
        assert status == 202, found
        wait_until(lambda: api.task("one", "sh")["turn"]["state"] != "running", 90, "the turn has ended")
        turn = api.task("one", "sh")["turn"]
        assert turn["state"] == "done" and not turn["error"], turn
        wait_until(lambda: api.task("back", "bj")["state"] == "streaming", 60, "the record says so too")
        assert both["sh"].describe("one")["desired"] == "stopped"
        second.client().incr("b")
        wait_until(lambda: first.client().get("b") == b"3", 30, "what is written in bj comes to sh")
    finally:
        api.close()
