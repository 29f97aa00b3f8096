"""``redis-canal journal``: what people see of a state directory."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import pytest
import yaml

from canal.journal.journal import Journal
from canal.journal.lock import StateLock
from canal.position import Position
from canal.resp import encode
from console.cli import main as frame

A, B = "a" * 40, "b" * 40
NOON = 1_790_000_000_000  # 2026-09-21T14:13:20Z


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        frame.main(["journal", *map(str, arguments)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def write(state: Path, commands: list[list[bytes]], marks: tuple[int, ...] = (), start: int = 1000) -> list[int]:
    """A journal of ``commands``, each received a second after the one before; their offsets."""
    journal = Journal(state / "journal", segment_bytes=200, reserve_bytes=0, fsync="no", retain_bytes=0)
    journal.open()
    if not journal.positioned:
        journal.reset(Position(A, start))
    offsets = []
    db = 0
    for number, argv in enumerate(commands):
        offsets.append(journal.end)
        journal.append(encode(argv), NOON + 1000 * number)
        db = int(argv[1]) if argv[0] == b"SELECT" else db
        if number in marks:
            journal._next_mark = 0
            journal.mark(journal.end, db)
    assert journal.flush()
    journal.close()
    return offsets


COMMANDS = [
    [b"SELECT", b"3"],
    [b"SET", b"plain", b"value"],
    [b"HSET", b"key with blank", b"f", b""],
    [b"SET", b"bin\xff\x00\r\n", b"x" * 100],
    [b"select", b"0"],
    [b"MSET", *(b"%d" % number for number in range(20))],
    [b"DEL", b"plain"],
]


def test_cat_shows_offset_time_database_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, COMMANDS)
    assert run("cat", tmp_path, "--from", 1000) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{offsets[0]}  2026-09-21T14:13:20.000Z  db 3  SELECT 3",
        f"{offsets[1]}  2026-09-21T14:13:21.000Z  db 3  SET plain value",
        f'{offsets[2]}  2026-09-21T14:13:22.000Z  db 3  HSET "key with blank" f ""',
        f"{offsets[3]}  2026-09-21T14:13:23.000Z  db 3  SET bin\\xff\\x00\\x0d\\x0a {'x' * 40}…",
        f"{offsets[4]}  2026-09-21T14:13:24.000Z  db 0  select 0",
        f"{offsets[5]}  2026-09-21T14:13:25.000Z  db 0  MSET 0 1 2 3 4 5 6 … 13 more",
        f"{offsets[6]}  2026-09-21T14:13:26.000Z  db 0  DEL plain",
    ]


def test_cat_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, COMMANDS)
    assert run("cat", tmp_path, "--from", offsets[1] - 3, "--to", offsets[3], "-o", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["offset"] for row in rows] == offsets[1:3]
    assert rows[0] == {
        "offset": offsets[1],
        "end": offsets[2],
        "received": "2026-09-21T14:13:21.000Z",
        "db": 3,
        "keys": ["plain"],
        "command": ["SET", "plain", "value"],
    }


def test_cat_of_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, COMMANDS)
    assert run("cat", tmp_path, "--from", 1000, "--key", "plain", "-o", "yaml") == 0
    assert [row["offset"] for row in yaml.safe_load(capsys.readouterr().out)] == [offsets[1], offsets[6]]
    assert run("cat", tmp_path, "--from", 1000, "--key", "bin\\xff\\x00\\x0d\\x0a", "-o", "wide") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{offsets[3]}  ")
    assert out.rstrip().endswith("x" * 100)
    assert run("cat", tmp_path, "--from", 1000, "--limit", 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run("cat", tmp_path, "--from", 1000, "--key", "\\xzz") == 2
    assert "two hex digits" in capsys.readouterr().err


def test_cat_begins_at_a_mark_with_its_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When the beginning of the stream has been released, marks tell where commands begin and in which database."""
    offsets = write(tmp_path, COMMANDS, marks=(2, 3))
    journal = Journal(tmp_path / "journal", segment_bytes=200, reserve_bytes=0, fsync="no", retain_bytes=0)
    journal._limits = type(journal._limits)(200, 0, 0, 0, 0)
    journal.open()
    journal.release(offsets[4])
    journal.flush()
    start = journal.start
    journal.close()
    assert offsets[2] < start <= offsets[4]
    assert run("cat", tmp_path, "--from", start) == 0
    out, err = capsys.readouterr()
    first = offsets[4] if start > offsets[3] else offsets[3]
    if start < first:
        assert err == f"no command boundary is known before {first}: beginning there\n"
    assert out.splitlines()[0].startswith(f"{first}  ")
    assert run("cat", tmp_path, "--from", offsets[0]) == 2
    assert capsys.readouterr().err == (
        f"redis-canal: error: offset {offsets[0]} is not in the journal, which has {start}..{offsets[6] + 24}\n"
    )


def test_cat_takes_the_database_from_the_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, [[b"SELECT", b"7"], *([b"INCR", b"n"] for _ in range(60))], marks=(30,))
    for path in sorted((tmp_path / "journal").glob("*.*"))[:2]:
        path.unlink()  # the segment with the SELECT
    assert run("cat", tmp_path, "--from", offsets[31], "--limit", 1) == 0
    assert capsys.readouterr().out == f"{offsets[31]}  2026-09-21T14:13:51.000Z  db 7  INCR n\n"


@pytest.mark.slow
def test_cat_reads_commands_longer_than_a_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = os.urandom(5 << 18)
    offsets = write(tmp_path, [[b"SET", b"big", value], [b"DEL", b"big"]])
    assert run("cat", tmp_path, "--from", 1000, "-o", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["offset"], row["end"]) for row in rows] == [(1000, offsets[1]), (offsets[1], offsets[1] + 22)]


def test_cat_leaves_an_incomplete_command_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, COMMANDS[:2])
    journal = Journal(tmp_path / "journal", reserve_bytes=0)
    journal.open()
    journal.append(encode(COMMANDS[3])[:60], NOON)
    journal.close()
    assert run("cat", tmp_path, "--from", 1000) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_cat_says_where_there_are_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, COMMANDS[:1])
    journal = Journal(tmp_path / "journal", reserve_bytes=0)
    journal.open()
    where = journal.end
    journal.append(b"no commands at all, but a long text", NOON)
    journal.close()
    assert run("cat", tmp_path, "--from", 1000) == 1
    err = capsys.readouterr().err
    assert "the journal does not hold commands here: expected a command (*<count>" in err
    assert "got b'no comm" in err
    assert f"(at offset {where})" in err


def test_ls_lists_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, COMMANDS)
    assert run("ls", tmp_path, "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["start"] == 1000
    assert rows[-1]["end"] == offsets[-1] + 24
    assert all(row["end"] == after["start"] for row, after in itertools.pairwise(rows))
    assert {row["replid"] for row in rows} == {A}
    assert run("ls", tmp_path / "journal") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["START", "END", "BYTES", "RECORDS", "RECEIVED", "REPLID"]
    assert len(out) == len(rows) + 1


def test_verify_finds_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offsets = write(tmp_path, COMMANDS)
    assert run("verify", tmp_path) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[1].split()[:2] == ["1000", str(offsets[-1] + 24)]
    first = min((tmp_path / "journal").glob("*.log"))
    data = bytearray(first.read_bytes())
    data[30] ^= 1
    first.write_bytes(data)
    before = {path.name: path.read_bytes() for path in first.parent.iterdir()}
    assert run("verify", tmp_path, "-o", "json") == 3
    out, err = capsys.readouterr()
    assert f"the chunk {offsets[1]}..{offsets[2]} does not have its checksum" in err
    assert json.loads(out)[0]["start"] == 1000
    assert {path.name: path.read_bytes() for path in first.parent.iterdir()} == before


def test_a_daemon_at_work_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, COMMANDS)
    with StateLock(tmp_path):
        assert run("verify", tmp_path) == 0
    assert capsys.readouterr().err.startswith(f"process {os.getpid()} is writing this journal")


def test_verify_while_the_journal_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "journal", segment_bytes=20_000, reserve_bytes=0, fsync="no")
    journal.open()
    journal.reset(Position(A, 0))
    assert journal.flush()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        for _ in range(20):
            journal.append(encode([b"INCR", b"counter"]) * 50, NOON)
        code = run("verify", tmp_path)
        err = capsys.readouterr().err
        assert code == 0 or "after offset" in err
    journal.close()
    assert run("verify", tmp_path) == 0


def test_several_journals_have_to_be_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "one", COMMANDS)
    assert run("ls", tmp_path) == 0
    write(tmp_path / "two", COMMANDS)
    capsys.readouterr()
    assert run("ls", tmp_path) == 2
    assert capsys.readouterr().err == (
        f"redis-canal: error: {tmp_path} has several journals, name one: "
        f"{tmp_path}/one/journal, {tmp_path}/two/journal\n"
    )


def test_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", tmp_path) == 2
    assert "there is no journal in" in capsys.readouterr().err
