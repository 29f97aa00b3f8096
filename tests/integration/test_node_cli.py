"""`redis-canal node …` and `task …` without any Redis: finding the coordinator, creating, refusing, showing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.coordination.base import Write
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.coordination.plan import ShardId
from node.coordination.records import NodeRecord
from tests.conftest import StartServer
from tests.support.process import ROOT, end, wait_until
from tests.support.servers import Server

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with Coordinator(EmbeddedStore(tmp_path / "coordination.db")) as one:
        yield one


@pytest.fixture
def cli(tmp_path: Path, coordinator: Coordinator) -> Cli:
    def run(*arguments: str, state: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        where = () if "-c" in arguments else ("--state-dir", str(state))
        command = [sys.executable, "-m", "console.cli.main", *arguments, *where]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)

    return run


def task_file(tmp_path: Path, route: str, extra: str = "") -> str:
    source, target = route
    ports = {name: ord(name) - ord("a") + 1 for name in route}  # nobody listens there
    file = tmp_path / f"{route}.yaml"
    file.write_text(
        f"task: {route}\nsource: {{datacenter: {source}, url: 'redis://127.0.0.1:{ports[source]}'}}\n"
        f"target: {{datacenter: {target}, url: 'redis://127.0.0.1:{ports[target]}'}}\n{extra}"
    )
    return str(file)


def spec_of(cli: Cli, task: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cli("task", "describe", task, "-o", "json").stdout)["spec"]
    return found


def test_a_created_task_is_not_started_and_says_when_nobody_could_run_it(cli: Cli, tmp_path: Path) -> None:
    done = cli("task", "create", "-f", task_file(tmp_path, "ab"))
    assert (done.returncode, done.stdout) == (0, "") and done.stderr.endswith("\ntask ab created\n")
    assert "source redis://127.0.0.1:1 was not looked at from here: " in done.stderr
    started = cli("task", "start", "ab")
    assert (
        started.returncode == 0 and "0 nodes are alive with room for 0 shards: the task waits for one" in started.stderr
    )
    waited = cli("task", "start", "ab", "--wait", "--timeout", "0.5")
    assert waited.returncode == 1
    assert waited.stderr.endswith("error: not within 0.5 s: task ab is created (no node has taken it)\n")
    assert cli("task", "stop", "ab", "--wait").returncode == 0
    shown = cli("task", "describe", "ab").stdout
    assert "desired     stopped" in shown and "to be running" in shown
    assert cli("task", "list").stdout.splitlines()[1].split()[:5] == ["ab", "a", "b", "stopped", "created"]
    assert cli("task", "delete", "ab", "--yes").returncode == 0
    assert json.loads(cli("task", "list", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    "command", [("describe",), ("start",), ("stop",), ("pause",), ("resume",), ("logs",), ("watch",)]
)
def test_an_unknown_task_is_exit_3_with_one_line(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli("task", *command, "none")
    assert done.returncode == 3 and done.stdout == ""
    assert "there is no task 'none'" in done.stderr and done.stderr.count("\n") == 1


def test_where_the_coordinator_is_not(cli: Cli, tmp_path: Path) -> None:
    nowhere = cli("task", "list", state=tmp_path / "nowhere")
    assert nowhere.returncode == 2 and "there is no coordinator at" in nowhere.stderr
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "coordination.db").with_name("text").mkdir()
    (tmp_path / "text" / "coordination.db").write_text("this is no database, whatever its name says")
    broken = cli("task", "list", state=tmp_path / "text")
    assert broken.returncode == 2 and "is not a sound SQLite file" in broken.stderr
    down = tmp_path / "zk.yaml"
    down.write_text('coordination: {zookeeper: {hosts: "127.0.0.1:1"}}\n')
    assert cli("task", "list", "-c", str(down)).returncode == 4


def test_direct_is_worked_out_and_the_others_are_mended(cli: Cli, tmp_path: Path) -> None:
    for route in ("ab", "ac"):
        assert cli("task", "create", "-f", task_file(tmp_path, route)).returncode == 0
    third = cli("task", "create", "-f", task_file(tmp_path, "bc"))
    assert third.returncode == 0
    assert "task ac: writes made in b now reach its target by bc" in third.stderr
    assert "task bc: writes made in a reach its target directly" in third.stderr
    assert spec_of(cli, "bc")["direct"] == ["a"] and spec_of(cli, "ac")["direct"] == ["b"]


def test_tasks_whose_writes_would_arrive_twice_are_refused_with_one_line(cli: Cli, tmp_path: Path) -> None:
    for route in ("ab", "ac", "bd"):
        assert cli("task", "create", "-f", task_file(tmp_path, route)).returncode == 0
    last = cli("task", "create", "-f", task_file(tmp_path, "cd"))
    assert last.returncode == 1
    assert (
        "task cd: writes made in a would reach 127.0.0.1:4 in d twice: by bd and by cd; leave one of them out"
        in last.stderr
    )
    assert "cd" not in cli("task", "list").stdout


def test_an_unknown_credential_is_refused_where_it_can_be_seen(cli: Cli, tmp_path: Path) -> None:
    node = tmp_path / "node.yaml"
    node.write_text(f"state_dir: {tmp_path}\ncredentials: {{known: {{}}}}\n")
    file = task_file(tmp_path, "ab")
    text = Path(file).read_text().replace("datacenter: b,", "datacenter: b, credentials: nobody,")
    Path(file).write_text(text)
    done = cli("task", "create", "-f", file, "-c", str(node))
    assert done.returncode == 2 and "target: credential 'nobody' is not known (known: known)" in done.stderr


@pytest.mark.servers
def test_evictions_are_warned_of_and_refused_two_ways(cli: Cli, tmp_path: Path, redis_server: StartServer) -> None:
    evicting, keeping = redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru"), redis_server()

    def file(source: Server, target: Server, extra: str = "") -> str:
        path = tmp_path / "t.yaml"
        path.write_text(
            f"task: t\nsource: {{datacenter: a, url: '{source.url}'}}\n"
            f"target: {{datacenter: b, url: '{target.url}'}}\n{extra}"
        )
        return str(path)

    two_way = "two_way: {peer: back}\n"
    for pair in ((evicting, keeping), (keeping, evicting)):
        refused = cli("task", "create", "-f", file(*pair, two_way))
        assert refused.returncode == 1 and "has maxmemory-policy allkeys-lru" in refused.stderr
        assert refused.stderr.count("\n") == 1 and "--accept-evictions" in refused.stderr
    one_way = cli("task", "create", "-f", file(keeping, evicting))
    assert one_way.returncode == 0 and "warning: target" in one_way.stderr
    cli("task", "delete", "t", "--yes")
    told = cli("task", "create", "-f", file(evicting, keeping)).stderr
    assert told.endswith("task t created\n") and "warning" not in told
    cli("task", "delete", "t", "--yes")
    accepted = cli("task", "create", "-f", file(evicting, keeping, two_way), "--accept-evictions")
    assert accepted.returncode == 0 and "warning: source" in accepted.stderr


def test_update_replaces_the_specification_and_keeps_the_task(cli: Cli, tmp_path: Path) -> None:
    cli("task", "create", "-f", task_file(tmp_path, "ab"))
    uid = json.loads(cli("task", "describe", "ab", "-o", "json").stdout)["uid"]
    assert cli("task", "update", "-f", task_file(tmp_path, "ab", "on_error: continue\n")).returncode == 0
    after = json.loads(cli("task", "describe", "ab", "-o", "json").stdout)
    assert after["uid"] == uid and after["spec"]["on_error"] == "continue" and after["spec_version"] == 1
    wrong = cli("task", "update", "-f", task_file(tmp_path, "ab", "on_eror: continue\n"))
    assert wrong.returncode == 2 and "did you mean on_error?" in wrong.stderr


def test_nodes_are_listed_and_drained(cli: Cli, coordinator: Coordinator) -> None:
    coordinator.nodes.register(NodeRecord("n1", "sh", "elsewhere", 1, http="http://10.0.0.1:9477"))
    alone = cli("node", "drain", "n1")
    assert alone.returncode == 0 and "no other node can take the shards of n1" in alone.stderr
    assert "n1    draining" in cli("node", "list").stdout
    assert cli("node", "drain", "n1", "--undo").returncode == 0
    [row] = json.loads(cli("node", "list", "-o", "json").stdout)
    assert (row["node"], row["state"], row["shards"], row["http"]) == ("n1", "ready", 0, "http://10.0.0.1:9477")
    down = cli("node", "drain", "n9")
    assert down.returncode == 0 and "node n9 is not alive" in down.stderr
    assert [line.split()[:2] for line in cli("node", "list").stdout.splitlines()[1:]] == [
        ["n1", "ready"],
        ["n9", "down"],
    ]


def test_watch_prints_a_line_per_change_without_a_terminal(cli: Cli, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.tasks.create("ab", {}, desired="running")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "console.cli.main",
        "task",
        "watch",
        "--state-dir",
        str(tmp_path),
        "--interval",
        "0.2",
    ]
    with out.open("wb") as file:
        watcher = subprocess.Popen(command, stdout=file, cwd=ROOT)
    try:
        wait_until(lambda: "ab/0 created on - run 0" in out.read_text(), 20, "the first line")
        lease = coordinator.leases.acquire(ShardId("ab", "0"), "n1")
        assert lease is not None
        coordinator.leases.begin_run(lease)
        wait_until(lambda: "ab/0 assigned on n1 run 1" in out.read_text(), 20, "the change")
    finally:
        end(watcher)
    assert len(out.read_text().splitlines()) == 2


def test_a_console_file_with_several_datacenters_needs_dc(cli: Cli, tmp_path: Path, coordinator: Coordinator) -> None:
    other = tmp_path / "other.db"
    with Coordinator(EmbeddedStore(other)) as far:
        far.tasks.create("far-task", {})
    coordinator.tasks.create("near-task", {})
    console = tmp_path / "console.yaml"
    console.write_text(
        "datacenters:\n"
        f"  near: {{coordination: {{embedded: {{path: {tmp_path / 'coordination.db'}}}}}}}\n"
        f"  far: {{coordination: {{embedded: {{path: {other}}}}}}}\n"
    )
    which = cli("task", "list", "-c", str(console))
    assert which.returncode == 2 and "name one with --dc (far, near)" in which.stderr
    assert "far-task" in cli("task", "list", "-c", str(console), "--dc", "far").stdout
    assert cli("task", "list", "-c", str(console), "--dc", "x").returncode == 2


def test_a_record_of_a_newer_program_is_one_clear_line(cli: Cli, coordinator: Coordinator) -> None:
    coordinator.tasks.create("ab", {})
    coordinator.store.commit(Write("tasks/ab", b'{"format":2}'))
    done = cli("task", "list")
    assert done.returncode == 1 and "format 2, this redis-canal knows up to 1" in done.stderr
