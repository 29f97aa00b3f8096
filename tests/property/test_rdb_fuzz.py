"""Broken files: truncated at every byte, with flipped bytes, made up. Each is decoded, or refused with an RdbError and
an offset; never another exception, a hang (the test's timeout) or memory beyond 100 MB.
"""

from __future__ import annotations

import random
import resource
from pathlib import Path

import anycrc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canal.errors import RdbError
from canal.rdb.commands import BigKey, key_commands
from canal.rdb.decode import decode
from canal.rdb.events import Event, Key, KeyEnd, KeyStart, ValuePart
from canal.rdb.reader import RdbReader
from canal.rdb.summary import Summary
from canal.rdb.target import NotLoadable, Target
from canal.rdb.types import GRAMMAR
from tests.support.effort import examples, share, stride
from tests.support.golden import DIRECTORY, FILES, NAMES
from tests.support.rdb_build import rdb, string

TARGET = Target.of("redis", "8.10.2")
MEMORY_BYTES = 100 << 20


def swallow(data: bytes, piece: int = 1 << 16, stream_above: int = 1 << 26) -> RdbError | None:
    """Read it all and look into every value in every way there is; the error that ended it, if one did."""
    before = _peak()
    reader = RdbReader(stream_above=stream_above)
    summary = Summary()
    try:
        for at in range(0, len(data), piece):
            _look_into(reader, reader.feed(data[at : at + piece]), summary)
        reader.finish()
    except RdbError as error:
        assert 0 <= error.offset <= len(data), error
        return error
    finally:
        assert _peak() - before < MEMORY_BYTES
    return None


def _look_into(reader: RdbReader, events: list[Event], summary: Summary) -> None:
    big: BigKey | None = None
    for event in events:
        try:
            summary.add(event)
            if isinstance(event, Key):
                decode(event.type, event.value, reader.flavor, event.fields, event.key)
                _drain(key_commands(event, TARGET, flavor=reader.flavor))
            elif isinstance(event, KeyStart):
                big = BigKey(event, TARGET, b"tmp", flavor=reader.flavor)
            elif isinstance(event, ValuePart) and big is not None:
                _drain(big.part(event))
            elif isinstance(event, KeyEnd) and big is not None:
                _drain(big.end())
        except NotLoadable:
            continue


def _drain(commands: object) -> None:
    for _ in commands:  # type: ignore[attr-defined]
        pass


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def with_crc(body: bytes) -> bytes:
    return body + anycrc.Model("CRC64-REDIS").calc(body).to_bytes(8, "little")


SMALL = [path for path in FILES if path.stat().st_size < 1500]


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL, ids=[f"{path.parent.name}/{path.stem}" for path in SMALL])
def test_truncated_at_every_byte(path: Path) -> None:
    data = path.read_bytes()
    assert swallow(data) is None
    for size in range(0, len(data), stride(1 if len(data) < 600 else 7)):
        error = swallow(data[:size])
        assert error is not None and "truncated" in str(error)
        assert error.offset == size


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_flipped_bytes(path: Path) -> None:
    """With the checksum made right again, so that the damage itself is met."""
    data = path.read_bytes()
    body = data[:-8]
    dice = random.Random(path.name)
    for _ in range(share(60)):
        broken = bytearray(body)
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        swallow(with_crc(bytes(broken)), piece=dice.choice((1 << 16, 100)), stream_above=dice.choice((1 << 26, 40)))


@pytest.mark.parametrize("path", SMALL[::6], ids=[f"{path.parent.name}/{path.stem}" for path in SMALL[::6]])
def test_a_flipped_bit_is_noticed_by_the_checksum(path: Path) -> None:
    data = path.read_bytes()
    for at in range(9, len(data), stride(11)):
        broken = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        assert swallow(broken) is not None


@examples(400)
@given(st.binary(max_size=300), st.sampled_from([(b"REDIS0015", b""), (b"VALKEY080", b""), (b"REDIS0003", b"")]))
@example(b"\x07a\x81\xff\xff\xff\xff\xff\xff\xff\xff", (b"REDIS0012", b""))
def test_made_up_files(body: bytes, around: tuple[bytes, bytes]) -> None:
    swallow(around[0] + body + b"\xff" + bytes(8))


KINDS = sorted({(flavor, kind) for flavor, kinds in GRAMMAR.items() for kind in kinds})


@examples(1500)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_made_up_values(of: tuple[str, int], value: bytes) -> None:
    magic = b"REDIS0015" if of[0] == "redis" else b"VALKEY080"
    swallow(magic + bytes([of[1]]) + string(b"key") + value + b"\xff" + bytes(8))


@examples(1500)
@given(st.sampled_from(KINDS), st.binary(max_size=60), st.integers(0, 40), st.integers(0, 3))
def test_made_up_packed_blobs(of: tuple[str, int], blob: bytes, count: int, lead: int) -> None:
    """Behind a right total length, so that entries are looked at."""
    size = (6 if lead % 2 else 10) + len(blob) + 1
    head = size.to_bytes(4, "little") + (count.to_bytes(2, "little") if lead % 2 else bytes(6))
    packed = string(head + blob + b"\xff")
    before = (b"", b"\x01", b"\x01\x02", bytes(8))[lead]
    magic = b"REDIS0015" if of[0] == "redis" else b"VALKEY080"
    swallow(magic + bytes([of[1]]) + string(b"key") + before + packed + b"\xff" + bytes(8))


@examples(300)
@given(st.data())
def test_any_cut_of_the_input_gives_the_same_events(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SMALL))
    content = path.read_bytes()
    bound = data.draw(st.sampled_from([1 << 26, 30]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert _joined(pieces, bound) == _joined([content], bound)


def _joined(pieces: list[bytes], bound: int) -> list[object]:
    """Events, the parts of one big value as one."""
    reader = RdbReader(stream_above=bound)
    found: list[object] = []
    for piece in pieces:
        for event in reader.feed(bytearray(piece)):
            if isinstance(event, ValuePart) and found and isinstance(found[-1], list) and not event.tail:
                found[-1] = [found[-1][0] + event.data, found[-1][1] + event.count]
            else:
                found.append([event.data, event.count] if isinstance(event, ValuePart) else event)
    reader.finish()
    return found


def test_a_file_full_of_counts_that_lie() -> None:
    for flavor, kind in KINDS:
        for length in (b"\x81" + b"\xff" * 8, b"\x80\xff\xff\xff\xff", b"\x7f\xff"):
            records = bytes([kind]) + string(b"k") + length * 20
            magic = b"VALKEY%03d" if flavor == "valkey" else b"REDIS%04d"
            assert swallow(rdb(records, version=80 if flavor == "valkey" else 15, magic=magic)) is not None


def test_the_golden_dumps_are_there() -> None:
    assert len(FILES) > 150 and DIRECTORY.is_dir()
