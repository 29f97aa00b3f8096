"""Runs of ordinary keys as commands: the same that the reader's own events say, however the bytes are cut."""

from __future__ import annotations

import functools
import importlib.util
import random
import struct
import time
from array import array
from typing import Any

import hiredis
import pytest

import canal.rdb.plain
from canal.errors import RdbError
from canal.rdb.dump import crc64, decode_string
from canal.rdb.events import Event, Key, PlainRun
from canal.rdb.plain import SET, SHAPES, PlainKeys, unpack
from canal.rdb.reader import RdbReader
from canal.rdb.wire import Malformed
from sync.keyset import KeySet
from tests.support.effort import share
from tests.support.golden import FILES, NAMES
from tests.support.process import ROOT
from tests.support.rdb_build import key, length, little, lzf_literal, rdb, select, string

ALL = bytes(SHAPES.get(number, 0) for number in range(256))
FAR = int(time.time() * 1000) + 10**9


def plain(python: bool = False, **changes: Any) -> PlainKeys:
    """What a run may hold. ``python``: by the module's source, whether or not it is compiled."""
    options: dict[str, Any] = {
        "shapes": ALL, "version": 10, "pxat": True, "reserved": b"redis-canal:", "buckets": None, "skip_to": 0,
        "grace_ms": 10_000, "max_keys": 1000, "max_bytes": 1 << 18, "max_value": 1 << 20,
    }  # fmt: skip
    made: PlainKeys = (as_source() if python else canal.rdb.plain).PlainKeys(**{**options, **changes})
    return made


@functools.cache
def as_source() -> Any:
    spec = importlib.util.spec_from_file_location("plain_as_source", ROOT / "canal/rdb/plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.compiled()
    return module


def read(data: bytes, piece: int, made: PlainKeys | None, **options: Any) -> list[Event]:
    reader = RdbReader(**options)
    found = reader.feed(data[:9])
    reader.plain = made
    for at in range(9, len(data), piece):
        found += reader.feed(data[at : at + piece])
    reader.finish()
    return found


def commands(raw: bytes) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(raw)
    found = []
    while (argv := reader.gets()) is not False:
        found.append(argv)
    return found


def expected(found: Key, version: int = 10) -> list[bytes]:
    """The command that makes a key, said another way than the product says it."""
    floor = int(time.time() * 1000) + 10_000
    deadline = None if found.expire_ms is None else max(found.expire_ms, floor)
    if SHAPES[found.type] == SET and found.idle is None and found.freq is None:
        tail = [] if deadline is None else [b"PXAT", b"%d" % deadline]
        return [b"SET", found.key, decode_string(found.value), *tail]
    body = bytes([found.type]) + found.value + version.to_bytes(2, "little")
    argv = [b"RESTORE", found.key, b"%d" % (deadline or 0), body + crc64(body).to_bytes(8, "little"), b"REPLACE"]
    argv += [b"ABSTTL"] if deadline else []
    if found.idle is not None:
        return [*argv, b"IDLETIME", b"%d" % found.idle]
    return argv if found.freq is None else [*argv, b"FREQ", b"%d" % found.freq]


def same(got: list[bytes], wanted: list[bytes]) -> bool:
    """Equal, but for the milliseconds that pass between two looks at the clock."""
    if len(got) != len(wanted):
        return False
    return all(
        one == other or (one.isdigit() and other.isdigit() and abs(int(one) - int(other)) < 5000 and len(one) > 10)
        for one, other in zip(got, wanted, strict=True)
    )


def check(data: bytes, piece: int, **options: Any) -> int:
    """Everything in a run is what the reader alone tells, in order; the number of keys in runs."""
    wanted = [event for event in read(data, piece, None) if isinstance(event, Key)]
    ran = 0
    for event in read(data, piece, plain(**options)):
        if isinstance(event, Key):
            assert event == wanted.pop(0)
        elif isinstance(event, PlainRun):
            ran += event.keys
            told = commands(event.raw)
            assert len(told) == event.commands == event.keys
            for argv in told:
                one = wanted.pop(0)
                assert event.db == one.db
                assert same(argv, expected(one)), (argv, expected(one))
            assert event.end == one.end
    assert wanted == []
    return ran


@pytest.mark.parametrize("path", FILES, ids=NAMES)
@pytest.mark.parametrize("piece", [13, 1 << 20])
def test_golden_dumps_say_the_same_with_and_without_runs(path: Any, piece: int) -> None:
    check(path.read_bytes(), piece)


def stream(kind: int, groups: int) -> bytes:
    """A stream as its type has it, with lengths of every form; what its nodes hold is of no matter here."""
    identity = length(1_700_000_000_000) + length(5)
    nodes = length(2) + (string(b"\0" * 16) + string(b"node" * 30)) * 2
    counters = length(70_000) + identity + (b"" if kind == 15 else identity * 2 + length(100))
    pending = length(3) + (b"p" * 16 + b"t" * 8 + length(300)) * 3
    consumer = string(b"somebody") + b"s" * 8 + (b"a" * 8 if kind == 21 else b"") + length(2) + b"p" * 32
    read = b"" if kind == 15 else length((1 << 64) - 1)
    group = string(b"group") + identity + read + pending + length(2) + consumer * 2
    return nodes + counters + length(groups) + group * groups


def ordinary() -> bytes:
    """Every form of length, string, attribute and value that a run can hold."""
    text = b"some text " * 3
    ints = [
        b"\xc0\xfb",
        b"\xc1" + little(-3000, 2),
        b"\xc2" + little(2**31 - 1, 4),
        b"\xc0\x7f",
        b"\xc2" + little(-1, 4),
    ]
    records = [key(0, b"k%d" % number, value) for number, value in enumerate(ints)]
    records += [
        key(0, b"long", string(b"v" * 100)),
        key(0, b"n" * 100, string(b"")),
        key(0, b"", string(b"x" * 20_000)),
    ]
    records += [key(0, b"n" * 17_000, string(b"v")), key(0, b"packed", lzf_literal(text))]
    records += [key(0, b"four", b"\x80\x00\x00\x00\x03abc")]
    records += [key(kind, b"blob%d" % kind, string(text)) for kind in (9, 10, 11, 12, 13, 16, 17, 20)]
    records += [
        key(kind, b"list%d" % kind, length(3) + string(b"a") + lzf_literal(text) + b"\xc0\x01") for kind in (1, 2, 14)
    ]
    records += [key(4, b"hash", length(100) + b"".join(string(b"f%d" % n) + string(text) for n in range(100)))]
    records += [
        key(5, b"zset", length(2) + string(b"m") + struct.pack("<d", 1.5) + string(b"n") + struct.pack("<d", -0.0))
    ]
    records += [key(18, b"quick", length(2) + length(2) + string(text) + length(1) + string(b"x" * 70))]
    records += [key(kind, b"stream%d" % kind, stream(kind, groups)) for kind in (15, 19, 21) for groups in (0, 2)]
    timed = [b"\xfc" + little(FAR, 8), b"\xfd" + little(FAR // 1000, 4), b"\xf8" + length(77), b"\xf9\x05"]
    timed += [b"\xfc" + little(1, 8), b"\xfc" + little(FAR, 8) + b"\xf8" + length(20_000), b"\xfc" + little(0, 8)]
    records += [lead + key(kind, b"t%d" % kind + lead, string(text)) for lead in timed for kind in (0, 16)]
    return rdb(select(0), *records, select(9), *records, version=10)


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 1 << 20])
def test_every_form_of_ordinary_keys(piece: int, python: bool) -> None:
    ran = check(ordinary(), piece, python=python)
    if piece == 1 << 20:
        assert ran == len([event for event in read(ordinary(), piece, None) if isinstance(event, Key)])


def test_what_is_not_ordinary_is_left_to_the_reader() -> None:
    data = rdb(
        select(0), key(0, b"redis-canal:checkpoint:x", string(b"1")), key(0, b"big", string(b"v" * 300)),
        key(3, b"old", length(1) + string(b"m") + b"\x031.5"), b"\xfa" + string(b"aux") + string(b"v"),
        key(0, b"plain", string(b"v")), version=10,
    )  # fmt: skip
    found = read(data, 1 << 20, plain(max_value=200))
    assert [event.key for event in found if isinstance(event, Key)] == [b"redis-canal:checkpoint:x", b"big", b"old"]
    assert [commands(event.raw) for event in found if isinstance(event, PlainRun)] == [[[b"SET", b"plain", b"v"]]]


def test_runs_are_cut_by_keys_and_bytes() -> None:
    data = rdb(select(0), *(key(0, b"k%d" % number, string(b"v" * 50)) for number in range(100)), version=10)
    runs = [event for event in read(data, 1 << 20, plain(max_keys=7)) if isinstance(event, PlainRun)]
    assert [run.keys for run in runs] == [7] * 14 + [2]
    runs = [event for event in read(data, 1 << 20, plain(max_bytes=500)) if isinstance(event, PlainRun)]
    assert max(len(run.raw) for run in runs) < 700
    assert sum(run.keys for run in runs) == 100


def test_keys_already_applied_are_counted_only_and_still_remembered() -> None:
    data = rdb(select(3), *(key(0, b"k%d" % number, string(b"v")) for number in range(100)), version=10)
    ends = [event.end for event in read(data, 1 << 20, None) if isinstance(event, Key)]
    for piece in (1 << 20, 50):
        keys = KeySet()
        runs = [
            event for event in read(data, piece, plain(skip_to=ends[29], buckets=keys.buckets))
            if isinstance(event, PlainRun)
        ]  # fmt: skip
        assert sum(run.passed for run in runs) == 30
        assert [argv[1] for run in runs for argv in commands(run.raw)] == [b"k%d" % number for number in range(30, 100)]
        assert keys.missing(3, [b"k%d" % number for number in range(101)]) == [b"k100"]


@pytest.mark.parametrize("python", [False, True])
def test_keys_with_a_deadline_are_left_alone_where_each_has_to_be_seen(python: bool) -> None:
    timed = b"\xfc" + little(FAR, 8) + key(0, b"timed", string(b"v"))
    data = rdb(select(0), key(0, b"k", string(b"v")), timed, key(0, b"l", string(b"v")), version=10)
    found = read(data, 1 << 20, plain(python, grace_ms=-1))
    assert [event.key for event in found if isinstance(event, Key)] == [b"timed"]
    assert [event.keys for event in found if isinstance(event, PlainRun)] == [1, 1]


def test_old_targets_get_the_deadline_by_a_second_command() -> None:
    data = rdb(select(0), b"\xfc" + little(FAR, 8) + key(0, b"k", string(b"v")), version=10)
    (run,) = [event for event in read(data, 1 << 20, plain(pxat=False)) if isinstance(event, PlainRun)]
    assert commands(run.raw) == [[b"SET", b"k", b"v"], [b"PEXPIREAT", b"k", b"%d" % FAR]]
    assert (run.keys, run.commands) == (1, 2)


@pytest.mark.parametrize("python", [False, True])
def test_damaged_bytes_are_an_error_with_and_without_runs(python: bool) -> None:
    """What a run steps over is only what the reader would have taken too."""
    chance, whole = random.Random(5), ordinary()
    for _ in range(share(300)):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(9, len(data))] = chance.randrange(256)
        outcomes = []
        for made in (None, plain(python)):
            try:
                found = read(bytes(data), 4096, made)
                outcomes.append(
                    str(sum(getattr(event, "keys", 1) for event in found if isinstance(event, Key | PlainRun)))
                )
            except RdbError:
                outcomes.append("error")
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("packed", "size"), [(b"", 0), (b"\x00a", 0), (b"\x00a", 2), (b"\xff\xff", 9), (b"\x00a", 10**9)]
)
def test_text_that_is_not_lzf_is_malformed(packed: bytes, size: int) -> None:
    with pytest.raises(Malformed):
        unpack(packed, size)


def test_hashes_agree_with_those_of_the_key_set() -> None:
    keys = KeySet()
    other = KeySet()
    data = rdb(select(2), *(key(0, b"k%d" % number, string(b"v")) for number in range(500)), version=10)
    read(data, 1 << 20, plain(buckets=keys.buckets))
    for number in range(500):
        other.add(2, b"k%d" % number)
    assert keys.buckets == other.buckets
    assert all(isinstance(bucket, array) for bucket in keys.buckets)
