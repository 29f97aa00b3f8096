"""``redis-canal doctor`` on real servers: sound ones pass; what is wrong is named with what to change."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.diagnosis import Finding
from sync.doctor import examine
from tests.conftest import StartServer
from tests.support.process import ROOT
from tests.support.servers import Server

pytestmark = [pytest.mark.servers]

SOURCE_RULES = (
    "resetkeys ~* resetchannels -@all +psync +replconf +ping +info "
    "+select +scan +dump +pttl +pexpiretime +time +multi +exec +hgetall +client|list"
)
TARGET_RULES = (
    "~* &* +@all -@admin -@dangerous +info +role +restore +restore-asking +sort +flushall +flushdb +swapdb +function "
    "+client|list +client|kill +client|setname"
)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "console.cli.main", "doctor", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)


def source_rules(server: Server) -> list[str]:
    return [rule for rule in SOURCE_RULES.split() if rule != "+pexpiretime" or server.at_least((7, 0))]


def test_the_manual_has_these_rules() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    assert SOURCE_RULES in manual and TARGET_RULES in manual


def test_a_user_without_access_to_keys(redis_server: StartServer) -> None:
    source, target = redis_server("7.0"), redis_server("7.0")
    source.client().execute_command("ACL", "SETUSER", "canal", "on", ">pw", *SOURCE_RULES.replace("~*", "~a*").split())
    assert "~*" in findings(source, target, "canal")["source", "permissions"].found


def findings(source: Server, target: Server, *users: str, two_way: bool = False) -> dict[tuple[str, str], Finding]:
    user, other = (*users, None, None)[:2]
    ends = (
        parse_url(source.url, username=user, password="pw" if user else None),
        parse_url(target.url, username=other, password="pw" if other else None),
    )
    return {(one.side, one.check): one for one in asyncio.run(examine(*ends, two_way=two_way))}


def test_two_sound_servers(redis_server: StartServer, server_version: str, tmp_path: Path) -> None:
    source = redis_server(server_version, repl_backlog_size="128mb")
    target = redis_server(server_version, appendonly="yes")
    done = call("--source", source.url, "--target", target.url, "--state-dir", str(tmp_path), "-o", "json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, rows
    assert [row for row in rows if row["level"] in ("WARN", "FAIL") and row["check"] != "disk"] == []
    assert {(row["side"], row["check"]) for row in rows} >= {
        ("source", "permissions"), ("source", "backlog"), ("source", "output buffer"), ("source", "clock"),
        ("target", "permissions"), ("target", "eviction"), ("target", "memory"), ("here", "disk"),
    }  # fmt: skip
    assert source.sync_full == 0, "looking at the source must not make it begin a snapshot"
    assert target.client().keys("*") == []


def test_the_rules_of_the_manual_are_enough(redis_server: StartServer, server_version: str) -> None:
    source, target = redis_server(server_version), redis_server(server_version)
    rules = TARGET_RULES if target.at_least((7, 0)) else TARGET_RULES.replace(" +function", "")
    source.client().execute_command("ACL", "SETUSER", "canal", "on", ">pw", *source_rules(source))
    target.client().execute_command("ACL", "SETUSER", "canal", "on", ">pw", *rules.split())
    found = findings(source, target, "canal", "canal")
    assert found["source", "permissions"].level == "ok"
    assert found["target", "permissions"].level == "ok"


@pytest.mark.parametrize(("rule", "level"), [("psync", "fail"), ("dump", "warn")])
def test_a_missing_rule_at_the_source(redis_server: StartServer, server_version: str, rule: str, level: str) -> None:
    source, target = redis_server(server_version), redis_server(server_version)
    source.client().execute_command("ACL", "SETUSER", "canal", "on", ">pw", *source_rules(source), f"-{rule}")
    found = findings(source, target, "canal")["source", "permissions"]
    assert (found.level, found.advice.partition(";")[0]) == (level, f"ACL SETUSER <user> +{rule}")


@pytest.mark.parametrize("rule", ["restore", "client|list", "flushall", "function", "swapdb"])
def test_a_missing_rule_at_the_target(redis_server: StartServer, rule: str) -> None:
    source, target = redis_server("7.0"), redis_server("7.0")
    target.client().execute_command("ACL", "SETUSER", "canal", "on", ">pw", *TARGET_RULES.split(), f"-{rule}")
    target.client().execute_command("SET", "k", "v")
    found = {
        (one.side, one.check): one
        for one in asyncio.run(examine(parse_url(source.url), parse_url(target.url, username="canal", password="pw")))
    }
    assert found["target", "permissions"].level == ("warn" if rule.startswith("client") else "fail")
    assert f"+{rule}" in found["target", "permissions"].advice
    assert target.client().get("k") == b"v", "asking for FLUSHALL must not flush"


def test_settings_that_harm_are_named_with_what_to_set(redis_server: StartServer) -> None:
    source = redis_server(
        "7.0", client_output_buffer_limit="replica 1mb 1mb 10", repl_timeout=5, min_replicas_to_write=1,
        repl_backlog_size="1mb",
    )  # fmt: skip
    target = redis_server("7.0", maxmemory="100mb", maxmemory_policy="allkeys-lru", min_replicas_to_write=2)
    found = findings(source, target)
    for side, check, level, advice in (
        ("source", "output buffer", "warn", "client-output-buffer-limit"),
        ("source", "repl-timeout", "warn", "repl-timeout 60"),
        ("source", "min-replicas", "warn", "counts as a replica"),
        ("source", "backlog", "warn", "repl-backlog-size 67108864"),
        ("target", "eviction", "fail", "noeviction"),
        ("target", "min-replicas", "fail", "NOREPLICAS"),
    ):
        assert found[side, check].level == level, (side, check)
        assert advice in found[side, check].advice, (side, check)
    done = call("--source", source.url, "--target", target.url, "--problems")
    assert done.returncode == 3 and "noeviction" in done.stdout and "2 failures" in done.stderr


def test_wrong_servers_and_none_at_all(redis_server: StartServer) -> None:
    server, replica = redis_server("7.0"), redis_server("7.0")
    assert "same server" in findings(server, server)["both", "identity"].found
    replica.client().replicaof(*server.address)
    found = findings(server, replica)
    assert found["target", "role"].level == "fail"
    replica.kill()
    found = findings(server, replica)
    assert found["target", "connection"].level == "fail" and ("source", "version") in found
    assert call("--source", server.url).returncode == 2
    assert call().returncode == 2


def test_a_node_with_a_credential_that_cannot_be_read(redis_server: StartServer, tmp_path: Path) -> None:
    config, task = tmp_path / "node.yaml", tmp_path / "task.yaml"
    config.write_text(f"state_dir: {tmp_path}\ncredentials: {{sh: {{password_file: {tmp_path}/missing}}}}\n")
    source, target = redis_server(), redis_server()
    task.write_text(
        f"task: t\nsource: {{datacenter: sh, url: '{source.url}'}}\ntarget: {{datacenter: bj, url: '{target.url}'}}\n"
    )
    done = call("-c", str(config), "-f", str(task), "-o", "json")
    rows = {(row["side"], row["check"]): row for row in json.loads(done.stdout)}
    assert done.returncode == 3
    assert rows["here", "credential sh"]["level"] == "FAIL" and rows["here", "coordinator"]["level"] == "ok"
    assert rows["t source", "connection"]["level"] == "ok"
