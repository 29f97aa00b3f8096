"""The command ``redis-canal``: finds the subcommand, runs it, and turns every error into one line and an exit code.

Subcommands are imported when they are called (or listed in detail), so that the command line starts quickly; nothing
heavier than click may be imported at the top of this file. Exit codes: 0 ok, 1 failed, 2 usage or configuration,
3 not found or unhealthy, 4 unreachable, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from console.cli.about import version_text

PROGRAM: Final = "redis-canal"

# name -> (where the click command is, what it does). A module that is not installed is not listed.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("console.cli.run:command", "Run one link in the foreground."),
    "demo": ("console.cli.demo:command", "Show two datacenters on this machine writing both ways."),
    "verify": ("console.cli.verify:command", "Compare two servers by content."),
    "node": ("console.cli.node:command", "Start, list and drain nodes."),
    "task": ("console.cli.task:command", "Create, watch and control tasks."),
    "conflicts": ("console.cli.conflicts:command", "List keys that several datacenters wrote at once."),
    "dead-letters": ("console.cli.dead_letters:command", "Work off commands that a target refused."),
    "console": ("console.cli.console:command", "Serve the web console and its API."),
    "config": ("console.cli.config:command", "Validate and show configuration files."),
    "doctor": ("console.cli.doctor:command", "Check servers and settings, and say what to change."),
    "rdb": ("console.cli.rdb:command", "Show what is in an RDB file."),
    "journal": ("console.cli.journal:command", "List, check and print the journal of a state directory."),
    "support-bundle": ("console.cli.support:command", "Collect status, redacted config and logs into one file."),
    "completion": ("console.cli.completion:command", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (target, _) in COMMANDS.items() if find_spec(target.partition(":")[0]) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names from the table too: click's own would import every subcommand at each press of the key."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name][1]) for name in names] + click.Command.shell_complete(
            self, ctx, incomplete
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of ``--help``, from the table: no subcommand is imported for it."""
        rows = [(name, COMMANDS[name][1]) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show versions."
)
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="REDIS_CANAL_CONFIG",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="node.yaml or console.yaml through which a command finds its coordinator.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.pass_context
def cli(ctx: click.Context, config: str | None, debug: bool) -> None:
    """Keeps Redis and Valkey servers in different datacenters in step.

    Data goes to stdout, messages to stderr. Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 not found or
    unhealthy, 4 unreachable.
    """
    ctx.obj = {"config": config, "debug": debug}


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point. Never returns, never lets a traceback out for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    raise SystemExit(_run(arguments))


def _run(arguments: list[str]) -> int:
    from canal.errors import CanalError

    try:
        result: Any = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        print(f"{PROGRAM}: error: {one_line(error.format_message())}{_hint(error)}", file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except CanalError as error:
        print(f"{PROGRAM}: error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except Exception as error:
        return _unexpected(error, debug="--debug" in arguments)


def _hint(error: click.ClickException) -> str:
    """Where the help is, for mistakes in the command line itself."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f" (try '{ctx.command_path} --help')" if ctx is not None else ""


def one_line(text: str) -> str:
    """``text`` without line breaks or other control characters, so that an error stays one line on any terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _silence_stdout() -> None:
    """Keep the interpreter from complaining at exit about a reader (``| head``) that has gone."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception, debug: bool) -> int:
    """A fault of this program: one line, and the traceback in a file (or on stderr with ``--debug``). Returns 1."""
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    what = f"{PROGRAM}: internal error: {one_line(f'{type(error).__name__}: {error}')[:300]}"
    if debug:
        print(f"{text}{what}", file=sys.stderr)
        return 1
    try:
        with tempfile.NamedTemporaryFile("w", prefix="redis-canal-error-", suffix=".txt", delete=False) as file:
            file.write(f"{version_text()}\n{text}")
        where = f"the traceback is in {file.name}"
    except OSError:
        where = "run with --debug before the subcommand to see the traceback"
    print(f"{what}; {where}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
