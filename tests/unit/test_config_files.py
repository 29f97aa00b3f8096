"""node.yaml, task.yaml and console.yaml: what is read, and every mistake with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from node.config import ConfigProblems, load_console, load_node, load_task
from node.config.loader import parse
from node.config.models import ConsoleConfig, NodeConfig, TaskSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

TASK = """\
task: sh-bj
source: {datacenter: sh, url: "redis://10.0.0.1:6379"}
target: {datacenter: bj, url: "redis://10.1.0.1:6379"}
"""


def problems(model: type[NodeConfig | TaskSpec | ConsoleConfig], text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        parse(model, text, "x.yaml", environ)
    return caught.value.problems


def test_the_samples_are_valid_and_say_what_the_defaults_are() -> None:
    node = load_node(CONFIGS / "node.yaml", {})
    assert node.coordination.zookeeper is not None and node.coordination.zookeeper.chroot == "/redis-canal"
    assert node.http_address == "http://127.0.0.1:9477" and node.credentials["sh-redis"].username == "canal"
    defaults = parse(NodeConfig, "node: sh-1", "x.yaml")
    for name in ("max_shards", "lease_timeout_seconds", "publish_seconds", "log_level", "http", "state_dir"):
        assert getattr(node, name) == getattr(defaults, name), name
    task = load_task(CONFIGS / "task.yaml")
    assert task.two_way is not None and task.two_way.peer == "bj-sh"
    assert task.snapshot.stale_keys == "delete"
    pair = load_task(CONFIGS / "task-cluster.yaml").two_way
    assert pair is not None and (pair.conflicts, pair.home) == ("settle", ("prefix:sh:=sh", "bj"))
    assert set(load_console(CONFIGS / "console.yaml", {}).datacenters) == {"sh", "bj"}


def test_commented_values_of_the_task_sample_are_valid_too() -> None:
    section = re.compile(r"# (\w+:|  )")
    lines = (CONFIGS / "task.yaml").read_text().splitlines()
    body = [line for line in lines if not line.startswith("# ") or section.match(line)]
    uncommented = "\n".join(re.sub(r"^(\s*)# (?=[ \w]+:)", r"\1", line) for line in body)
    task = parse(TaskSpec, uncommented, "task.yaml")
    assert task.journal.fsync == "everysec" and task.map.databases == {1: 2} and task.snapshot.max_bytes_per_second == 0
    assert task.filter.exclude.commands == ("publish",) and len(task.transform.include_keys) == 3


def test_an_empty_node_file_is_a_node_of_this_host_on_its_own_sqlite_file() -> None:
    node = parse(NodeConfig, "", "x.yaml")
    assert node.node and node.coordination.zookeeper is None and node.coordination.embedded is None


def test_all_mistakes_at_once_with_file_line_column_and_nearest_key() -> None:
    text = """\
node: sh-1
datacentre: sh
coordination:
  zookeeper:
    host: "127.0.0.1:2181"
    chroot: redis-canal/
http: {listen: 9477}
max_shards: many
credentials:
  bj: {username: canal, pasword_file: /x, password: hunter2}
"""
    found = problems(NodeConfig, text)
    assert "x.yaml:2:1: unknown key datacentre; did you mean datacenter?" in found
    assert "x.yaml:5:5: unknown key coordination.zookeeper.host; did you mean hosts?" in found
    assert "x.yaml:4:3: coordination.zookeeper.hosts is missing" in found
    assert any(line.startswith("x.yaml:6:5: coordination.zookeeper.chroot: the text should match") for line in found)
    assert any(line.startswith("x.yaml:7:8: http.listen: expected a valid string, got 9477") for line in found)
    assert any(line.startswith("x.yaml:8:1: max_shards: expected a valid integer") for line in found)
    assert "x.yaml:10:25: unknown key credentials.bj.pasword_file; did you mean password_file?" in found
    secret = (
        "x.yaml:10:43: credentials.bj.password: secrets do not stand in this file; give password_file or password_env"
    )
    assert secret in found
    assert "hunter2" not in "".join(found) and all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node: [", "x.yaml:1:8: not valid YAML: expected the node content"),
        ("- a\n- b\n", "x.yaml: expected keys and values, got a list"),
        ("just text", "x.yaml: expected keys and values, got a text"),
        ("node: a\nnode: b\n", "x.yaml:2:1: node stands twice"),
        ("node: a/b", "x.yaml:1:1: node: 'a/b' cannot name a node"),
        ("node: &a [*a]", "x.yaml: not valid YAML: an alias that contains itself"),
        ("{1: 2}", "x.yaml:1:2: unknown key 1; known here:"),
        (
            "coordination: {zookeeper: {hosts: a}, embedded: {path: /x}}",
            "x.yaml:1:1: coordination: zookeeper and embedded are both given; give one",
        ),
        (
            "coordination: {zookeeper: {hosts: a, credentials: zk}}\ncredentials: {other: {}}",
            "x.yaml:1:1: coordination.zookeeper.credentials: 'zk' is not among the credentials of this file (other)",
        ),
        ("credentials: {a: {username: u}}", "x.yaml:1:15: credentials.a: a username without a password"),
        (
            "credentials: {a: {password_env: A, password_file: /b}}",
            "x.yaml:1:15: credentials.a: password_env and password_file are both given",
        ),
        ("lease_timeout_seconds: 0.1", "x.yaml:1:1: lease_timeout_seconds: expected greater than or equal to 1"),
    ],
)
def test_mistakes_in_a_node_file(text: str, message: str) -> None:
    found = problems(NodeConfig, text)
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10.1.0.1:6379", "10.0.0.1", "source and target are the same server (10.0.0.1:6379)"),
        ("datacenter: bj", "datacenter: sh", "source and target have the same datacenter"),
        ("redis://10.1.0.1:6379", "redis://u:hunter2@10.1.0.1", "user and password do not belong in a URL"),
        ("redis://10.1.0.1:6379", "http://10.1.0.1", "unknown URL scheme 'http'"),
        ("task: sh-bj", "task: sh-bj\ntwo_way: {peer: sh-bj}", "two_way.peer names this task itself"),
        ("task: sh-bj", "task: -x", "'-x' cannot name a task"),
        (
            "task: sh-bj",
            "task: sh-bj\nsnapshot: {big_key_bytes: lots}",
            "expected a size such as 512m or 2GiB, got 'lots'",
        ),
        ("task: sh-bj", "task: sh-bj\nsnapshot: {stale_keys: drop}", "expected 'delete' or 'keep', got 'drop'"),
        ("task: sh-bj", "task: sh-bj\nfilter: {include: {keys: ['regex:(']}}", "not a regular expression"),
        ("task: sh-bj", "task: sh-bj\nfilter: {include: {types: [sets]}}", "types sets are not known"),
        (
            "task: sh-bj",
            "task: sh-bj\nmap: {databases: {0: 2, 1: 2}}",
            "two databases of the source have the same target",
        ),
        ("task: sh-bj", "task: sh-bj\nmap: {hook: os.system}", "map.hook"),
        ("task: sh-bj", "", "task is missing"),
    ],
)
def test_mistakes_in_a_task_file(old: str, new: str, message: str) -> None:
    found = problems(TaskSpec, TASK.replace(old, new))
    assert any(message in line for line in found), found
    assert "hunter2" not in "".join(found)


def test_sizes_are_powers_of_1024() -> None:
    spec = parse(TaskSpec, TASK + "journal: {max_bytes: 2g, retain_bytes: 64MiB, tail_bytes: 131072}", "x.yaml")
    assert (spec.journal.max_bytes, spec.journal.retain_bytes, spec.journal.tail_bytes) == (2 << 30, 64 << 20, 131072)


def test_a_console_off_loopback_needs_a_token() -> None:
    base = "datacenters: {sh: {coordination: {embedded: {path: /x}}}}\nlisten: 0.0.0.0:9480\n"
    assert "at least one token" in problems(ConsoleConfig, base)[0]
    token = f"tokens: [{{name: a, sha256: '{'0' * 64}'}}]"
    assert parse(ConsoleConfig, base + token, "x.yaml").tokens[0].role == "read-only"
    wrong = problems(ConsoleConfig, base + "tokens: [{name: a, sha256: hunter2}]")
    assert wrong[0].startswith("x.yaml:3:20: tokens[0].sha256") and "unknown" not in wrong[0]
    assert (
        "did you mean role?"
        in problems(ConsoleConfig, base + f"tokens: [{{name: a, sha256: '{'0' * 64}', rol: x}}]")[0]
    )


def test_environment_overrides_and_says_so_in_messages() -> None:
    environ = {
        "REDIS_CANAL__HTTP__LISTEN": "0.0.0.0:1",
        "REDIS_CANAL__MAX_SHARDS": "7",
        "REDIS_CANAL__CREDENTIALS__BJ_REDIS__PASSWORD_ENV": "BJ",
        "REDIS_CANAL_CONFIG": "not ours",
    }
    node = parse(NodeConfig, "credentials: {bj-redis: {username: canal}}", "x.yaml", environ)
    assert node.http.listen == "0.0.0.0:1" and node.max_shards == 7
    assert node.credentials["bj-redis"].password_env == "BJ"
    assert problems(NodeConfig, "", REDIS_CANAL__MAX_SHARDS="x")[0].startswith(
        "environment variable REDIS_CANAL__MAX_SHARDS: max_shards: expected a valid integer"
    )
    assert "unknown key http.lisen; did you mean listen?" in problems(NodeConfig, "", REDIS_CANAL__HTTP__LISEN="x")[0]
    assert "its value is not valid YAML" in problems(NodeConfig, "", REDIS_CANAL__NODE="[")[0]
    assert "expected REDIS_CANAL__KEY__KEY" in problems(NodeConfig, "", REDIS_CANAL__="1")[0]


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match=r"missing\.yaml: cannot be read: No such file"):
        load_node(tmp_path / "missing.yaml")
    (tmp_path / "latin").write_bytes(b"node: \xff")
    with pytest.raises(ConfigProblems, match="is not UTF-8 text"):
        load_node(tmp_path / "latin")
