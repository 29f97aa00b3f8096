"""``redis-canal rdb FILE``: what is in an RDB file, or its content as commands for ``redis-cli --pipe``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import click

from canal.errors import ConfigError
from canal.rdb.commands import BigKey, Command, function_command, key_commands
from canal.rdb.dump import dump_payload
from canal.rdb.events import Event, Function, Header, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.reader import RdbReader
from canal.rdb.summary import Big, Summary
from canal.rdb.target import Target
from canal.rdb.types import ARRAY, MODULE_2, REDIS, VALKEY
from canal.resp import encode
from console.cli.output import Format, emit_document, output_option, size, table

PIECE_BYTES: Final = 256 << 10
TEMPORARY: Final = b"redis-canal:loading:"
_BY_RESTORE_ONLY: Final = frozenset({MODULE_2, ARRAY})


@click.command("rdb")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@output_option
@click.option("--to-commands", is_flag=True, help="Write the content as RESP, for `redis-cli --pipe`, to stdout.")
@click.option(
    "--for",
    "server",
    metavar="VERSION",
    default="redis-7.4",
    show_default=True,
    help="With --to-commands: the server that will get them, as 6.2, redis-7.0 or valkey-9.0.",
)
def command(file: Path, output: Format, to_commands: bool, server: str) -> None:
    """Show what is in the RDB FILE (- for stdin): version, fields, keys by database, type and encoding, big keys.

    A file that is truncated or corrupted is an error that names the byte offset, and exit code 1; with --to-commands,
    what was written before it is to be thrown away.
    """
    with click.open_file(str(file), "rb") as source:
        if to_commands:
            _write_commands(source, parse_server(server))
            return
        summary = Summary()
        for event in read_events(source):
            summary.add(event)
    document = describe(summary, str(file))
    if output in ("json", "yaml"):
        emit_document(document, output)
    else:
        for line in render(document):
            click.echo(line)


def read_events(source: IO[bytes]) -> Iterator[Event]:
    """All events of a file. Raises RdbError."""
    reader = RdbReader()
    while piece := source.read(PIECE_BYTES):
        yield from reader.feed(piece)
    reader.finish()


def parse_server(text: str) -> Target:
    """``6.2``, ``redis-7.0``, ``valkey-9.0``. Raises ConfigError."""
    match = re.fullmatch(r"(?:(redis|valkey)-)?(\d+\.\d+(?:\.\d+)?)", text)
    if match is None:
        raise ConfigError(f"--for: expected a version such as 6.2, redis-7.0 or valkey-9.0, got {text!r}")
    return Target.of(VALKEY if match[1] == "valkey" else REDIS, match[2])


def _write_commands(source: IO[bytes], target: Target) -> None:
    out = sys.stdout.buffer
    for commands in commands_of(read_events(source), target):
        for argv in commands:
            out.write(encode(argv))
    out.flush()


def commands_of(events: Iterable[Event], target: Target) -> Iterator[Iterable[Command]]:
    """The commands that each event asks for, lazily. Raises RdbError and NotLoadable."""
    db = 0
    header = Header(0, REDIS)
    big: BigKey | None = None
    for event in events:
        if isinstance(event, Header):
            header = event
        elif isinstance(event, Function):
            yield [function_command(event, target)]
        elif isinstance(event, Key | KeyStart):
            if event.db != db:
                db = event.db
                yield [[b"SELECT", b"%d" % db]]
            if isinstance(event, KeyStart):
                big = BigKey(event, target, TEMPORARY + event.key, flavor=header.flavor)
                yield big.begin()
            else:
                yield _whole(event, header, target)
        elif isinstance(event, ValuePart) and big is not None:
            yield big.part(event)
        elif isinstance(event, KeyEnd) and big is not None:
            yield big.end()


def _whole(key: Key, header: Header, target: Target) -> Iterable[Command]:
    if key.type not in _BY_RESTORE_ONLY:
        return key_commands(key, target, flavor=header.flavor)
    payload = dump_payload(key.type, key.value, header.version, key.meta)
    restore = [b"RESTORE", key.key, b"0", payload, b"REPLACE"]
    return [restore] if key.expire_ms is None else [restore, [b"PEXPIREAT", key.key, b"%d" % key.expire_ms]]


def describe(summary: Summary, name: str) -> dict[str, Any]:
    """The document that ``-o json`` prints."""
    header, end = summary.header, summary.end
    assert header is not None and end is not None
    groups = sorted(summary.groups.values(), key=lambda group: (group.db, group.type, group.encoding))
    return {
        "file": name,
        "flavor": header.flavor,
        "version": header.version,
        "bytes": end.offset,
        "checksum": "ok" if end.checked else "none",
        "aux": {_text(key): _text(value) for key, value in summary.aux.items()},
        "keys": summary.keys,
        "databases": [{"db": db, "keys": keys, "with_ttl": timed} for db, keys, timed in summary.databases()],
        "types": [
            {
                "db": group.db,
                "type": group.type,
                "encoding": group.encoding,
                "keys": group.keys,
                "with_ttl": group.with_ttl,
                "without_ttl": group.keys - group.with_ttl,
                "bytes": group.bytes,
            }
            for group in groups
        ],
        "largest_keys": [_big(big) for big in summary.largest],
        "biggest_collections": [_big(big) for big in summary.longest],
        "functions": [_library(code) for code in summary.functions],
        "module_data": summary.modules,
    }


def _big(big: Big) -> dict[str, Any]:
    shown = {"db": big.db, "key": _text(big.key), "type": big.type, "encoding": big.encoding}
    return {**shown, "bytes": big.bytes, "elements": big.elements}


def _library(code: bytes) -> str:
    match = re.match(rb"#!\w+\s+name=(\w+)", code)
    return _text(match[1]) if match else "?"


def _text(data: bytes) -> str:
    """Printable text as it is, other bytes as escapes."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)


def render(document: dict[str, Any]) -> Iterator[str]:
    """The document for people."""
    checksum = "checksum right" if document["checksum"] == "ok" else "no checksum"
    shown = f"{document['flavor']} RDB version {document['version']}, {size(document['bytes'])}, {checksum}"
    yield f"{document['file']}: {shown}"
    for key, value in document["aux"].items():
        yield f"  {key}: {value}{_as_date(key, value)}"
    for name in document["functions"]:
        yield f"  function library: {name}"
    for name in document["module_data"]:
        yield f"  data of module: {name}"
    if document["keys"] == 0:
        yield "no keys"
        return
    yield ""
    columns = ["db", "type", "encoding", "keys", "with_ttl", "without_ttl", "bytes"]
    yield from _section(columns, document["types"])
    big = ["db", "key", "type", "encoding", "bytes", "elements"]
    yield from ("", "Largest keys")
    yield from _section(big, document["largest_keys"])
    if document["biggest_collections"]:
        yield from ("", "Biggest collections")
        yield from _section(big, document["biggest_collections"])


def _section(columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    return table(columns, [[_cell(column, row[column]) for column in columns] for row in rows])


def _cell(column: str, value: Any) -> str:
    text = size(value) if column == "bytes" else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _as_date(key: str, value: str) -> str:
    if key != "ctime" or not value.isdigit():
        return ""
    return f" ({datetime.fromtimestamp(int(value), UTC):%Y-%m-%d %H:%M:%S} UTC)"
