"""``redis-canal config``: validate and show configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from canal.errors import ConfigError
from console.cli.output import FORMATS, Format, emit_document

if TYPE_CHECKING:
    from pydantic import BaseModel

KINDS: Final = ("node", "task", "console")


@click.group(name="config", short_help="Validate and show configuration files.")
def command() -> None:
    """Validate and show node.yaml, task.yaml and console.yaml."""


_kind_option = click.option(
    "--kind", type=click.Choice(KINDS), help="What the file is, where its name and keys do not tell."
)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_kind_option
def validate(file: Path, kind: str | None) -> int:
    """Check FILE. All mistakes are printed, one a line, each with line and column; exit code 2 if there is any."""
    from node.config import ConfigProblems

    try:
        chosen, _ = read(file, kind)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    click.echo(f"{file}: valid {chosen} configuration")
    return 0


@command.command(short_help="Print a file as it is understood.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@_kind_option
@click.option("-o", "--output", type=click.Choice(FORMATS), default="yaml", show_default=True)
@click.pass_context
def show(ctx: click.Context, file: Path | None, kind: str | None, output: Format) -> int:
    """Print FILE as it is understood: with defaults and environment overrides, without secrets.

    Without FILE the one that -c or REDIS_CANAL_CONFIG names.
    """
    from node.config import ConfigProblems
    from node.config.secrets import redacted

    given = file or _configured(ctx)
    try:
        _, config = read(given, kind)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    emit_document(redacted(config), output)
    return 0


def _configured(ctx: click.Context) -> Path:
    config = (ctx.obj or {}).get("config")
    if not config:
        raise ConfigError("no file was given: name one, or use -c FILE or REDIS_CANAL_CONFIG")
    return Path(config)


def read(file: Path, kind: str | None = None) -> tuple[str, BaseModel]:
    """Read a file of any of the three kinds; which one is told by ``kind``, its keys or its name."""
    from node.config import load_console, load_node, load_task

    loaders: dict[str, Any] = {"node": load_node, "task": load_task, "console": load_console}
    chosen = kind or _guess(file)
    return chosen, loaders[chosen](file)


def _guess(file: Path) -> str:
    from node.config.loader import compose

    try:
        value = compose(file.read_text(encoding="utf-8"), str(file)).value
    except (OSError, ConfigError, UnicodeDecodeError):
        value = None
    keys = set(value) if isinstance(value, dict) else set()
    if keys & {"task", "source", "target"}:
        return "task"
    if "datacenters" in keys:
        return "console"
    return next((kind for kind in KINDS if kind in file.name), "node")


def report(error: ConfigError) -> None:
    """Print every problem of a file on a line of its own, on stderr."""
    for problem in getattr(error, "problems", [str(error)]):
        click.echo(problem, err=True)
