"""The container files, as far as they can be checked without an engine: structure, references, commands, hardening."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from console.cli.main import cli
from node.config import load_console, load_node, load_task

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service.get("image") == "redis-canal")

SERVICE_KEYS = {
    "image", "build", "command", "restart", "read_only", "tmpfs", "cap_drop", "security_opt", "networks", "volumes",
    "ports", "environment", "healthcheck", "depends_on", "stop_grace_period",
}  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def accepts(arguments: list[str]) -> None:
    """Raise unless the command line knows these commands and options."""
    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        context = click.Context(command)
        found = command.get_command(context, rest[0])
        assert found is not None, f"no command {rest[0]} in {arguments}"
        command, rest = found, rest[1:]
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    while rest:
        option = options.get(rest[0])
        assert option is not None, f"no option {rest[0]} in {arguments}"
        rest = rest[1:] if getattr(option, "is_flag", False) else rest[2:]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_known_keys_and_refers_to_what_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    for volume in service.get("volumes", ()):
        where, inside, *mode = volume.split(":")
        assert inside.startswith("/")
        if where.startswith("."):
            assert (DOCKER / where).exists(), where
            assert mode == ["ro"]
        else:
            assert where in COMPOSE["volumes"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "a demonstration listens on this machine only"


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_commands_that_exist_with_nothing_they_do_not_need(name: str) -> None:
    service = SERVICES[name]
    accepts(service["command"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    mounted = {volume.split(":")[1] for volume in service["volumes"]}
    for argument in service["command"]:
        assert not argument.startswith("/etc/") or argument in mounted, argument


@pytest.mark.parametrize("name", SERVICES)
def test_who_is_waited_for_until_healthy_has_a_health_check(name: str) -> None:
    for other, wish in SERVICES[name].get("depends_on", {}).items():
        if wish["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other] or SERVICES[other]["image"] == "redis-canal"


def test_two_datacenters_with_all_their_parts() -> None:
    assert {f"{part}-{dc}" for part in ("redis", "zookeeper", "node") for dc in ("sh", "bj")} <= set(SERVICES)
    assert {"console", "prometheus", "grafana"} <= set(SERVICES)


def test_the_configurations_are_valid_and_name_services() -> None:
    for dc, other in (("sh", "bj"), ("bj", "sh")):
        node, task = load_node(DOCKER / f"node-{dc}.yaml"), load_task(DOCKER / f"task-{dc}-{other}.yaml")
        assert node.datacenter == dc and node.coordination.zookeeper is not None
        assert node.coordination.zookeeper.hosts.split(":")[0] in SERVICES
        assert (task.source.datacenter, task.target.datacenter) == (dc, other)
        assert {task.source.endpoint.host, task.target.endpoint.host} <= set(SERVICES)
        assert task.two_way is not None and task.two_way.peer == f"{other}-{dc}"
        assert node.http_address == f"http://node-{dc}:9477"
    console = load_console(DOCKER / "console.yaml")
    assert set(console.datacenters) == {"sh", "bj"}
    assert console.tokens[0].sha256 == hashlib.sha256(b"redis-canal-demo").hexdigest()


def test_prometheus_scrapes_the_nodes_by_rules_that_promtool_accepts(tmp_path: Path) -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert {target.partition(":")[0] for target in targets} == {"node-sh", "node-bj"}
    assert config["scrape_configs"][0]["job_name"] == "redis-canal", "the rules name it"
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    shutil.copy(DOCKER / "prometheus.yml", tmp_path)
    shutil.copy(DOCKER.parent / "configs" / "prometheus" / "redis-canal.rules.yml", tmp_path)
    done = subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_datasource_and_dashboard() -> None:
    source = yaml.safe_load((DOCKER / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DOCKER / "grafana" / "dashboards.yaml").read_text())["providers"][0]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in SERVICES["grafana"]["volumes"])


def test_the_image_is_staged_slim_unprivileged_and_watched() -> None:
    found = instructions()
    names = [name for name, _ in found]
    stages = [rest for name, rest in found if name == "FROM"]
    assert len(stages) == 2 and all("slim" in stage and ":latest" not in stage for stage in stages)
    final = found[len(names) - names[::-1].index("FROM") - 1 :]
    assert ("USER", "10001:10001") in final
    assert [name for name, _ in final].count("HEALTHCHECK") == 1 and any(name == "ENTRYPOINT" for name, _ in final)
    assert not any("gcc" in rest or "apt-get" in rest for _, rest in final), "the compiler stays in the first stage"
    assert not any(name == "ADD" for name in names)
    command = next(rest for name, rest in final if name == "CMD")
    accepts(yaml.safe_load(command))


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    for name, rest in instructions():
        if name != "COPY" or rest.startswith("--from"):
            continue
        for source in shlex.split(rest)[:-1]:
            assert (DOCKER.parent / source).exists(), source
            assert f"!{source}" in ignore, f"{source} is ignored"


def test_shell_lines_clean_up_after_themselves() -> None:
    for name, rest in instructions():
        if name == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest
        if name == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
