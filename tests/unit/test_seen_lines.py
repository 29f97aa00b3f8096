"""Positions of other datacenters: as text, and along a history of failovers."""

from __future__ import annotations

import pytest

from sync.seen import Line, format_seen, parse_position, parse_seen

ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


def test_a_vector_is_the_same_after_writing_and_reading() -> None:
    vector = {"b": (TWO, 7), "a": (ONE, 123_456)}
    text = format_seen(vector)
    assert text == f"a={ONE}:123456,b={TWO}:7"
    assert parse_seen(text) == parse_seen(text.encode()) == vector
    assert parse_seen("") == {}


@pytest.mark.parametrize("part", ["a", "a=", "a=1:5", f"a={ONE}", f"a={ONE}:", f"a={ONE}:-1", f"a={ONE}:x", "a=\xff"])
def test_parts_of_another_form_mean_nothing_seen(part: str) -> None:
    assert parse_seen(f"{part},b={TWO}:7") == {"b": (TWO, 7)}
    assert parse_seen(f"{part},b={TWO}:7".encode()) == {"b": (TWO, 7)}


def test_a_position_is_told_by_the_first_digits_of_its_history() -> None:
    assert parse_position(("AB" * 20) + ":12") == (("ab" * 8), 12)
    assert parse_position(b"short:12") is None


def test_a_position_of_an_unknown_history_means_nothing() -> None:
    line = Line()
    assert line.place((ONE, 5)) == line.place(None) == -1
    line.learn([("1" * 40, 0)])
    assert (line.place((ONE, 5)), line.place((TWO, 5))) == (5, -1)


def test_what_was_seen_beyond_a_failover_is_cut_back_to_the_fork() -> None:
    line = Line()
    line.learn([("1" * 40, 0), ("2" * 40, 100), ("3" * 40, 250)])
    assert [line.place((ONE, offset)) for offset in (99, 100, 180)] == [99, 100, 100]
    assert [line.place((TWO, offset)) for offset in (120, 300)] == [120, 250]
    assert line.place((THREE, 1000)) == 1000


def test_a_stream_that_is_followed_tells_where_it_went_back() -> None:
    line = Line()
    assert line.follow(ONE, 100) is None
    assert line.follow(ONE, 180) is None
    assert line.follow(TWO, 200) is None, "it went on where it was"
    assert line.follow(THREE, 150) == 150, "it lost what stood beyond"
    assert line.place((TWO, 190)) == -1, "a history that was left never holds again"
    assert line.place((ONE, 190)) == 150
    assert line.place((THREE, 170)) == 170


def test_only_the_newest_failovers_are_remembered() -> None:
    line = Line()
    for number in range(12):
        line.follow(f"{number:016x}", number * 10)
    assert line.place((f"{3:016x}", 35)) == -1
    assert line.place((f"{4:016x}", 99)) == 50
