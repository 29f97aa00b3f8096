"""One uninterrupted stream, whichever way it comes: a real journal, its writer's thread, a small tail, and a reader
that lags, catches up, is moved and sees the stream cut, in every order that hypothesis finds."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from canal.journal.journal import Journal
from canal.journal.memory import MemoryJournal
from canal.journal.reader import StreamReader
from canal.journal.tail import CHUNK_COST, Tail
from canal.position import Position

A, B = "a" * 40, "b" * 40

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3000)),
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("read"), st.integers(1, 6)),
        st.tuples(st.just("nowait"), st.integers(1, 6)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("let"), st.integers(0, 3)),
        st.tuples(st.just("seek"), st.integers(0, 100)),
        st.tuples(st.just("cut"), st.integers(0, 2000)),
        st.tuples(st.just("reset"), st.integers(0, 1 << 40)),
        st.tuples(st.just("mark"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.just(0)),
    ),
    max_size=60,
)


class Run:
    """``stream``: the bytes that should be there, from ``base`` on; ``got``: how many of them the reader has had."""

    def __init__(self, directory: Path, kind: type[Journal]) -> None:
        loop = asyncio.get_running_loop()
        self.random = random.Random(1)
        self.journal = kind(
            directory,
            segment_bytes=4000,
            fsync="no",
            retain_bytes=0,
            retain_seconds=0,
            reserve_bytes=0,
            call_soon=loop.call_soon_threadsafe,
        )
        self.journal.open()
        self.journal.reset(Position(A, 100))
        self.tail = Tail(2 * CHUNK_COST + 2000, 100)
        self.reader = StreamReader(self.journal, self.tail, 100)
        self.base, self.stream, self.got, self.released = 100, b"", 0, 0

    async def step(self, name: str, size: int) -> None:
        await getattr(self, name)(size)
        assert self.reader.offset == self.base + self.got

    async def append(self, size: int) -> None:
        data = self.random.randbytes(size)
        self.reader.offer(self.journal.append(data, len(self.stream)))
        self.stream += data

    async def read(self, count: int) -> None:
        for _ in range(count):
            if self.got == len(self.stream):
                return
            chunk = await asyncio.wait_for(self.reader.read(), 60)
            self.receive(chunk.offset, chunk.data)

    async def nowait(self, count: int) -> None:
        for _ in range(count):
            chunk = self.reader.read_nowait()
            if chunk is not None:
                self.receive(chunk.offset, chunk.data)

    def receive(self, offset: int, data: bytes) -> None:
        assert offset == self.base + self.got
        assert data
        assert data == self.stream[self.got : self.got + len(data)]
        self.got += len(data)

    async def flush(self, _: int) -> None:
        assert await asyncio.to_thread(self.journal.flush)

    async def let(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def seek(self, percent: int) -> None:
        self.got = max(self.released, len(self.stream) * percent // 100)
        self.reader.seek(self.base + self.got)

    async def cut(self, back: int) -> None:
        keep = max(self.released, len(self.stream) - back)
        self.stream = self.stream[:keep]
        self.journal.truncate(self.base + keep)
        self.tail.cut(self.base + keep)
        self.got = min(self.got, keep)
        self.reader.seek(self.base + self.got)

    async def reset(self, offset: int) -> None:
        self.journal.reset(Position(B, offset))
        self.tail.restart(offset)
        self.reader.seek(offset)
        self.base, self.stream, self.got, self.released = offset, b"", 0, 0

    async def mark(self, db: int) -> None:
        self.journal.mark(self.base + self.got, db)

    async def release(self, _: int) -> None:
        self.released = self.got
        self.journal.release(self.base + self.got)


async def run(steps: list[tuple[str, int]], directory: Path, kind: type[Journal]) -> None:
    state = Run(directory, kind)
    for name, size in steps:
        await state.step(name, size)
    while state.got < len(state.stream):
        await state.read(1)
    assert state.reader.read_nowait() is None
    state.reader.close()
    assert state.journal.start <= state.base + state.released
    await asyncio.to_thread(state.journal.close)
    if kind is MemoryJournal:
        return
    again = Journal(directory, reserve_bytes=0)
    found = again.open()
    assert found.damages == []
    assert found.end == state.base + len(state.stream)
    assert found.start <= state.base + state.released
    again.close()


@pytest.mark.parametrize("kind", [Journal, MemoryJournal])
@given(steps=STEPS)
def test_every_byte_once_and_in_order(kind: type[Journal], steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(steps, Path(directory), kind))
