"""The alert rules: each has its test, each fires and stays silent when it should, and uses metrics that exist."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.metrics import LinkCollector, NodeFigures
from sync.status import LinkStatus

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "configs" / "prometheus"
RULES = DIRECTORY / "redis-canal.rules.yml"
TESTS = sorted((DIRECTORY / "tests").glob("*.yml"))


@functools.cache
def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@functools.cache
def known_metrics() -> set[str]:
    """Names that a scrape can have: those of a link that knows everything, and of a node."""
    status = LinkStatus("t", "0", "a", "b", source_connected=True)
    node = NodeFigures("n", "a", True, 1, 0, 1, 0)
    names = set()
    for family in LinkCollector(lambda: (status,), node=lambda: node).collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no promtool: apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_promtool_accepts_rules_and_scrape_config() -> None:
    for kind, name in (("rules", RULES.name), ("config", "prometheus.yml")):
        done = promtool("check", kind, str(DIRECTORY / name))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_alert_fires_and_stays_silent_as_its_file_says(file: Path) -> None:
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_file_that_sees_it_fire_and_sees_it_silent() -> None:
    assert {file.stem for file in TESTS} == set(alerts())
    for file in TESTS:
        tests = yaml.safe_load(file.read_text())["tests"]
        looks = [look for test in tests for look in test["alert_rule_test"] if look["alertname"] == file.stem]
        assert any(look["exp_alerts"] for look in looks), f"{file.name}: never fires"
        assert any(not look["exp_alerts"] for look in looks), f"{file.name}: is never silent"


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_and_what_to_do_and_is_in_the_manual(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "action"}
    assert f"`{name}`" in (ROOT / "docs" / "operations.md").read_text(), f"docs/operations.md does not explain {name}"


@pytest.mark.parametrize("name", alerts())
def test_an_alert_uses_metrics_that_exist(name: str) -> None:
    used = set(re.findall(r"rediscanal_[a-z_]+", alerts()[name]["expr"]))
    assert used <= known_metrics()
    assert used or name == "RedisCanalDown"
