"""Figures in words, tables and documents."""

from __future__ import annotations

import json

import pytest
import yaml

from console.cli.output import Format, cell, duration, emit, emit_document, number, size, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.4, "999"), (999.6, "1.00k"), (1000, "1k"), (1234, "1.23k"),
        (12_345, "12.3k"), (123_456, "123k"), (999_600, "1.00M"), (5e9, "5G"), (0.5, "0.50"), (2e18, "2000P"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1.00 KiB"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (3 * (1 << 29), "1.50 GiB")],
)
def test_size(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0 ms"), (0.000_25, "0.25 ms"), (0.0123, "12.3 ms"), (0.9996, "1.00 s"), (59, "59 s"),
        (99.96, "1m40s"), (245, "4m05s"), (3600, "1h00m"), (12_000, "3h20m"), (200_000, "2d07h"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_cell_shows_the_unknown_and_hides_control_characters() -> None:
    assert [cell(None), cell(""), cell(True), cell(False), cell(["a", "b"])] == ["-", "-", "yes", "no", "a,b"]
    assert cell("a\x1b[2Jb\n") == "a?[2Jb?"


def test_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert table(["task", "lag_s"], [["a", "1"], ["longer", "22"]]) == ["TASK    LAG S", "a       1", "longer  22"]


ROWS = [{"name": "a", "lag": 0.5, "url": "redis://h:1"}, {"name": "b", "lag": None, "url": "redis://h:2"}]


@pytest.mark.parametrize(("form", "lines"), [("table", "NAME  LAG"), ("wide", "NAME  LAG  URL")])
def test_emit_table(form: Format, lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, ["name", "lag"], form, wide=["url"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == lines
    assert out[2].startswith("b     -")


def test_emit_json_and_yaml_have_everything(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, ["name"], "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    emit(ROWS, ["name"], "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == ROWS


def test_emit_document_turns_unknown_types_into_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit_document({"path": __import__("pathlib").Path("/x")}, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == {"path": "/x"}
