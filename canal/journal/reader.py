"""One uninterrupted stream of chunks, from memory when the reader keeps up, else from the journal's files."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from canal.journal.chunk import Chunk
from canal.journal.tail import State, Tail

READ_BYTES: Final = 512 << 10


class ChunkSource(Protocol):
    """What reads the journal's files: `canal.journal.cursor.Cursor`, or its like for a journal in memory."""

    def read(self, offset: int, max_bytes: int) -> list[Chunk]:
        """Consecutive chunks from ``offset`` on; empty when no more is written yet. Blocks."""

    def forget(self) -> None:
        """Give up files and place."""


class Readable(Protocol):
    """The part of `Journal` that a reader needs."""

    @property
    def generation(self) -> int:
        """Changes with each cut or reset."""

    def cursor(self) -> ChunkSource:
        """A new reader of its files."""

    def when_written(self, offset: int, callback: Callable[[], None]) -> None:
        """Call back once when bytes beyond ``offset`` can be read from the files."""


class StreamReader:
    """Hands out the stream from ``offset`` on, each byte once and in order; used on the event loop by one consumer.

    The owner of the journal passes each appended chunk to `offer`. ``on_readable`` is called whenever `read_nowait` may
    have something again after it had returned None. Files are read ahead in a thread of the reader's own, at most two
    blocks of `READ_BYTES`, so the loop never waits for the disk.
    """

    def __init__(
        self, journal: Readable, tail: Tail, offset: int, *, on_readable: Callable[[], None] | None = None
    ) -> None:
        self.on_readable = on_readable
        self.bytes_from_disk = 0
        self._journal = journal
        self._tail = tail
        self._source = journal.cursor()
        self._threads: ThreadPoolExecutor | None = None
        self._ready: deque[Chunk] = deque()
        self._ready_bytes = 0
        self._reading: asyncio.Future[list[Chunk]] | None = None
        self._awaits_writer = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._offset = offset
        self._generation = journal.generation
        tail.seek(offset)

    @property
    def offset(self) -> int:
        """Where the next chunk begins."""
        return self._offset

    @property
    def from_memory(self) -> bool:
        """Whether the reader keeps up, so that the next byte comes from memory."""
        return not self._ready and self._tail.state is State.MEMORY

    def offer(self, chunk: Chunk) -> None:
        """``chunk`` was appended to the journal."""
        if chunk.data:
            self._tail.append(chunk)
            self._wake()

    def read_nowait(self) -> Chunk | None:
        """The next chunk; None when there is none yet, or it is still being read from disk.

        Raises JournalDamaged when it cannot be had; the reader stays where it is, and `seek` makes it try again.
        """
        if self._ready:
            chunk = self._ready.popleft()
            self._ready_bytes -= len(chunk.data)
        else:
            taken = self._tail.take() or self._behind()
            if taken is None:
                return None
            chunk = taken
        self._offset = chunk.offset + len(chunk.data)
        if self._tail.state is State.DISK:
            self._read_ahead()
        return chunk

    async def read(self) -> Chunk:
        """The next chunk, as soon as there is one; raises JournalDamaged like `read_nowait`."""
        while True:
            chunk = self.read_nowait()
            if chunk is not None:
                return chunk
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def seek(self, offset: int) -> None:
        """Go on at ``offset``, wherever it is. Needed after every cut or reset of the journal."""
        self._ready.clear()
        self._ready_bytes = 0
        self._error = None
        self._reading = None  # its result is of no interest any more
        self._awaits_writer = False
        self._generation = self._journal.generation
        self._offset = offset
        self._tail.seek(offset)
        self._wake()

    def close(self) -> None:
        """Stop reading from disk; waits for a read that is going on."""
        self._reading = None
        if self._threads is not None:
            self._threads.shutdown(wait=True)
            self._threads = None
        self._source.forget()

    # -- from disk -----------------------------------------------------------------------------------------------

    def _behind(self) -> Chunk | None:
        """Memory had nothing: see that the disk is read when the next byte is there."""
        if self._tail.state is not State.DISK:
            return None
        if self._error is not None:
            raise self._error
        self._read_ahead()
        return self._tail.take()

    def _read_ahead(self) -> None:
        """Start reading the next block, unless enough is here or memory has it."""
        if self._reading is not None or self._awaits_writer or self._error is not None:
            return
        if self._ready_bytes >= READ_BYTES:
            return
        tail = self._tail
        tail.advance(tail.needed)
        if tail.state is State.MEMORY:
            return
        loop = asyncio.get_running_loop()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._reading = loop.run_in_executor(self._threads, self._source.read, tail.needed, READ_BYTES)
        self._reading.add_done_callback(self._have_read)

    def _have_read(self, future: asyncio.Future[list[Chunk]]) -> None:
        if future is not self._reading:
            if not future.cancelled():
                future.exception()  # of a place that was left; looked at, so that nobody complains
            return
        self._reading = None
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._error = error
        elif self._generation == self._journal.generation:
            self._take_block(future.result())
        self._wake()

    def _take_block(self, chunks: list[Chunk]) -> None:
        if not chunks:
            self._awaits_writer = True
            self._journal.when_written(self._tail.needed, self._have_more)
            return
        size = chunks[-1].end - chunks[0].offset
        self._ready.extend(chunks)
        self._ready_bytes += size
        self.bytes_from_disk += size
        self._tail.advance(chunks[-1].end)

    def _have_more(self) -> None:
        if self._awaits_writer:
            self._awaits_writer = False
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.on_readable is not None:
            self.on_readable()
