"""`redis-canal verify` with a whole cluster on a side: all masters' keys, both directions, and repair by echo."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from canal.endpoint import parse_url
from sync.doctor import examine
from tests.conftest import StartServer
from tests.support.cluster import Cluster
from tests.support.links import LinkProcess, Reachable
from tests.support.process import ROOT, wait_until

pytestmark = pytest.mark.servers


def verify(source: Reachable, target: Reachable, *more: str) -> tuple[int, Any]:
    """Exit code and report."""
    argv = [sys.executable, "-m", "console.cli.main", "verify", "--source", source.url, "--target", target.url]
    argv += ["--pause", "0.05", "-o", "json", *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_cluster_is_compared_with_a_server_and_repaired(redis_server: StartServer, tmp_path: Path) -> None:
    server = redis_server("7.0")
    with Cluster.start(3) as cluster:
        names = [f"k{number}" for number in range(300)]
        cluster.each(names, "APPEND", "v")
        cluster.ask("RPUSH", "list", *range(2000))
        with LinkProcess(cluster, server, tmp_path) as link:
            wait_until(lambda: server.control.dbsize() >= 301 and server.control.get("k299"), 60, "a snapshot")
            wait_until(lambda: verify(cluster, server)[0] == 0, 60, "equal sides", every=0.5)
            assert verify(server, cluster, "--sample", "50")[0] == 0

            planted = {f"k{number}" for number in range(0, 300, 10)} | {"extra", "list"}
            for number in range(0, 300, 10):
                if number % 20:
                    server.control.set(f"k{number}", "other")
                else:
                    server.control.delete(f"k{number}")
            server.control.set("extra", "v")
            server.control.lset("list", 1000, "other")
            code, report = verify(cluster, server)
            assert code == 1
            assert {one["key"] for one in report["differences"]} == planted
            code, report = verify(server, cluster)
            assert {one["key"] for one in report["differences"]} == planted

            code, report = verify(cluster, server, "--repair", "--yes")
            assert (code, report["differences"]) == (0, []), link.log[-2000:]
            assert server.control.get("k20") == b"v" and server.control.get("extra") is None
            assert link.terminate() == 0, link.log[-3000:]


def test_two_clusters_are_looked_at_and_compared() -> None:
    with Cluster.start(2) as one, Cluster.start(3) as other:
        said = asyncio.run(examine(parse_url(one.url), parse_url(other.url)))
        assert ("source", "cluster", "ok", "2 masters") in {(it.side, it.check, it.level, it.found) for it in said}
        assert not [finding for finding in said if finding.level == "fail"]
        one.nodes[1].do("CONFIG", "SET", "repl-timeout", "5")
        said = asyncio.run(examine(parse_url(one.url), parse_url(other.url)))
        bad = [finding.found for finding in said if finding.check == "repl-timeout"]
        assert any(f":{one.nodes[1].port}: 5 s" in text for text in bad), said
        alone = asyncio.run(examine(parse_url(one.nodes[0].url), parse_url(other.url)))
        assert ("source", "cluster", "fail") in {(it.side, it.check, it.level) for it in alone}

        names = [f"k{number}" for number in range(100)]
        one.each(names, "SET", "v")
        other.each([name for name in names if name != "k77"], "SET", "v")
        other.each(["k0", "k30", "k60", "k90"], "SET", "other")
        code, report = verify(one, other)
        assert code == 1
        assert {found["key"] for found in report["differences"]} == {"k0", "k30", "k60", "k90", "k77"}
