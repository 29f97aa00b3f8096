"""Secrets are planted in every place that may hold one; nothing that the program writes or tells anybody has them.

Looked at: logs, every file of the state directories, /status, /metrics, /logs, what the command line prints, errors, a
support bundle, the process list, and every node of ZooKeeper.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.conftest import StartServer
from tests.support.compare import wait_equal
from tests.support.nodes import Site
from tests.support.process import wait_until
from tests.support.zookeeper import ZooKeeper

pytestmark = [pytest.mark.servers, pytest.mark.zookeeper, pytest.mark.slow]

SECRETS = {
    name: f"PLANTED-{name}-7f3a9c51" for name in ("source", "target", "zookeeper", "wrong", "url", "environment")
}


@pytest.fixture
def site(tmp_path: Path, zookeeper: Callable[[], ZooKeeper]) -> Iterator[Site]:
    made = Site(tmp_path, f'zookeeper: {{hosts: "{zookeeper().hosts}", chroot: /planted, credentials: zookeeper}}')
    yield made
    made.close()


def test_no_secret_is_found_anywhere(site: Site, redis_server: StartServer, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    vault.mkdir(mode=0o700)
    for name in ("source", "target", "zookeeper", "wrong"):
        (vault / name).write_text(SECRETS[name] + "\n")
    source, target = redis_server(requirepass=SECRETS["source"]), redis_server(requirepass=SECRETS["target"])
    others = {task: redis_server(requirepass=SECRETS["target"]) for task in ("wrong", "environment")}
    node = site.node("a")
    node.environ["CANAL_PLANTED"] = SECRETS["environment"]
    node.configure(
        log_level="debug",
        credentials="{"
        + ", ".join(f"{name}: {{password_file: {vault / name}}}" for name in ("source", "target", "wrong"))
        + f", zookeeper: {{username: canal, password_file: {vault / 'zookeeper'}}}"
        + ", environment: {password_env: CANAL_PLANTED}}",
    )
    node.start()
    told: list[str] = []

    def say(*arguments: str, check: bool = True) -> None:
        done = site.cli(*arguments, check=check)
        told.append(f"{arguments}\n{done.stdout}\n{done.stderr}")

    for task, credential in (("good", "source"), ("wrong", "wrong"), ("environment", "environment")):
        file = tmp_path / f"{task}.task.yaml"
        file.write_text(
            f"task: {task}\nsource: {{datacenter: sh, url: '{source.url}', credentials: {credential}}}\n"
            f"target: {{datacenter: {task}, url: '{others.get(task, target).url}', credentials: target}}\n"
            "snapshot: {stale_keys: keep}\n"
        )
        say("task", "create", "-f", str(file), "--start", check=False)
    broken = tmp_path / "url.task.yaml"
    broken.write_text(
        f"task: url\nsource: {{datacenter: sh, url: 'redis://u:{SECRETS['url']}@127.0.0.1:1'}}\n"
        f"target: {{datacenter: bj, url: '{target.url}'}}\n"
    )
    say("task", "create", "-f", str(broken), check=False)
    site.wait_state("good", "streaming")
    for refused in ("wrong", "environment"):
        assert "password" in site.wait_state(refused, "failed")["error"].lower()
    source.client().set("k", "v")
    wait_equal(source, target)
    source.client().config_set("requirepass", "changed meanwhile")  # an error while it runs
    source.client(password="changed meanwhile").client_kill_filter(_type="replica")
    wait_until(lambda: "WRONGPASS" in node.log() or "password" in node.get("/status"), 30, "the error is told")

    for words in (
        ("task", "list", "-o", "json"),
        ("task", "describe", "wrong"),
        ("task", "logs", "good"),
        ("config", "show"),
        ("doctor", "-c", str(node.config)),
    ):
        say(*words, check=False)
    bundle = tmp_path / "bundle.tar.gz"
    say("support", "bundle", "-c", str(node.config), "--output", str(bundle), check=False)
    told += [node.get(path) for path in ("/status", "/metrics", "/logs", "/dead-letters")]
    told += [Path(f"/proc/{pid}/cmdline").read_text() for pid in node.family()]
    told.append(node.log())
    if bundle.exists():
        with tarfile.open(fileobj=io.BytesIO(bundle.read_bytes())) as archive:
            told += [f.read().decode(errors="replace") for m in archive if (f := archive.extractfile(m)) is not None]
    told += list(_zookeeper(site))
    told += [
        path.read_bytes().decode("latin-1")
        for path in node.directory.rglob("*")
        if path.is_file() and path.name != "url.task.yaml"
    ]
    assert len("".join(told)) > 10_000
    for name, secret in SECRETS.items():
        assert [text[:200] for text in told if secret in text] == [], f"the {name} secret was told"
    assert _open_to_others(node.directory) == []


def _zookeeper(site: Site) -> Iterator[str]:
    hosts = site.coordination.split('"')[1]
    client = KazooClient(hosts=hosts, auth_data=[("digest", f"canal:{SECRETS['zookeeper']}")])
    client.start()
    waiting = ["/planted"]
    seen = 0
    for path in waiting:
        data, _ = client.get(path)
        yield f"{path} {data.decode(errors='replace')}"
        seen += 1
        waiting += [f"{path}/{child}" for child in client.get_children(path)]
    client.stop()
    client.close()
    assert seen > 10, "the records of nodes and tasks stand there"


def _open_to_others(directory: Path) -> list[str]:
    """Files and directories that others than this user may open; the first directory is the operator's own."""
    return [
        f"{path.relative_to(directory)} {stat.filemode(path.stat().st_mode)}"
        for path in directory.rglob("*")
        if path.stat().st_mode & 0o077 and not path.is_symlink() and not path.is_socket()
    ]
