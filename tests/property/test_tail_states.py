"""The tail against its model: whatever the order of append, drain, overflow, catch-up, seek and cut, the reader gets
exactly the bytes of the stream, in order."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from canal.journal.chunk import Chunk
from canal.journal.tail import CHUNK_COST, TRANSITIONS, Event, State, Tail
from tests.support.effort import examples

LIMIT = 3 * CHUNK_COST + 60
SIZES = st.one_of(st.integers(1, 40), st.integers(LIMIT - CHUNK_COST - 1, LIMIT - CHUNK_COST + 2))


class TailMachine(RuleBasedStateMachine):
    """``stream`` is what was appended; ``got`` counts what the reader had of it. Offsets begin at ``base``."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)

    @initialize(base=st.integers(0, 1 << 40))
    def begin(self, base: int) -> None:
        self.base = base
        self.stream = b""
        self.got = 0
        self.tail = Tail(LIMIT, base)

    @rule(size=SIZES)
    def append(self, size: int) -> None:
        data = self.random.randbytes(size)
        self.tail.append(Chunk(self.base + len(self.stream), data, len(self.stream)))
        self.stream += data

    @rule()
    def drain_one(self) -> None:
        before = self.tail.needed
        chunk = self.tail.take()
        if chunk is None:
            assert self.tail.state is State.DISK or self.got == len(self.stream)
            assert self.tail.state is not State.STALE
            assert self.tail.needed == before
        else:
            self.receive(chunk.offset, chunk.data)

    def receive(self, offset: int, data: bytes) -> None:
        assert offset == self.base + self.got
        assert data == self.stream[self.got : self.got + len(data)]
        self.got += len(data)
        assert self.tail.needed == self.base + self.got

    @precondition(lambda self: self.tail.state is State.DISK)
    @rule(share=st.floats(0, 1))
    def read_from_disk(self, share: float) -> None:
        count = int((len(self.stream) - self.got) * share)
        offset = self.base + self.got
        self.tail.advance(offset + count)
        self.receive(offset, self.stream[self.got : self.got + count])

    @precondition(lambda self: self.tail.state is State.DISK)
    @rule()
    def catch_up(self) -> None:
        """Reading everything from disk always leads back to memory."""
        offset = self.base + self.got
        self.tail.advance(self.base + len(self.stream))
        self.receive(offset, self.stream[self.got :])
        assert self.tail.state is State.MEMORY

    @rule(share=st.floats(0, 1))
    def seek(self, share: float) -> None:
        self.got = int(len(self.stream) * share)
        self.tail.seek(self.base + self.got)

    @rule(back=st.integers(0, 60))
    def cut(self, back: int) -> None:
        self.stream = self.stream[: max(0, len(self.stream) - back)]
        self.tail.cut(self.base + len(self.stream))
        if self.got > len(self.stream):
            self.got = len(self.stream)
            assert self.tail.state is State.MEMORY

    @rule(offset=st.integers(0, 1 << 40))
    def restart(self, offset: int) -> None:
        self.base = offset
        self.stream = b""
        self.got = 0
        self.tail.restart(offset)

    @invariant()
    def bounded_and_consistent(self) -> None:
        if not hasattr(self, "tail"):
            return
        assert self.tail.end == self.base + len(self.stream)
        assert self.tail.needed == self.base + self.got
        active, standby = self.tail._active, self.tail._standby
        for buffer in (active, standby):
            assert buffer.size == sum(len(chunk.data) + CHUNK_COST for chunk in buffer.chunks) <= LIMIT
        if self.tail.state is State.MEMORY:
            assert active.end == standby.start
            assert not active.chunks or active.start == self.tail.needed


TestTail = TailMachine.TestCase
TestTail.settings = settings(examples(300), stateful_step_count=60)


def test_every_event_has_its_place_in_the_table() -> None:
    """The table in the module's text and the one in its code are the same."""
    impossible = {
        (State.MEMORY, Event.EMPTIED),
        (State.STALE, Event.SWAPPED),
        (State.DISK, Event.SWAPPED),
        (State.DISK, Event.EMPTIED),
    }
    assert {(state, event) for state in State for event in Event if event not in TRANSITIONS[state]} == impossible
