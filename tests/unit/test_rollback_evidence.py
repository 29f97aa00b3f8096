"""What tells that a server lost what it had, and what tells nothing."""

from __future__ import annotations

import pytest

from canal.position import Position
from sync.evidence import Told, behind, holds_all, lost, takes_up, told_of
from sync.target.fence import ServerInfo

X, Y, Z = "a" * 40, "b" * 40, "c" * 40


def server(
    offset: int = 1000, *, replid: str = Y, replid2: str = X, fork: int = 500, role: str = "master"
) -> ServerInfo:
    """Its history: X up to ``fork``, then ``replid`` up to ``offset``."""
    return ServerInfo(
        "7.0.0", "redis", "run", replid, replid2=replid2, second_offset=fork + 1, role=role, offset=offset
    )


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (Position(Y, 1000), False),
        (Position(Y, 1001), True),
        (Position(X, 500), False),
        (Position(X, 501), True),
        (Position(Z, 1), None),
    ],
)
def test_a_position_beyond_the_end_of_its_history_is_lost(position: Position, expected: bool | None) -> None:
    assert lost(position, server()) is expected
    assert lost(position, server(role="slave")) is None  # it may only be late


def test_without_a_second_history_its_end_says_nothing() -> None:
    assert lost(Position(X, 501), server(replid2="0" * 40, fork=-2)) is None


@pytest.mark.parametrize(
    ("found", "promised", "expected"),
    [
        (Position(Y, 700), (Y[:16], 700), False),
        (Position(Y, 699), (Y[:16], 700), True),
        (Position(X, 499), (Y[:16], 700), True),  # the owner's older history
        (Position(Y, 600), (X[:16], 900), False),  # promised of the older one
        (Position(Z, 1), (Y[:16], 700), False),  # after a snapshot, perhaps
        (Position(Y, 1), (Z[:16], 700), False),
    ],
)
def test_a_checkpoint_older_than_what_was_said_of_it(
    found: Position, promised: tuple[str, int], expected: bool
) -> None:
    assert behind(found, promised, server()) is expected


def test_who_lost_nothing_of_its_own_has_not_gone_back() -> None:
    inside, beyond = Position(X, 500), Position(X, 501)
    assert holds_all([Told("b", inside, {}, True)], server())
    assert not holds_all([Told("b", inside, {}, True), Told("b", beyond, {}, True)], server())
    assert not holds_all([Told("b", inside, {}, False)], server())  # a snapshot is being applied
    assert not holds_all([Told("b", Position(Z, 1), {}, True)], server())
    assert not holds_all([], server())


def test_a_server_is_taken_up_where_a_link_out_of_it_stands_in_its_history() -> None:
    inside, beyond, elsewhere = Position(X, 500), Position(X, 501), Position(Z, 1)
    assert takes_up([], server())  # no link goes out of it
    assert takes_up([Told("b", inside, {}, False)], server())
    assert takes_up(
        [Told("b", elsewhere, {}, True), Told("b", inside, {}, True)], server()
    )  # one is of a task long gone
    for position in (beyond, elsewhere, None):
        assert not takes_up([Told("b", position, {}, True)], server())


def test_a_link_that_forwards_does_not_say_what_its_own_source_had_seen() -> None:
    seen = f"a={X[:16]}:5".encode()
    assert told_of([f"{Y}:9".encode(), seen, b"b", None, b"stream", b"17"]) == Told(
        "b", Position(Y, 9), {"a": (X[:16], 5)}, True, 17
    )
    assert told_of([f"{Y}:9".encode(), seen, b"c", b"b", b"stream", None]) == Told("b", Position(Y, 9), {}, True)
    assert told_of([None] * 6) == Told("", None, {}, False)
