"""The peak that is told of a command is its own, however large the test is that started it."""

from __future__ import annotations

from tests.support.peak import measured


def test_what_the_starter_holds_does_not_count() -> None:
    ballast = bytearray(b"x") * (300 << 20)
    text, peak = measured("--version")
    assert len(ballast) >> 20 == 300
    assert text.startswith("redis-canal ")
    assert 5 < peak < 100
