"""The command line's frame: lazy subcommands, exit codes, one line per error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from canal.errors import ConfigError, Refused, StateError, Unreachable
from console.cli import main as frame


def run(*arguments: str) -> int:
    """The exit code of one call."""
    with pytest.raises(SystemExit) as stop:
        frame.main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the subcommand ``broken`` raise the given error."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(sys.modules[__name__], "broken_command", command, raising=False)
        monkeypatch.setitem(frame.COMMANDS, "broken", (f"{__name__}:broken_command", "fails"))
        monkeypatch.setattr(frame, "find_spec", lambda name: object())
        monkeypatch.setattr(frame, "import_module", lambda name: sys.modules[__name__])

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (StateError("no"), 2), (Refused("no"), 1), (Unreachable("no"), 4)],
)
def test_errors_are_one_line_with_their_exit_code(
    error: Exception, code: int, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert run("broken") == code
    out = capsys.readouterr()
    assert out.err == "redis-canal: error: no\n"
    assert out.out == ""


def test_an_error_text_from_a_peer_cannot_break_the_line(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(Unreachable("bad\r\nanswer\x1b[2J\x00here"))
    assert run("broken") == 4
    assert capsys.readouterr().err == "redis-canal: error: bad answer [2J here\n"


def test_unexpected_errors_keep_the_traceback_in_a_file(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(ZeroDivisionError("oops"))
    assert run("broken") == 1
    err = capsys.readouterr().err
    assert err.startswith("redis-canal: internal error: ZeroDivisionError: oops; the traceback is in ")
    assert err.count("\n") == 1
    (file,) = tmp_path.iterdir()
    assert str(file) in err
    assert "Traceback" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_debug_shows_the_traceback(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("oops"))
    assert run("--debug", "broken") == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(KeyboardInterrupt())
    assert run("broken") == 130
    assert capsys.readouterr().err.strip() == "redis-canal: interrupted"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["run"], "Missing option '--source'"),
        (["run", "--frobnicate"], "No such option"),
        (["run", "--source", "x", "--target", "y", "--writer", "odd"], "'odd' is not one of"),
        (["run", "--source", "x", "--target", "y", "--http", "9477"], "expected HOST:PORT"),
        (["run", "--source", "x", "--target", "y", "--max-journal-bytes", "lots"], "expected a size"),
    ],
)
def test_mistakes_in_the_command_line_are_one_line_and_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("redis-canal: error: ")
    assert words in err
    assert "--help" in err
    assert err.count("\n") == 1


def test_version_names_package_python_and_framing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    out = capsys.readouterr().out
    assert out.startswith("redis-canal ")
    assert f"Python {sys.version.split()[0]}" in out
    assert out.rstrip().endswith(("framing plain", "framing compiled"))


def test_commands_that_are_not_installed_are_not_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(frame.COMMANDS, "ghost", ("console.cli.no_such_module:command", "not there"))
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "ghost" not in out
    assert "Run one link in the foreground." in out
    assert run("ghost") == 2


def test_help_imports_nothing_heavy() -> None:
    """Start-up stays quick only as long as the frame does not import what the subcommands need."""
    code = (
        "import sys\n"
        "from console.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'redis', 'rich', 'yaml', 'pydantic', 'prometheus_client', 'kazoo', 'asyncio', 'uvloop', 'hiredis'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "redis-canal" in done.stdout


def test_a_link_imports_no_library_that_it_does_not_use() -> None:
    """A quarter of a link's start, and 7 MB of it, were redis-py, which asks on behalf of people alone."""
    code = (
        "import sys, console.cli.run, console.cli.foreground, sync.link\n"
        "heavy = {'redis', 'rich', 'yaml', 'pydantic', 'kazoo', 'starlette'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_not_an_error_message() -> None:
    code = (
        "import sys, os\n"
        "from console.cli import main as frame\n"
        "import click\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "frame.main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize("group", ["", "task", "node", "dead-letters", "config", "console", "journal"])
def test_no_command_s_description_is_cut_off(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*group.split(), "--help") == 0
    commands = capsys.readouterr().out.partition("Commands:")[2]
    assert commands and "..." not in commands
