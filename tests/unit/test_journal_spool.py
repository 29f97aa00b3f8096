"""The snapshot's spool: what is received can be read while it comes and after a restart, and never half of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from canal.errors import StateError
from canal.journal import spool as spool_module
from canal.journal.chunk import SpoolAborted
from canal.journal.spool import Spool, SpoolReader
from canal.journal.transfer import BLOCK, CRC_NAME, META_NAME, RDB_NAME
from canal.position import Position

HERE = Position("a" * 40, 777)
DATA = os.urandom(3 * BLOCK + 12345)


def spool_in(directory: Path) -> Spool:
    return Spool(directory / "spool", reserve_bytes=0, call_soon=asyncio.get_running_loop().call_soon_threadsafe)


async def everything(reader: SpoolReader, size: int = BLOCK) -> bytes:
    out = bytearray()
    while data := await reader.read(size):
        out += data
    reader.close()
    return bytes(out)


async def kept(directory: Path, data: bytes = DATA) -> Path:
    """A complete spool whose process has ended; its directory."""
    spool = spool_in(directory)
    assert spool.open() is None
    assert spool.begin(HERE, len(data)) is None
    spool.write(data)
    spool.finish()
    assert await everything(spool.reader()) == data
    spool.close()
    return spool.directory


async def test_reader_follows_the_writer(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert spool.open() is None
    assert spool.position is None
    assert spool.begin(HERE, None) is None
    reading = asyncio.create_task(everything(spool.reader(), 100_000))
    for start in range(0, len(DATA), 70_000):
        spool.write(memoryview(DATA)[start : start + 70_000])
        await asyncio.sleep(0)
    assert not reading.done()
    spool.finish()
    assert await reading == DATA
    assert spool.complete
    assert (spool.position, spool.length, spool.received, spool.pending_bytes) == (HERE, len(DATA), len(DATA), 0)
    spool.close()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
async def test_survives_a_restart(tmp_path: Path, size: int) -> None:
    await kept(tmp_path, DATA[:size])
    spool = spool_in(tmp_path)
    assert spool.open() is None
    assert spool.complete
    assert (spool.position, spool.length) == (HERE, size)
    assert await everything(spool.reader(), 333_333) == DATA[:size]
    assert await everything(spool.reader(size // 2), 333_333) == DATA[size // 2 : size]


async def test_incomplete_is_asked_for_again(tmp_path: Path) -> None:
    directory = await kept(tmp_path)
    (directory / META_NAME).unlink()
    spool = spool_in(tmp_path)
    assert spool.open() == (
        f"{directory / RDB_NAME} is incomplete ({len(DATA)} bytes): the source is asked for a new one"
    )
    assert not spool.complete
    assert list(directory.iterdir()) == []
    with pytest.raises(StateError, match="there is no snapshot"):
        spool.reader()


async def test_torn_is_asked_for_again(tmp_path: Path) -> None:
    directory = await kept(tmp_path)
    os.truncate(directory / RDB_NAME, 1000)
    trouble = spool_in(tmp_path).open()
    assert (
        trouble == f"{directory / RDB_NAME} should have {len(DATA)} bytes, has 1000: the source is asked for a new one"
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"format": 1, "position": "x:1", "bytes": 1}'])
async def test_damaged_description_is_not_believed(tmp_path: Path, content: bytes) -> None:
    directory = await kept(tmp_path)
    (directory / META_NAME).write_bytes(content)
    trouble = spool_in(tmp_path).open()
    assert trouble is not None
    assert "is not a snapshot's description" in trouble


async def test_missing_checksums_are_not_done_without(tmp_path: Path) -> None:
    directory = await kept(tmp_path)
    (directory / CRC_NAME).unlink()
    trouble = spool_in(tmp_path).open()
    assert trouble == f"{directory / CRC_NAME} does not fit the snapshot: the source is asked for a new one"


async def test_newer_format_is_refused(tmp_path: Path) -> None:
    directory = await kept(tmp_path)
    value = json.loads((directory / META_NAME).read_bytes())
    (directory / META_NAME).write_text(json.dumps(value | {"format": 2}))
    with pytest.raises(StateError, match="has format 2, this redis-canal knows up to 1"):
        spool_in(tmp_path).open()


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, len(DATA) - 1])
async def test_flipped_bit_is_found_before_it_is_read(tmp_path: Path, at: int) -> None:
    directory = await kept(tmp_path)
    with (directory / RDB_NAME).open("r+b") as file:
        file.seek(at)
        file.write(bytes([DATA[at] ^ 4]))
    spool = spool_in(tmp_path)
    assert spool.open() is None
    reader = spool.reader()
    got = bytearray()
    with pytest.raises(SpoolAborted, match=f"damaged between bytes {at // BLOCK * BLOCK} and"):
        while data := await reader.read(300_000):
            got += data
    assert got == DATA[: at // BLOCK * BLOCK]
    assert not spool.complete


async def test_abort_reaches_a_waiting_reader(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.open()
    spool.begin(HERE, None)
    spool.write(b"abc")
    reader = spool.reader()
    assert await reader.read() == b"abc"
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    spool.abort()
    with pytest.raises(SpoolAborted, match="given up"):
        await waiting
    spool.close()
    assert list(spool.directory.iterdir()) == []


async def test_another_snapshot_takes_the_place(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.open()
    spool.begin(HERE, len(DATA))
    spool.write(DATA)
    old = spool.reader()
    there = Position("b" * 40, 1)
    spool.begin(there, 5)
    spool.write(b"hello")
    spool.finish()
    assert await everything(spool.reader()) == b"hello"
    with pytest.raises(SpoolAborted):
        await old.read()
    spool.close()
    spool = spool_in(tmp_path)
    assert spool.open() is None
    assert (spool.position, spool.length) == (there, 5)


async def test_short_transfer_is_not_complete(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.open()
    spool.begin(HERE, 10)
    spool.write(b"12345")
    spool.finish()
    with pytest.raises(SpoolAborted, match="expected a snapshot of 10 bytes, got 5"):
        await everything(spool.reader())
    assert not spool.complete
    spool.close()


async def test_delete_removes_all_files(tmp_path: Path) -> None:
    directory = await kept(tmp_path)
    spool = spool_in(tmp_path)
    spool.open()
    spool.delete()
    assert not spool.complete
    spool.close()
    assert list(directory.iterdir()) == []


async def test_no_room_is_said_before_it_begins(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.open()
    trouble = spool.begin(HERE, 1 << 60)
    assert trouble is not None
    assert "needs" in trouble
    assert "more on the file system of" in trouble
    assert spool.position is None


async def test_room_that_an_earlier_snapshot_takes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept(tmp_path)
    monkeypatch.setattr(spool_module, "free_bytes", lambda directory: 1000)
    spool = spool_in(tmp_path)
    spool.open()
    trouble = spool.begin(HERE, len(DATA) + 1001)
    assert trouble is not None
    assert f"a snapshot of {len(DATA) + 1001} bytes needs 1 more on the file system of" in trouble
    spool.open()
    assert spool.begin(HERE, len(DATA) + 1000) is None
    spool.close()


async def test_no_room_while_it_comes(tmp_path: Path) -> None:
    reasons: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    spool = Spool(
        tmp_path / "spool", reserve_bytes=1 << 60, call_soon=loop.call_soon_threadsafe, on_full=reasons.put_nowait
    )
    spool.open()
    assert spool.begin(HERE, None) is None
    reader = spool.reader()
    spool.write(b"x")
    assert "no space left on the file system" in await asyncio.wait_for(reasons.get(), 60)
    with pytest.raises(SpoolAborted, match="could not be kept: no space left"):
        await reader.read()
    spool.close()
    assert list(spool.directory.iterdir()) == []


async def test_pressure_is_told_and_taken_back(tmp_path: Path) -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    spool = Spool(
        tmp_path / "spool",
        reserve_bytes=0,
        high_water_bytes=100_000,
        call_soon=loop.call_soon_threadsafe,
        on_pressure=told.put_nowait,
    )
    spool.open()
    spool.begin(HERE, None)
    spool.write(bytes(100_001))
    assert await asyncio.wait_for(told.get(), 60)
    assert not await asyncio.wait_for(told.get(), 60)
    spool.close()
