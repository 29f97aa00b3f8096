"""Tasks of nodes, both ways, between clusters that speak TLS alone, want a client's certificate, and know users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_least_privilege import PASSWORD, By, nothing_refused
from tests.support.certificates import Certificates
from tests.support.cluster import Cluster
from tests.support.nodes import NodeProcess, Site
from tests.support.process import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KEYS = 200
USER = ("one user for both", "beside these, at every node of a source cluster")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def task(site: Site, name: str, back: str, *sides: tuple[str, Cluster]) -> str:
    """A file that names no secret: the node has them."""
    lines = [f"task: {name}\ntwo_way: {{peer: {back}, home: [a]}}\n"]
    for side, (datacenter, cluster) in zip(("source", "target"), sides, strict=True):
        lines.append(f"{side}: {{datacenter: {datacenter}, url: '{cluster.url}', credentials: of-{datacenter}}}\n")
    file = site.directory / f"{name}.task.yaml"
    file.write_text("".join(lines))
    return str(file)


def equal(a: Cluster, b: Cluster, value: bytes) -> bool:
    return all(cluster.ask("GET", f"k{number}") == value for cluster in (a, b) for number in range(KEYS))


def restarted(node: NodeProcess) -> None:
    node.kill()
    node.start()


def test_two_ways_with_a_failover_and_a_daemon_that_is_killed(site: Site, certificates: Certificates) -> None:
    closed = {"port": 0, "tls_auth_clients": "yes"}
    with Cluster.start(2, 1, tls=certificates, **closed) as a, Cluster.start(2, tls=certificates, **closed) as b:
        users = {"a": By(a, "a", *USER), "b": By(b, "b", *USER)}
        file = site.directory / "password"
        file.write_text(PASSWORD + "\n")
        file.chmod(0o600)
        node = site.node("n")
        files = f"ca: {certificates.ca}, cert: {certificates.client_cert}, key: {certificates.client_key}"
        known = [f"of-{dc}: {{username: {by.name}, password_file: {file}, {files}}}" for dc, by in users.items()]
        node.configure(credentials="{" + ", ".join(known) + "}")
        node.start()
        for number in range(KEYS):
            a.ask("SET", f"k{number}", 1)
        site.cli("task", "create", "-f", task(site, "a-b", "b-a", ("a", a), ("b", b)), "--start", "--wait")
        site.cli("task", "create", "-f", task(site, "b-a", "a-b", ("b", b), ("a", a)), "--start", "--wait")
        wait_until(lambda: equal(a, b, b"1"), 60, "the snapshot")
        for number in range(KEYS):
            (a, b)[number % 2].ask("INCR", f"k{number}")
        wait_until(lambda: equal(a, b, b"2"), 60, "both ways")
        restarted(node)
        old = a.masters[0]
        a.takeover(old)
        for number in range(KEYS):
            (a, b)[number % 2].ask("INCR", f"k{number}")
        wait_until(lambda: equal(a, b, b"3"), 90, "both ways, after the failover and the restart")
        shown = site.cli("task", "list", "-o", "json").stdout + site.cli("task", "describe", "a-b").stdout + node.log()
        assert PASSWORD not in shown
        (compared,) = json.loads(site.cli("task", "verify", "a-b", "--wait", "-o", "json").stdout)
        assert compared["equal"] and compared["keys"] == KEYS, compared
        a.come_back(old)
        nothing_refused(a, b)
