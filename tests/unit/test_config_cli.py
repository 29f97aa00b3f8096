"""`redis-canal config validate` and `config show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from console.cli.main import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize("kind", ["node", "task", "console"])
def test_samples_validate_and_their_kind_is_told_by_their_keys(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "x.yaml"
    other.write_text((CONFIGS / f"{kind}.yaml").read_text())
    assert run(capsys, "config", "validate", str(other)) == (0, f"{other}: valid {kind} configuration\n", "")


def test_every_mistake_is_a_line_on_stderr_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("nod: a\nmax_shard: 1\n")
    code, out, err = run(capsys, "config", "validate", str(file))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{file}:1:1: unknown key nod; did you mean node?",
        f"{file}:2:1: unknown key max_shard; did you mean max_shards?",
    ]


def test_show_prints_defaults_and_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("node: sh-1\n")
    monkeypatch.setenv("REDIS_CANAL__HTTP__LISTEN", "127.0.0.1:1")
    code, out, _ = run(capsys, "-c", str(file), "config", "show", "-o", "json")
    shown = json.loads(out)
    assert code == 0 and shown["max_shards"] == 256 and shown["http"]["listen"] == "127.0.0.1:1"
    assert run(capsys, "config", "show")[0] == 2
    assert run(capsys, "config", "show", str(tmp_path / "none.yaml"))[0] == 2
