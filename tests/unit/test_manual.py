"""The operators' manual says nothing that is not so: its commands, options, metrics and messages exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from console.cli.main import COMMANDS, cli
from node.metrics import LinkCollector, NodeFigures
from sync.status import LinkStatus

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```[^\n]*\n(.*?)^```", MANUAL, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every call of redis-canal in a block or in code within a line, without the remark behind it."""
    lines = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    calls = [line.split("&&")[-1].strip() for line in lines if "redis-canal " in line and not line.startswith("ln ")]
    calls += re.findall(r"`(redis-canal [^`]+)`", MANUAL)
    found = []
    for call in calls:
        begin = re.search(rf"(?:^|(?<=\s))redis-canal (?:{'|'.join(COMMANDS)})\b", call)
        if begin is None:
            continue
        words = re.split(r"\s{3,}|\s2?>|\s\|", call[begin.start() :])[0]  # a remark stands behind spaces
        found.append(words.replace("…", "").replace("[", "").replace("]", ""))
    return sorted(set(found))


@pytest.mark.parametrize("call", commands())
def test_a_command_of_the_manual_exists_with_its_options(call: str) -> None:
    words = shlex.split(call)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"no command {words[0]} in: {call}"
        command, words = found, words[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"no option {word} in: {call}"


def test_there_are_many_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("name", sorted(set(re.findall(r"rediscanal_[a-z_]*[a-z]", MANUAL))))
def test_a_metric_of_the_manual_exists(name: str) -> None:
    node = NodeFigures("n", "a", True, 1, 0, 1, 0)
    families = LinkCollector(lambda: (LinkStatus("t", "0", "a", "b"),), node=lambda: node).collect()
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert name in names or name == "rediscanal_node"


def texts() -> str:
    """All strings of the program, with what is filled in replaced by one mark."""
    out = []
    for room in ("canal", "sync", "node", "console"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    out.append("".join(str(part) for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    out.append(node.value)
    return "\1".join(out)


TEXTS = texts()


def messages() -> list[str]:
    section = MANUAL[MANUAL.index("## Messages") : MANUAL.index("## Asking for help")]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return sorted({message for row in rows for message in re.findall(r"`([^`]+)`", row)})


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_manual_is_one_of_the_program(message: str) -> None:
    """Pieces between what is filled in are looked for one by one; short ones and Redis's own words are passed over."""
    for piece in re.split(r"…|\bN\b|\bFILE\b|OOM/.*|slave/replica.*|FLUSHALL", message):
        words = piece.strip(" ,:;()")
        if len(words) >= 9 and not words.isupper():
            assert words in TEXTS, f"{words!r} of {message!r}"
