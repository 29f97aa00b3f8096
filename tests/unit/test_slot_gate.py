"""What CLUSTER NODES says of the node itself."""

from __future__ import annotations

from sync.slotgate import own_slots

OTHER = "b" * 40 + " 127.0.0.1:2@3 master - 0 0 2 connected 8192-16383"


def line(flags: str, rest: str) -> str:
    return f"{'a' * 40} 127.0.0.1:1@2 {flags} - 0 0 1 connected{rest}\n{OTHER}\n"


def test_slots_of_a_master_that_stand_still() -> None:
    assert own_slots(line("myself,master", " 0-2 7")) == (frozenset({0, 1, 2, 7}), False)
    assert own_slots(line("myself,master", "")) == (frozenset(), False)


def test_slots_on_their_way_are_seen_at_both_ends() -> None:
    assert own_slots(line("myself,master", f" 0-2 [2->-{'b' * 40}]")) == (frozenset({0, 1, 2}), True)
    assert own_slots(line("myself,master", f" 0-2 [9-<-{'b' * 40}]")) == (frozenset({0, 1, 2}), True)


def test_a_replica_says_nothing() -> None:
    assert own_slots(line("myself,slave", "")) is None
    assert own_slots(OTHER) is None
