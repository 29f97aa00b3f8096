"""`redis-canal rdb`: counted, rendered, written as commands, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from canal.errors import ConfigError, RdbError
from console.cli.rdb import command, parse_server
from tests.support.golden import DIRECTORY
from tests.support.rdb_build import key, length, rdb, select, string

SAMPLE = rdb(
    b"\xfa" + string(b"redis-ver") + string(b"7.0.15"),
    b"\xfa" + string(b"ctime") + string(b"1700000000"),
    b"\xf5" + string(b"#!lua name=mylib\nredis.register_function('f', function() end)"),
    select(0),
    key(0, b"a", string(b"x" * 100)),
    b"\xfc" + (9999999999999).to_bytes(8, "little") + key(0, b"b", b"\xc0\x05"),
    key(1, b"l\r\n", length(3) + string(b"1") + string(b"2") + string(b"3")),
    select(7),
    key(4, b"h", length(1) + string(b"f") + string(b"v")),
    version=10,
)


def run(tmp_path: Path, data: bytes, *options: str) -> Result:
    path = tmp_path / "dump.rdb"
    path.write_bytes(data)
    return CliRunner().invoke(command, [str(path), *options])


def test_the_document(tmp_path: Path) -> None:
    document = json.loads(run(tmp_path, SAMPLE, "-o", "json").output)
    assert (document["flavor"], document["version"], document["checksum"]) == ("redis", 10, "ok")
    assert (document["bytes"], document["keys"]) == (len(SAMPLE), 4)
    assert document["aux"] == {"redis-ver": "7.0.15", "ctime": "1700000000"}
    assert document["databases"] == [{"db": 0, "keys": 3, "with_ttl": 1}, {"db": 7, "keys": 1, "with_ttl": 0}]
    assert document["functions"] == ["mylib"]
    strings = next(row for row in document["types"] if row["type"] == "string")
    assert strings == {
        "db": 0,
        "type": "string",
        "encoding": "string",
        "keys": 2,
        "with_ttl": 1,
        "without_ttl": 1,
        "bytes": 104,
    }
    assert document["largest_keys"][0]["key"] == "a"
    assert [row["elements"] for row in document["biggest_collections"]] == [3, 1]
    assert document["biggest_collections"][0]["key"] == "l\\x0d\\x0a"


def test_the_table(tmp_path: Path) -> None:
    output = run(tmp_path, SAMPLE).output
    assert "redis RDB version 10" in output and "checksum right" in output
    assert "ctime: 1700000000 (2023-11-14 22:13:20 UTC)" in output
    assert "function library: mylib" in output
    assert "Largest keys" in output and "Biggest collections" in output
    assert all(line == line.rstrip() and line.isprintable() for line in output.splitlines())


def test_an_empty_file_of_keys(tmp_path: Path) -> None:
    assert "no keys" in run(tmp_path, rdb()).output


def test_big_values_are_counted_in_parts(tmp_path: Path) -> None:
    text = b"x" * (65 << 20)
    document = json.loads(run(tmp_path, rdb(key(0, b"big", string(text))), "-o", "json").output)
    (row,) = document["largest_keys"]
    assert (row["bytes"], row["elements"]) == (len(text), len(text))


def test_as_commands(tmp_path: Path) -> None:
    output = run(tmp_path, SAMPLE, "--to-commands").stdout_bytes
    assert output.startswith(b"*4\r\n$8\r\nFUNCTION\r\n$4\r\nLOAD\r\n$7\r\nREPLACE\r\n")
    assert b"*5\r\n$5\r\nRPUSH\r\n$3\r\nl\r\n\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n" in output
    assert b"*3\r\n$9\r\nPEXPIREAT\r\n$1\r\nb\r\n$13\r\n9999999999999\r\n" in output
    assert output.endswith(b"*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n*2\r\n$3\r\nDEL\r\n$1\r\nh\r\n"
                           b"*4\r\n$4\r\nHSET\r\n$1\r\nh\r\n$1\r\nf\r\n$1\r\nv\r\n")  # fmt: skip


def test_as_commands_of_a_module_value() -> None:
    path = DIRECTORY / "redis-8.10.2" / "module-module-2.rdb"
    output = CliRunner().invoke(command, [str(path), "--to-commands"]).stdout_bytes
    assert b"$7\r\nRESTORE\r\n$4\r\nvset\r\n$1\r\n0\r\n" in output


def test_a_truncated_file(tmp_path: Path) -> None:
    result = run(tmp_path, SAMPLE[:-12])
    assert isinstance(result.exception, RdbError)
    assert result.exception.exit_code == 1
    assert f"truncated: the input ends after {len(SAMPLE) - 12} bytes" in str(result.exception)
    assert result.output == ""


@pytest.mark.parametrize("text", ["", "seven", "redis-7", "keydb-6.2", "7.0.15.1"])
def test_a_server_that_is_not_one(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a version such as"):
        parse_server(text)


def test_servers() -> None:
    assert str(parse_server("6.2")) == "Redis 6.2.0"
    assert str(parse_server("valkey-9.1.2")) == "Valkey 9.1.2"
