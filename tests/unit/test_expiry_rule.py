"""Two ways: which deletes are sent with a condition, and what they are told."""

from __future__ import annotations

import pytest

from sync.conditional import is_conditional, with_held
from sync.expiry import Deadlines, ExpiryRule


@pytest.mark.parametrize(("after_ms", "conditional"), [(5000, True), (0, True), (-900, True), (-1100, False)])
def test_a_delete_a_little_before_its_time_may_be_the_expirys(after_ms: int, conditional: bool) -> None:
    """The source's clock is known to a second at best, on a slow line; a user's delete loses nothing by a condition."""
    rule = ExpiryRule(Deadlines(), b"held")
    rule.observe(0, [b"SET", b"k", b"v", b"PXAT", b"100000"])
    judged = rule.judge(0, [b"DEL", b"k"], 100_000 + after_ms, 10)
    assert rule.passed((0, b"k"), 100_000 + after_ms, 10) is conditional
    assert (judged is not None) is conditional
    if judged is not None:
        assert [is_conditional(one) for one in judged] == [True]
        assert int(judged[0][4]) < 100_100, "the copy's deadline is compared as strictly as ever"


def test_a_delete_is_told_what_was_held_last() -> None:
    rule = ExpiryRule(Deadlines(), b"held")
    rule.observe(0, [b"SET", b"k", b"v", b"PXAT", b"100000"])
    judged = rule.judge(0, [b"DEL", b"k"], 200_000, 10)
    assert judged is not None
    told = with_held(judged[0], 160_000)
    assert is_conditional(told) and told[6] == b"held 160000"
    assert with_held([*judged[0][:6], b""], 160_000)[6] == b"", "nothing is held where nothing is remembered"


def test_a_delete_that_is_read_again_is_judged_as_it_was() -> None:
    """A connection broke after the key had come anew: the table knows its new deadline, or none."""
    rule = ExpiryRule(Deadlines(), b"held")
    rule.observe(0, [b"SET", b"k", b"v", b"PXAT", b"100000"])
    for _ in range(2):
        assert rule.passed((0, b"k"), 100_010, 40)
        judged = rule.judge(0, [b"DEL", b"k"], 100_010, 40)
        assert judged is not None and is_conditional(judged[0]) and int(judged[0][4]) < 100_100
        rule.observe(0, [b"DEL", b"k"])
        rule.observe(0, [b"SET", b"k", b"w", b"PXAT", b"900000"])
    assert rule.judge(0, [b"DEL", b"k"], 100_020, 90) is None, "a user's, of a key that lives"
    rule.begin_anew()
    assert rule.judge(0, [b"DEL", b"k"], 100_010, 40) is None, "another stream"
