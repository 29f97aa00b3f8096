"""The set of keys that a comparison has met: what is in it, what is not."""

from __future__ import annotations

from sync.verify.seen import Seen


def test_it_names_what_it_has_not_met() -> None:
    seen = Seen()
    assert seen.missing(0, [b"a"]) == {b"a"}
    names = [b"key:%d" % number for number in range(5000)]
    seen.add(3, names)
    assert seen.missing(3, [*names, b"other", b""]) == {b"other", b""}
    assert seen.missing(4, names[:10]) == set(names[:10])


def test_it_grows_after_it_was_asked() -> None:
    seen = Seen()
    for number in range(1000):
        assert seen.missing(0, [b"%d" % number]) == {b"%d" % number}
        seen.add(0, [b"%d" % number])
        assert not seen.missing(0, [b"%d" % number, b"0"])


def test_a_set_of_everything_misses_nothing() -> None:
    seen = Seen(everything=True)
    seen.add(0, [b"a"])
    assert not seen.missing(1, [b"a", b"b"])
