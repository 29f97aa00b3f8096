"""``redis-canal journal``: what the journal of a state directory holds, whether it is sound, and the commands in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from canal.errors import ConfigError
from console.cli.output import Format, emit, output_option

if TYPE_CHECKING:
    from canal.journal.inspect import Entry
    from canal.journal.recovery import Survey

UNHEALTHY: Final = 3
_SHOWN: Final = 40  # bytes of an argument in a table
_SHOWN_ARGUMENTS: Final = 8

F = TypeVar("F", bound=Callable[..., Any])


def _directory(function: F) -> F:
    return click.argument(
        "state_dir", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="STATE_DIR"
    )(function)


@click.group(name="journal", short_help="List, check and print the journal of a state directory.")
def command() -> None:
    """Look into the journal of STATE_DIR, the directory that `run --state-dir` names or a task's directory in it.

    Nothing is changed, and a daemon that is writing the journal is not disturbed.
    """


@command.command(name="ls", short_help="List the segments.")
@_directory
@output_option
def list_segments(state_dir: Path, output: Format) -> int:
    """List the segments: their ranges of offsets, when they were received, and under which replication id."""
    directory = _journal(state_dir)
    found = _survey(directory, everything=False)
    rows = [
        {
            "start": segment.first,
            "end": segment.end,
            "bytes": segment.end - segment.first,
            "records": segment.records,
            "received": _time(segment.last_ms) if segment.last_ms else None,
            "replid": segment.replid,
            "run": number,
            "file": segment.log_path.name,
        }
        for number, run in enumerate(found.runs, 1)
        for segment in run
    ]
    emit(rows, ("start", "end", "bytes", "records", "received", "replid"), output, wide=("run", "file"))
    _complain(found)
    return 0


@command.command()
@_directory
@output_option
def verify(state_dir: Path, output: Format) -> int:
    """Check every byte against its checksum. Exit code 0 when all is sound, 3 when something is not."""
    directory = _journal(state_dir)
    found = _survey(directory, everything=True)
    rows = [
        {
            "start": run[0].first,
            "end": run[-1].end,
            "bytes": run[-1].end - run[0].first,
            "segments": len(run),
            "replids": [f"{replid}:{offset}" for replid, offset in _replids(found)],
            "received": _time(run[-1].last_ms) if run[-1].last_ms else None,
        }
        for run in found.runs
    ]
    emit(rows, ("start", "end", "bytes", "segments", "received"), output, wide=("replids",))
    _complain(found)
    return UNHEALTHY if found.damages else 0


@command.command(short_help="Print commands by offset.")
@_directory
@click.option("--from", "start", type=click.IntRange(min=0), required=True, metavar="OFFSET", help="First offset.")
@click.option("--to", "stop", type=click.IntRange(min=0), metavar="OFFSET", help="Up to here (default: the end).")
@click.option("--key", metavar="KEY", help="Only commands that name this key (\\xHH for other bytes).")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many commands.")
@output_option
def cat(state_dir: Path, start: int, stop: int | None, key: str | None, limit: int | None, output: Format) -> int:
    """Print the commands that begin in a range of offsets, with the time they were received, database and keys.

    A table shortens long arguments, wide does not; json prints one object a line.
    """
    from canal.journal.inspect import boundary_before, commands, run_at

    directory = _journal(state_dir)
    found = _survey(directory, everything=False)
    run = run_at(found, start)
    begin = boundary_before(found, run, start)
    if begin.offset > start:
        click.echo(f"no command boundary is known before {begin.offset}: beginning there", err=True)
    wanted = None if key is None else _bytes(key)
    printed = 0
    for row, keys in _rows(commands(run, begin, run[-1].end if stop is None else stop), start):
        if wanted is not None and wanted not in keys:
            continue
        click.echo(_FORMS[output](row))
        printed += 1
        if printed == limit:
            break
    return 0


def _journal(state_dir: Path) -> Path:
    """The one journal in ``state_dir``."""
    from canal.journal.inspect import find_journals

    found = find_journals(state_dir)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"there is no journal in {state_dir}: name the directory that was given as --state-dir")
    raise ConfigError(f"{state_dir} has several journals, name one: {', '.join(map(str, found))}")


def _survey(directory: Path, everything: bool) -> Survey:
    from canal.journal.lock import lock_holder
    from canal.journal.recovery import survey

    holder = lock_holder(directory.parent)
    if holder is not None:
        who = f"process {holder}" if holder else "another process"
        click.echo(f"{who} is writing this journal: what it is adding now may look torn", err=True)
    return survey(directory, everything)


def _complain(found: Survey) -> None:
    for damage in found.damages:
        click.echo(damage, err=True)


def _replids(found: Survey) -> list[tuple[str, int]]:
    return [] if found.state is None else found.state.history.entries


def _rows(entries: Iterator[Entry], start: int) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """The commands from ``start`` on as records, with their keys."""
    from canal.commands.keys import all_keys

    for entry in entries:
        if entry.offset < start:
            continue
        keys = [key for _, key in all_keys(entry.argv)]
        row = {
            "offset": entry.offset,
            "end": entry.end,
            "received": _time(entry.received_ms),
            "db": entry.db,
            "keys": [_text(key) for key in keys],
            "command": [_text(argument) for argument in entry.argv],
        }
        yield row, keys


def _time(unix_ms: int) -> str:
    """``2026-01-31T23:59:59.999Z``."""
    seconds, milliseconds = divmod(unix_ms, 1000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
    except (OverflowError, ValueError, OSError):
        return str(unix_ms)


def _text(data: bytes) -> str:
    """Printable text as it is, other bytes as ``\\xHH``; `_bytes` reads it back."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and "\\" not in text and (text or not data):
        return text
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)


def _bytes(text: str) -> bytes:
    """The bytes that `_text` shows as ``text``."""
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at : at + 2] == "\\x" and len(text) >= at + 4:
            try:
                out.append(int(text[at + 2 : at + 4], 16))
            except ValueError:
                raise ConfigError(f"expected \\x and two hex digits in {text!r} at {at}") from None
            at += 4
        else:
            out += text[at].encode()
            at += 1
    return bytes(out)


def _line(row: dict[str, Any], shorten: bool) -> str:
    arguments = row["command"]
    more = ""
    if shorten:
        if len(arguments) > _SHOWN_ARGUMENTS:
            more = f" … {len(arguments) - _SHOWN_ARGUMENTS} more"
        arguments = [text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…" for text in arguments[:_SHOWN_ARGUMENTS]]
    quoted = " ".join(f'"{text}"' if " " in text or not text else text for text in arguments) + more
    db = "-" if row["db"] is None else row["db"]
    return f"{row['offset']}  {row['received']}  db {db}  {quoted}"


def _yaml(row: dict[str, Any]) -> str:
    """One item of a YAML list: printed one after the other they make a document."""
    import yaml

    return str(yaml.safe_dump([row], sort_keys=False, allow_unicode=True)).rstrip("\n")


_FORMS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "table": lambda row: _line(row, shorten=True),
    "wide": lambda row: _line(row, shorten=False),
    "json": lambda row: json.dumps(row, ensure_ascii=False),
    "yaml": _yaml,
}
