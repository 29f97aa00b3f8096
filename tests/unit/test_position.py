"""Positions as text: what is written is read back, and nothing else is read."""

from __future__ import annotations

import pytest

from canal.position import Position

REPLID = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize("offset", [0, 7, 10**18, 2**63 - 1])
def test_a_position_is_read_back_as_written(offset: int) -> None:
    assert str(Position(REPLID, offset)) == f"{REPLID}:{offset}"
    assert Position.parse(f"{REPLID}:{offset}") == Position(REPLID, offset)


def test_a_replid_is_kept_in_small_letters() -> None:
    assert Position.parse(f"{REPLID.upper()}:5") == Position(REPLID, 5)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":5", REPLID, f"{REPLID}:", f"{REPLID}:x", f"{REPLID}:-1", f"{REPLID}:+1", f"{REPLID}: 1", f"{REPLID} 5"),
        *(f"{REPLID[1:]}:5", f"{REPLID}0:5", f"x{REPLID[1:]}:5", f" {REPLID}:5"),
        *(f"{REPLID}:5x", f"{REPLID}:5\n", f"{REPLID}:5 ", f"{REPLID}:{'1' * 20}"),
    ],
)
def test_anything_else_is_told_as_it_came(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Position.parse(text)
    assert str(caught.value) == f"expected <40 hex digits>:<offset>, got {text!r}"
