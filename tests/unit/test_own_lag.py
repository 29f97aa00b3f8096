"""A link's echoes at its target wait for what the link itself has received and not yet applied."""

from __future__ import annotations

from canal.position import Position
from sync.abreast import OwnLag


class Link:
    def __init__(self) -> None:
        self.stands: Position | None = Position("a" * 40, 100)
        self.applied = 0
        self.now = 0.0
        self.lag = OwnLag(lambda: self.stands, lambda: self.applied, 30.0, lambda: self.now)


def test_it_is_late_until_what_was_received_is_applied() -> None:
    link = Link()
    assert link.lag.late()
    link.stands = Position("a" * 40, 900)
    link.applied = 99
    assert link.lag.late()
    link.applied = 100
    assert not link.lag.late(), "what came later is not waited for"
    assert link.lag.late(), "but the next time it is"


def test_a_new_history_begins_anew() -> None:
    link = Link()
    assert link.lag.late()
    link.stands = Position("b" * 40, 7)
    link.applied = 7
    assert not link.lag.late()


def test_nothing_is_waited_for_for_ever() -> None:
    link = Link()
    link.stands = None
    assert link.lag.late()
    link.now = 29.0
    assert link.lag.late()
    link.now = 31.0
    assert not link.lag.late()
    link.now = 32.0
    assert not link.lag.late()
    link.stands = Position("a" * 40, 100)
    link.applied = 100
    assert not link.lag.late()
    link.stands = Position("a" * 40, 200)
    assert link.lag.late(), "it had caught up since"
