"""How commands print: ``-o table|wide|json|yaml`` for records on stdout, and figures in words for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["table", "wide", "json", "yaml"]
FORMATS: Final = ("table", "wide", "json", "yaml")

output_option = click.option(
    "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the result."
)


def emit(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Format, wide: Sequence[str] = ()) -> None:
    """Print records. ``columns`` are the keys of the table, ``wide`` the further ones of ``-o wide``; JSON and YAML
    have everything that the records hold."""
    if form in ("json", "yaml"):
        emit_document([dict(row) for row in rows], form)
        return
    chosen = [*columns, *(wide if form == "wide" else ())]
    for line in table(chosen, [[cell(row.get(column)) for column in chosen] for row in rows]):
        click.echo(line)


def emit_document(document: Any, form: Format) -> None:
    """Print one document as JSON or YAML (``table`` and ``wide`` print YAML, which people can read)."""
    if form == "json":
        click.echo(json.dumps(document, indent=2, default=str, ensure_ascii=False))
        return
    import yaml

    plain = json.loads(json.dumps(document, default=str))
    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip("\n"))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns two spaces apart under upper-case headings, as kubectl prints them."""
    lines = [[heading.replace("_", " ").upper() for heading in headings], *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def cell(value: Any) -> str:
    """One value in a table: ``-`` for what is unknown, no control characters."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def number(value: float) -> str:
    """``999``, ``12.3k``, ``4.56M``: three figures, powers of 1000."""
    for suffix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return _three(value) + suffix
        value /= 1000
    return f"{value:.0f}P"


def size(value: float) -> str:
    """``999 B``, ``12.3 KiB``, ``4.56 MiB``: three figures, powers of 1024."""
    for suffix in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5:
            return f"{_three(value)} {suffix}"
        value /= 1024
    return f"{value:.0f} PiB"


def duration(seconds: float | None) -> str:
    """``-`` when unknown, ``0.4 ms``, ``12.3 s``, ``4m05s``, ``3h20m``, ``2d03h``."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{_three(seconds * 1000)} ms"
    if seconds < 99.95:
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


def _three(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    if abs(value) < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
