"""Which offset a canal announces: behind, always, but for the answer to a source that waits in silence."""

from __future__ import annotations

import pytest

from canal.acks import GETACK, MARGIN, AckPolicy

PING = b"*1\r\n$4\r\nPING\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


class Source:
    """A stream told to a policy; everything is journaled at once unless `journaled` is set."""

    def __init__(self) -> None:
        self.policy = AckPolicy(0.0)
        self.sent = 1000
        self.journaled: int | None = None

    def send(self, now: float, *blocks: bytes) -> None:
        for block in blocks:
            self.sent += len(block)
            self.policy.received(memoryview(block), now)

    def exact(self, now: float) -> bool:
        journaled = self.sent if self.journaled is None else self.journaled
        offset = self.policy.offset(journaled, self.sent, now)
        assert offset in (journaled - MARGIN, self.sent)
        return offset == self.sent


def test_behind_however_long_it_is_silent() -> None:
    source = Source()
    source.send(0.0, SET, PING)
    assert not any(source.exact(now) for now in (0.0, 1.0, 10.0, 1000.0))


def test_never_below_zero_nor_ahead_of_what_came() -> None:
    policy = AckPolicy(0.0)
    assert policy.offset(10, 10, 0.0) == 0
    assert policy.offset(2000, 1000, 0.0) == 1000 - MARGIN


def test_exact_once_after_a_second_of_silence() -> None:
    source = Source()
    source.send(5.0, SET, GETACK)
    assert not source.exact(5.0)
    assert not source.exact(5.99)
    assert source.exact(6.0)
    assert not source.exact(7.0)  # said; the source remembers the highest


def test_pings_do_not_break_the_silence() -> None:
    source = Source()
    source.send(5.0, GETACK)
    source.send(5.5, PING)
    source.send(5.9, PING.lower() + PING)
    assert source.exact(6.0)


def test_asking_again_does_not_put_it_off() -> None:
    source = Source()
    source.send(5.0, GETACK)
    source.send(5.9, GETACK, GETACK + PING)
    assert source.exact(6.0)


def test_a_write_ends_it() -> None:
    source = Source()
    source.send(5.0, GETACK)
    source.send(5.5, SET)
    assert not any(source.exact(now) for now in (6.0, 6.5, 60.0))


def test_a_write_before_the_question_counts_from_the_question() -> None:
    source = Source()
    source.send(5.0, SET)
    source.send(5.8, SET + GETACK)
    assert not source.exact(6.7)
    assert source.exact(6.8)


def test_not_before_everything_is_journaled() -> None:
    source = Source()
    source.send(5.0, SET, GETACK)
    source.journaled = source.sent - 1
    assert not source.exact(7.0)
    source.journaled = source.sent
    assert source.exact(7.1)


@pytest.mark.parametrize("cut", range(1, len(GETACK)))
def test_a_question_cut_in_two(cut: int) -> None:
    source = Source()
    source.send(5.0, SET + GETACK[:cut], GETACK[cut:])
    assert source.exact(6.0)


def test_a_question_byte_by_byte() -> None:
    source = Source()
    source.send(5.0, *(bytes([byte]) for byte in SET + GETACK.lower()))
    assert source.exact(6.0)


def test_the_words_of_a_question_within_a_value_are_none() -> None:
    source = Source()
    source.send(5.0, b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(GETACK), GETACK))
    assert not any(source.exact(now) for now in (6.0, 60.0))


def test_many_controls_in_one_block() -> None:
    source = Source()
    source.send(5.0, GETACK + PING * 3 + GETACK)
    assert source.exact(6.0)
