"""Credentials: resolved where they are used, never shown; and task specs turned into links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canal.errors import ConfigError
from node.config.loader import load_task, parse
from node.config.models import ConsoleConfig, Credential, NodeConfig, TaskSpec
from node.config.secrets import password, redacted, resolve
from node.connect import coordinator_of, open_coordinator
from node.coordination.plan import ShardId
from node.coordination.records import TaskRecord
from node.coordination.zookeeper import ZooKeeperStore
from node.spec import read_spec, shard_dir, to_link_config, write_spec

SAMPLE = Path(__file__).resolve().parents[2] / "configs" / "task.yaml"


def test_passwords_come_from_the_environment_or_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2\nnot this\n")
    assert password("a", Credential(password_env="X"), {"X": "s"}) == "s"
    assert password("a", Credential(password_file=file), {}) == "hunter2"
    assert password("a", Credential(), {}) is None
    assert (
        password("a", Credential(password_file=Path("secret")), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "hunter2"
    )


@pytest.mark.parametrize("content", [None, b"", b"\nx", b"\xff\xfe"])
def test_a_password_that_cannot_be_had_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"credential a: .*secret") as caught:
        password("a", Credential(password_file=file), {})
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="credential a: the environment variable NOPE is not set"):
        password("a", Credential(password_env="NOPE"), {})


def test_a_side_with_its_credential(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")
    spec = load_task(SAMPLE)
    known = {"bj-redis": Credential(username="canal", password_file=file, ca=Path("/ca.pem"), server_name="redis")}
    endpoint = resolve("target", spec.target, known)
    assert (endpoint.username, endpoint.password) == ("canal", "hunter2")
    assert endpoint.tls is not None and (endpoint.tls.ca, endpoint.tls.server_name) == ("/ca.pem", "redis")
    assert "hunter2" not in repr(endpoint)
    with pytest.raises(
        ConfigError, match=r"source: credential 'sh-redis' is not known on this node \(known: bj-redis\)"
    ):
        resolve("source", spec.source, known)
    tls_only = {"sh-redis": Credential(ca=Path("/ca.pem"))}
    with pytest.raises(ConfigError, match="has TLS options, but the URL is not rediss://"):
        resolve("source", spec.source, tls_only)


def test_a_task_becomes_a_link(tmp_path: Path) -> None:
    credentials = {name: Credential() for name in ("sh-redis", "bj-redis")}
    record = TaskRecord("sh-bj", "0123456789abcdef", write_spec(load_task(SAMPLE)))
    json.dumps(record.spec)
    assert read_spec(record) == load_task(SAMPLE)
    link = to_link_config(record, "0", credentials=credentials, state_dir=tmp_path, epoch=7)
    assert (link.task, link.uid, link.epoch, link.two_way) == ("sh-bj", record.uid, 7, True)
    assert (link.source.address, link.target.scheme) == ("10.0.0.1:6379", "rediss")
    assert link.snapshot.stale_keys == "delete" and link.journal.fsync == "everysec"
    assert link.state_dir == tmp_path / "tasks" / "sh-bj.01234567" / "0"
    assert shard_dir(tmp_path, "ffff", ShardId("sh-bj", "0")) != link.state_dir


def test_link_defaults_and_spec_defaults_are_the_same(tmp_path: Path) -> None:
    """A task that says nothing is what `run` without options is."""
    from sync.config import JournalOptions, SnapshotOptions

    spec = TaskSpec.model_validate(
        {
            "task": "a",
            "source": {"datacenter": "x", "url": "redis://h1"},
            "target": {"datacenter": "y", "url": "redis://h2"},
        }
    )
    link = to_link_config(TaskRecord("a", "u", write_spec(spec)), "0", credentials={}, state_dir=tmp_path, epoch=1)
    assert link.journal == JournalOptions() and link.snapshot == SnapshotOptions()


def test_a_hook_runs_only_where_the_node_allows_it(tmp_path: Path) -> None:
    spec = {
        "task": "a",
        "source": {"datacenter": "x", "url": "redis://h1"},
        "target": {"datacenter": "y", "url": "redis://h2"},
        "map": {"hook": "some.module:function"},
    }
    record = TaskRecord("a", "u", spec)
    with pytest.raises(ConfigError, match=r"names the hook some\.module:function, and this node runs none"):
        to_link_config(record, "0", credentials={}, state_dir=tmp_path, epoch=1)
    link = to_link_config(record, "0", credentials={}, state_dir=tmp_path, epoch=1, allow_hooks=True)
    assert link.transform.hook == "some.module:function"


def test_a_spec_of_a_newer_program_is_refused_clearly() -> None:
    record = TaskRecord("a", "u", {**write_spec(load_task(SAMPLE)), "invented": 1})
    with pytest.raises(ConfigError, match="specification of task a cannot be used: invented"):
        read_spec(record)


def test_what_is_shown_has_no_secret() -> None:
    token = "ab" * 32
    console = parse(
        ConsoleConfig,
        f"datacenters: {{sh: {{coordination: {{embedded: {{path: /x}}}}}}}}\ntokens: [{{name: a, sha256: '{token}'}}]",
        "x.yaml",
    )
    shown = json.dumps(redacted(console))
    assert token not in shown and "(hidden)" in shown and "/x" in shown


def test_the_coordinator_that_a_config_names(tmp_path: Path) -> None:
    embedded = parse(NodeConfig, f"state_dir: {tmp_path}", "x.yaml")
    assert coordinator_of(embedded).store.place == str(tmp_path / "coordination.db")
    text = "coordination: {zookeeper: {hosts: 'a:1,b:2', credentials: zk}}\n"
    text += "credentials: {zk: {username: u, password_env: P}}"
    node = parse(NodeConfig, text, "x.yaml")
    with pytest.raises(ConfigError, match="credential zk: the environment variable P is not set"):
        coordinator_of(node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P", "hunter2")
        store = coordinator_of(node).store
    assert isinstance(store, ZooKeeperStore) and store.place == "zookeeper a:1,b:2/redis-canal"
    with pytest.raises(ConfigError, match="give zookeeper or embedded"):
        open_coordinator(parse(NodeConfig, "", "x").coordination, {}, 10.0)
