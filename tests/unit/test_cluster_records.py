"""Where replay to a cluster starts, and what each slot skips: from records as they may be found."""

from __future__ import annotations

from canal.cluster import SLOTS
from canal.position import Position
from sync.target.cluster.records import Record, Records, parse_record

REPLID = "a" * 40


def records(found: dict[int, tuple[int, int]], owner: list[str] | None = None) -> Records:
    """Records (pos, low) of slots; the others stand at 100, and so does their frontier."""
    slots: list[Record | None] = []
    for slot in range(SLOTS):
        pos, low = found.get(slot, (100, 100))
        slots.append(Record(Position(REPLID, pos), low, 0))
    return Records(slots, owner or ["a" if slot < 8000 else "b" for slot in range(SLOTS)])


def test_the_lowest_of_the_nodes_frontiers() -> None:
    both = records({5: (300, 250), 9000: (220, 200)})
    assert both.start() == (Position(REPLID, 200), 0)
    skips = both.skips(200)
    assert skips[5] == 300 and skips[9000] == 220 and skips[6] == 100


def test_a_node_that_lost_its_last_writes_is_its_own_witness() -> None:
    """Node a says 250 of all, but node b has lost the records that said so: it starts where b's say."""
    assert records({5: (300, 250), 9000: (120, 110)}).start() == (Position(REPLID, 110), 0)


def test_a_record_that_came_with_its_slot_is_a_witness_too() -> None:
    owners = ["a" if slot < 8000 or slot == 9000 else "b" for slot in range(SLOTS)]
    assert records({9000: (220, 200)}, owners).start() == (Position(REPLID, 100), 0)
    assert records({5: (300, 250), 9001: (220, 200)}, owners).start() == (Position(REPLID, 200), 0)


def test_nothing_to_skip_when_all_stand_at_the_start() -> None:
    assert records({}).skips(100) == []


def test_a_lost_record_means_no_start() -> None:
    found = records({})
    found.slots[7] = None
    found.__post_init__()
    assert found.missing == 1 and found.start() is None and not found.lost
    for slot in range(8000):
        found.slots[slot] = None
    found.__post_init__()
    assert found.lost == {"a"}


def test_records_as_they_are_stored() -> None:
    flat = [b"pos", f"{REPLID}:7".encode(), b"low", b"5/0", b"r:0:key:x", b"1"]
    assert parse_record(flat) == Record(Position(REPLID, 7), 5, 0, (b"0:key:x",))
    for bad in ([], [b"pos", b"x", b"low", b"5/0"], [b"pos", f"{REPLID}:7".encode()], [b"low", b"5"]):
        assert parse_record(bad) is None
