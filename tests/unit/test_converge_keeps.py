"""The journal is kept from what the next session, or the next process, reads again."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.endpoint import parse_url
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.converge import Converge
from sync.status import LinkStatus
from sync.windowfile import Boundary

REPLID = "a" * 40


@pytest.fixture
def converge(tmp_path: Path) -> Converge:
    made = Converge(
        LinkConfig(
            "t", parse_url("redis://a"), parse_url("redis://b"), tmp_path, source_dc="a", target_dc="b", two_way=True
        ),
        LinkStatus("t", "0", "a", "b"),
    )
    made.conflicts = Conflicts("a", made.homes)
    return made


def test_no_later_than_what_the_state_directory_names(converge: Converge, tmp_path: Path) -> None:
    """It is written once a second; a link that catches up applies many megabytes in one. A connection that broke then
    left a session without its past, so that every key counted as written, and older values were echoed over newer ones.
    """
    assert converge.conflicts is not None
    converge.past.keep(Boundary(f"{REPLID}:100", 0, ""))
    converge.conflicts.settled_to = 5000
    assert converge.keep_from(6000) == 100
    converge.past.keep(Boundary(f"{REPLID}:4000", 0, ""))
    assert converge.keep_from(6000) == 4000
    converge.conflicts.settled_to = 300
    assert converge.keep_from(6000) == 300


def test_a_full_disk_leaves_the_file_before(converge: Converge, tmp_path: Path) -> None:
    assert converge.conflicts is not None
    converge.past.keep(Boundary(f"{REPLID}:100", 0, ""))
    (tmp_path / "window.json.new").mkdir()  # nothing can be written there
    converge.past.keep(Boundary(f"{REPLID}:4000", 0, ""))
    converge.conflicts.settled_to = 5000
    found = Boundary.load(tmp_path)
    assert found is not None and found.place.offset == converge.keep_from(6000) == 100
