"""Every kind of damage, made on real files: recognised, reported with offsets, and never answered with wrong data."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from canal.errors import StateError
from canal.journal.chunk import JournalDamaged
from canal.journal.index import HEADER_SIZE, RECORD_SIZE
from canal.journal.journal import Journal
from canal.journal.recovery import Recovery, survey
from canal.journal.state import STATE_NAME
from canal.position import Position

A, B = "a" * 40, "b" * 40
START = 10_000
CHUNK = 100
"""Bytes of each chunk in the journals made here; ten to a segment."""
DATA = b"".join(b"%099d\n" % number for number in range(50))
END = START + len(DATA)


def make(directory: Path, replid: str = A) -> Journal:
    """A journal of five segments, 10,000..15,000, a chunk every 100 bytes."""
    journal = Journal(directory, segment_bytes=1000, reserve_bytes=0, fsync="no")
    journal.open()
    journal.reset(Position(replid, START))
    for number in range(50):
        journal.append(DATA[number * CHUNK : (number + 1) * CHUNK], 1000 + 100 * number)
    return journal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    journal = make(tmp_path / "journal")
    journal.close()
    assert sorted(path.name for path in journal.directory.glob("*.log")) == [
        f"{first:020d}.log" for first in range(START, END, 1000)
    ]
    return journal.directory


def log(directory: Path, first: int) -> Path:
    return directory / f"{first:020d}.log"


def idx(directory: Path, first: int) -> Path:
    return directory / f"{first:020d}.idx"


def flip(path: Path, at: int, bit: int = 4) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))


def recover(directory: Path) -> tuple[Journal, Recovery]:
    journal = Journal(directory, segment_bytes=1000, reserve_bytes=0, fsync="no")
    return journal, journal.open()


def content(journal: Journal, start: int, end: int) -> bytes:
    cursor = journal.cursor()
    out = b""
    while start + len(out) < end:
        out += b"".join(chunk.data for chunk in cursor.read(start + len(out), 450))
    cursor.forget()
    return out


def check(directory: Path, start: int, end: int, damages: list[str]) -> None:
    """Recovery finds exactly this; all of it reads right; appending goes on there; the next opening has no complaint
    but for bytes that are gone for good."""
    assert survey(directory, everything=True).damages == damages  # what `journal verify` says
    journal, found = recover(directory)
    assert (found.start, found.end, found.damages) == (start, end, damages)
    assert (journal.start, journal.end, journal.durable_end) == (start, end, end)
    expected = DATA[start - START : end - START]
    assert content(journal, start, end) == expected
    journal.append(b"and on", 1)
    journal.flush()
    assert content(journal, start, end + 6) == expected + b"and on"
    journal.close()
    journal, found = recover(directory)
    assert (found.start, found.end, found.damages) == (start, end + 6, [])
    assert content(journal, start, end + 6) == expected + b"and on"
    journal.close()


def test_sound(directory: Path) -> None:
    check(directory, START, END, [])


def test_torn_last_chunk(directory: Path) -> None:
    os.truncate(log(directory, 14000), 960)
    check(
        directory,
        START,
        14900,
        ["00000000000000014000.log: a torn write left 60 bytes of the chunk 14900..15000"],
    )


def test_bytes_without_their_record(directory: Path) -> None:
    with log(directory, 14000).open("ab") as file:
        file.write(b"half a ch")
    check(directory, START, END, ["00000000000000014000.log: a torn write left 9 bytes after offset 15000"])


def test_half_a_record(directory: Path) -> None:
    os.truncate(idx(directory, 14000), HEADER_SIZE + 10 * RECORD_SIZE - 5)
    check(directory, START, 14900, ["00000000000000014000.log: a torn write left 100 bytes after offset 14900"])


def test_part_of_a_record_more(directory: Path) -> None:
    with idx(directory, 14000).open("ab") as file:
        file.write(b"\1\2\3")
    check(directory, START, END, ["00000000000000014000.idx: a torn write left part of a record after offset 15000"])


def test_zeros_instead_of_the_last_chunks(directory: Path) -> None:
    """What a file system may leave after a power loss: sizes are right, the content never came."""
    with log(directory, 14000).open("r+b") as file:
        file.seek(700)
        file.write(bytes(300))
    check(directory, START, 14700, ["00000000000000014000.log: zeros instead of the chunk 14700..14800"])


def test_zeros_within_a_chunk(directory: Path) -> None:
    with log(directory, 14000).open("r+b") as file:
        file.seek(750)
        file.write(bytes(250))
    check(
        directory,
        START,
        14700,
        ["00000000000000014000.log: zeros instead of bytes 14750..14800 of the chunk 14700..14800"],
    )


def test_zeros_instead_of_records(directory: Path) -> None:
    with idx(directory, 14000).open("r+b") as file:
        file.seek(HEADER_SIZE + 4 * RECORD_SIZE)
        file.write(bytes(6 * RECORD_SIZE))
    check(directory, START, 14400, ["00000000000000014000.idx: zeros instead of records after offset 14400"])


def test_zeros_after_everything(directory: Path) -> None:
    for path in (log(directory, 14000), idx(directory, 14000)):
        with path.open("ab") as file:
            file.write(bytes(4096))
    check(directory, START, END, ["00000000000000014000.idx: zeros instead of records after offset 15000"])


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bit_in_the_last_segments(directory: Path, bit: int) -> None:
    flip(log(directory, 14000), 350, 1 << bit)
    check(
        directory,
        START,
        14300,
        ["00000000000000014000.log: the chunk 14300..14400 does not have its checksum"],
    )


@pytest.mark.parametrize("field", range(RECORD_SIZE))
def test_flipped_bit_in_a_record(directory: Path, field: int) -> None:
    """Whichever byte of a record is damaged, offset, time, length or checksum: the chunk does not count."""
    flip(idx(directory, 14000), HEADER_SIZE + 3 * RECORD_SIZE + field)
    journal, found = recover(directory)
    assert (found.start, found.end) == (START, 14300)
    assert len(found.damages) == 1
    assert "1430" in found.damages[0] or "14300" in found.damages[0]
    assert content(journal, START, 14300) == DATA[:4300]
    journal.close()


def test_flipped_bit_in_the_middle_is_met_by_the_reader(directory: Path) -> None:
    """Not looked for at every start, but never handed out: the reader stops before it and says where it is."""
    flip(log(directory, 11000), 550)
    assert survey(directory, everything=True).damages == [
        "00000000000000011000.log: the chunk 11500..11600 does not have its checksum",
        "bytes 11500..12000 are missing from the journal",
    ]
    journal, found = recover(directory)
    assert (found.start, found.end, found.damages) == (START, END, [])
    assert content(journal, START, 11500) == DATA[:1500]
    cursor = journal.cursor()
    with pytest.raises(JournalDamaged, match=r"the chunk 11500\.\.11600 does not have its checksum") as caught:
        cursor.read(11520, 1000)
    assert (caught.value.start, caught.value.end) == (11500, 11600)
    assert content(journal, 11600, END) == DATA[1600:]
    journal.truncate(caught.value.start)
    journal.append(b"from the source", 1)
    journal.flush()
    assert content(journal, START, journal.end) == DATA[:1500] + b"from the source"
    journal.close()


def test_cut_inside_a_damaged_chunk_begins_anew(directory: Path) -> None:
    """A chunk that has to be split and is damaged takes what is before it along, rather than let it through."""
    journal, _ = recover(directory)
    flip(log(directory, 14000), 350)
    journal.truncate(14320)
    journal.append(b"on", 1)
    journal.flush()
    assert (journal.start, journal.end) == (14320, 14322)
    assert content(journal, 14320, 14322) == b"on"
    journal.close()


def test_segment_removed_by_hand(directory: Path) -> None:
    log(directory, 12000).unlink()
    idx(directory, 12000).unlink()
    check(directory, 13000, END, ["bytes 12000..13000 are missing from the journal"])


def test_only_the_bytes_removed_by_hand(directory: Path) -> None:
    log(directory, 12000).unlink()
    check(
        directory,
        13000,
        END,
        [
            "00000000000000012000.log is missing: the bytes from offset 12000 on were removed",
            "bytes 12000..13000 are missing from the journal",
        ],
    )


def test_index_missing(directory: Path) -> None:
    idx(directory, 12000).unlink()
    check(
        directory,
        13000,
        END,
        [
            "00000000000000012000.idx is missing: 1000 bytes from offset 12000 on cannot be checked and are not used",
            "bytes 12000..13000 are missing from the journal",
        ],
    )


def test_index_of_the_last_segment_missing(directory: Path) -> None:
    idx(directory, 14000).unlink()
    check(
        directory,
        START,
        14000,
        ["00000000000000014000.idx is missing: 1000 bytes from offset 14000 on cannot be checked and are not used"],
    )


@pytest.mark.parametrize("size", [0, 1, HEADER_SIZE - 1])
def test_truncated_header(directory: Path, size: int) -> None:
    os.truncate(idx(directory, 14000), size)
    check(
        directory,
        START,
        14000,
        ["00000000000000014000.idx: damaged header: 1000 bytes from offset 14000 on are not used"],
    )


@pytest.mark.parametrize("at", [0, 8, 16, 24, 40, 60, HEADER_SIZE - 1])
def test_damaged_header(directory: Path, at: int) -> None:
    flip(idx(directory, 14000), at)
    check(
        directory,
        START,
        14000,
        ["00000000000000014000.idx: damaged header: 1000 bytes from offset 14000 on are not used"],
    )


def test_crash_while_a_segment_was_made_is_no_damage(directory: Path) -> None:
    log(directory, 15000).touch()
    check(directory, START, END, [])


def test_crash_while_the_header_was_written_is_no_damage(directory: Path) -> None:
    log(directory, 15000).touch()
    idx(directory, 15000).write_bytes(b"RCJ")
    check(directory, START, END, [])


def test_torn_end_and_an_empty_segment_after_it(directory: Path) -> None:
    """The empty one is not the journal only because it is newer."""
    journal, _ = recover(directory)
    journal.append(b"x", 1)
    journal.flush()
    journal.close()
    os.truncate(idx(directory, 15000), HEADER_SIZE)
    os.truncate(log(directory, 15000), 0)
    os.truncate(log(directory, 14000), 960)
    check(
        directory,
        START,
        14900,
        ["00000000000000014000.log: a torn write left 60 bytes of the chunk 14900..15000"],
    )


def test_segment_of_another_journal_mixed_in(directory: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", B)
    other.close()
    for path in (log, idx):
        shutil.copy(path(other.directory, 12000), path(directory, 12000))
    check(
        directory,
        13000,
        END,
        [
            f"00000000000000012000.log belongs to another journal (its header says {B}:12000): not used",
            "bytes 12000..13000 are missing from the journal",
        ],
    )


def test_segment_under_a_wrong_name(directory: Path) -> None:
    for path in (log, idx):
        path(directory, 12000).replace(path(directory, 12500))
    check(
        directory,
        13000,
        END,
        [
            f"00000000000000012500.log belongs to another journal (its header says {A}:12000): not used",
            "bytes 12000..13000 are missing from the journal",
        ],
    )


def test_segment_of_a_replid_that_the_journal_never_had(directory: Path) -> None:
    value = json.loads((directory / STATE_NAME).read_bytes())
    (directory / STATE_NAME).write_text(json.dumps(value | {"replids": [[B, START]]}))
    journal, found = recover(directory)
    assert found.damages[0] == (
        f"00000000000000010000.log is of replid {A}, which this journal has not at 10000: not used"
    )
    assert not journal.positioned
    assert not journal.covers(Position(B, 12000))
    journal.close()


def test_overlapping_segments(directory: Path) -> None:
    """As an older copy restored over a newer journal would leave them."""
    journal, _ = recover(directory)
    journal.truncate(14500)
    journal.continue_as(B)
    journal.append(b"y" * 10, 1)
    journal.flush()
    journal.close()
    shutil.copy(log(directory, 14000), directory / "keep.log")
    log(directory, 14000).write_bytes(DATA[4000:])
    with_all = Journal(directory.parent / "twin", segment_bytes=1000, reserve_bytes=0, fsync="no")
    state = json.loads((directory / STATE_NAME).read_bytes())
    with_all.open()
    with_all.reset(Position(A, 14000))
    for number in range(40, 50):
        with_all.append(DATA[number * CHUNK : (number + 1) * CHUNK], 1000 + 100 * number)
    with_all.flush()
    with_all.close()
    own = json.loads((with_all.directory / STATE_NAME).read_bytes())
    raw = idx(with_all.directory, 14000).read_bytes()
    forged = raw.replace(bytes.fromhex(own["id"]), bytes.fromhex(state["id"]))
    crc = zlib.crc32(forged[: HEADER_SIZE - 4]).to_bytes(4, "little")
    idx(directory, 14000).write_bytes(forged[: HEADER_SIZE - 4] + crc + forged[HEADER_SIZE:])
    journal, found = recover(directory)
    assert found.damages == ["00000000000000014500.log overlaps the bytes up to offset 15000: not used"]
    assert content(journal, START, END) == DATA
    journal.close()


@pytest.mark.parametrize(
    ("content_", "why"),
    [
        (b"", "is not a journal's state (Expecting value"),
        (b"{}", "is not a journal's state ('format')"),
        (b'{"format": 1, "id": "00", "replids": []}', "is not a journal's state (id '00')"),
        (
            b'{"format": 1, "id": "%s", "replids": [["%s", 5], ["%s", 4]]}' % (b"0" * 32, b"a" * 40, b"b" * 40),
            "is not a journal's state (offsets of its replids fall)",
        ),
        (b'{"format": 1, "id": "%s", "replids": [["xx", 5]]}' % (b"0" * 32), "is not a journal's state (expected <40"),
    ],
)
def test_state_that_cannot_be_used(directory: Path, content_: bytes, why: str) -> None:
    (directory / STATE_NAME).write_bytes(content_)
    journal, found = recover(directory)
    assert len(found.damages) == 1
    assert why in found.damages[0]
    assert found.damages[0].endswith("whose stream the journal holds is not known, nothing in it is used")
    assert not journal.positioned
    journal.reset(Position(B, 5))
    journal.flush()
    assert list(directory.glob("*.rejected")) == []
    journal.close()


def test_state_missing(directory: Path) -> None:
    (directory / STATE_NAME).unlink()
    journal, found = recover(directory)
    assert found.damages == [
        f"{directory / STATE_NAME} is missing: whose stream the journal holds is not known, nothing in it is used"
    ]
    assert not journal.positioned
    assert len(list(directory.glob("*.rejected"))) == 10  # set aside, not deleted
    journal.close()


def test_state_of_another_journal(directory: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", B)
    other.close()
    shutil.copy(other.directory / STATE_NAME, directory / STATE_NAME)
    journal, found = recover(directory)
    assert len(found.damages) == 5
    assert not journal.positioned
    journal.close()


@pytest.mark.parametrize("where", ["state", "index"])
def test_newer_format_is_refused(directory: Path, where: str) -> None:
    if where == "state":
        value = json.loads((directory / STATE_NAME).read_bytes())
        (directory / STATE_NAME).write_text(json.dumps(value | {"format": 7}))
    else:
        raw = bytearray(idx(directory, 13000).read_bytes())
        raw[8] = 7
        raw[HEADER_SIZE - 4 : HEADER_SIZE] = zlib.crc32(raw[: HEADER_SIZE - 4]).to_bytes(4, "little")
        idx(directory, 13000).write_bytes(raw)
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(StateError, match=r"has format 7, this redis-canal knows up to 1: .*; use that one, or delete"):
        recover(directory)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"journal directory .* cannot be created \(Not a directory\)"):
        Journal(tmp_path / "file" / "journal").open()


def test_older_run_serves_an_older_checkpoint(directory: Path) -> None:
    log(directory, 12000).unlink()
    journal, found = recover(directory)
    assert found.runs == [(10000, 12000), (13000, 15000)]
    assert journal.adopt(Position(A, 13500))
    assert journal.start == 13000
    assert not journal.adopt(Position(A, 12500))
    assert not journal.adopt(Position(B, 11000))
    assert journal.adopt(Position(A, 11000))
    assert (journal.start, journal.end, journal.position) == (10000, 12000, Position(A, 12000))
    journal.append(b"from the source", 1)
    journal.flush()
    assert content(journal, 10000, 12015) == DATA[:2000] + b"from the source"
    journal.close()
    journal, found = recover(directory)
    assert (found.runs, found.damages) == ([(10000, 12015)], [])
    journal.close()


def test_first_change_gives_the_older_run_up(directory: Path) -> None:
    log(directory, 12000).unlink()
    journal, _ = recover(directory)
    journal.append(b"x", 1)
    assert not journal.adopt(Position(A, 11000))
    journal.close()


@pytest.mark.parametrize("change", ["truncate", "continue", "reset"])
def test_other_changes_too(directory: Path, change: str) -> None:
    log(directory, 12000).unlink()
    journal, _ = recover(directory)
    calls: dict[str, Callable[[], None]] = {
        "truncate": lambda: journal.truncate(14000),
        "continue": lambda: journal.continue_as(B),
        "reset": lambda: journal.reset(Position(B, 1)),
    }
    calls[change]()
    assert not journal.adopt(Position(A, 11000))
    journal.close()


def test_what_was_set_aside_goes_when_its_offsets_are_released(directory: Path) -> None:
    idx(directory, 12000).unlink()
    journal = Journal(directory, segment_bytes=1000, reserve_bytes=0, fsync="no", retain_bytes=0, retain_seconds=0)
    journal.open()
    rejected = directory / "00000000000000012000.log.rejected"
    assert rejected.exists()
    journal.append(b"x", 1)
    journal.release(13900)
    assert journal.flush()
    assert rejected.exists()  # the segment at 13000 is still needed, and nothing was deleted
    journal.release(14500)
    assert journal.flush()
    assert journal.start == 14000
    assert not rejected.exists()
    journal.close()
