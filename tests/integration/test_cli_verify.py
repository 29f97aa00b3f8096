"""``redis-canal verify`` and completion as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import StartServer
from tests.support.process import ROOT
from tests.support.servers import Server

pytestmark = pytest.mark.servers


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "console.cli.main", *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


@pytest.fixture
def pair(redis_server: StartServer) -> tuple[Server, Server]:
    servers = redis_server(), redis_server()
    for server in servers:
        server.control.mset({f"k{number}": number for number in range(100)})
    return servers


def verify(pair: tuple[Server, Server], *more: str) -> subprocess.CompletedProcess[str]:
    return call("verify", "--source", pair[0].url, "--target", pair[1].url, "--pause", "0.01", *more)


def test_equal_sides_exit_0_and_print_no_table(pair: tuple[Server, Server]) -> None:
    done = verify(pair)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "equal: 100 keys compared in 1 rounds\n"


def test_differences_exit_1_with_a_table(pair: tuple[Server, Server]) -> None:
    pair[1].control.set("k7", "other")
    pair[0].client(db=2).set("only\nhere", 1)
    done = verify(pair)
    assert done.returncode == 1
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["KIND", "DB", "KEY", "DETAIL"],
        ["value", "0", "k7", "string", "of", "size", "1", "against", "5"],
        ["missing", "2", "only?here", "string"],
    ]
    assert done.stderr == "2 differences: 101 keys compared in 3 rounds\n"


def test_json_has_the_whole_report(pair: tuple[Server, Server]) -> None:
    pair[1].control.delete("k7")
    done = verify(pair, "-o", "json", "--rounds", "2")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["equal"], report["rounds"], report["keys"]) == (False, 2, 100)
    assert report["differences"] == [{"db": 0, "key": "k7", "kind": "missing", "detail": "string"}]


def test_databases_and_patterns_limit_it(pair: tuple[Server, Server]) -> None:
    pair[1].control.delete("k7")
    assert verify(pair, "--db", "3").returncode == 0
    assert verify(pair, "--pattern", "k8*").returncode == 0
    assert verify(pair, "--pattern", "k7*").returncode == 1


def test_a_side_that_is_away_is_4(pair: tuple[Server, Server]) -> None:
    pair[1].kill()
    done = verify(pair)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("redis-canal: error: ")
    assert "connection refused" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = call("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_REDIS_CANAL_COMPLETE" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str, position: int) -> list[str]:
        done = call(_REDIS_CANAL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(position))
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert {"run", "verify", "demo"} <= set(complete("redis-canal ", 1))
    assert complete("redis-canal ver", 1) == ["verify"]
    assert "--two-way" in complete("redis-canal run --t", 2)
    assert complete("redis-canal run --writer g", 3) == ["gated", "guarded"]
