"""Key patterns: prefixes, Redis globs, regular expressions."""

from __future__ import annotations

import re

import pytest

from canal.errors import ConfigError
from sync.filters import KeyFilter, KeyPattern, escape_glob, glob_expression


def matches(glob: bytes, key: bytes) -> bool:
    return re.fullmatch(glob_expression(glob), key, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("glob", "key", "expected"),
    [
        (b"*", b"", True),
        (b"user:*", b"user:1\n2", True),
        (b"user:*", b"Xuser:1", False),
        (b"h?llo", b"hello", True),
        (b"h?llo", b"hllo", False),
        (b"h[ae]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False),
        (b"h[a-c]llo", b"hbllo", True),
        (b"h[c-a]llo", b"hbllo", True),
        (b"h[\\]]llo", b"h]llo", True),
        (b"a\\*b", b"a*b", True),
        (b"a\\*b", b"axb", False),
        (b"a\\", b"a\\", True),
        (b"[]x", b"x", False),
        (b"[ab", b"a", True),
        (b"\xff[\x00-\x05]", b"\xff\x03", True),
        (b"a.c", b"abc", False),
    ],
)
def test_globs_match_as_redis_matches(glob: bytes, key: bytes, expected: bool) -> None:
    assert matches(glob, key) is expected


def test_escaped_text_matches_itself_alone() -> None:
    text = b"a*b?[c]^-\\\r\n\x00\xff"
    assert matches(escape_glob(text), text)
    assert not matches(escape_glob(b"a*"), b"ab")


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        ("prefix:user:", b"user:1", True),
        ("prefix:user:", b"auser:1", False),
        ("prefix:user:", b"user", False),
        ("glob:*:tmp", b"a:tmp", True),
        ("user:*", b"user:7", True),
        ("regex:[0-9]{3}", b"ab123c", True),
        ("regex:^ab$", b"abc", False),
        ("tenant:prefix:*", b"tenant:prefix:1", True),
    ],
)
def test_patterns_are_read_with_their_kind(word: str, key: bytes, expected: bool) -> None:
    assert KeyFilter([KeyPattern.parse(word)], []).passes(key) is expected


def test_a_bad_regular_expression_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"'\(a': not a regular expression"):
        KeyPattern.parse("regex:(a")


def test_exclude_wins_over_include() -> None:
    keys = KeyFilter([KeyPattern.parse("prefix:a:"), KeyPattern.parse("b*")], [KeyPattern.parse("*:tmp")])
    assert [key for key in (b"a:1", b"a:tmp", b"b", b"c") if keys.passes(key)] == [b"a:1", b"b"]
    assert KeyFilter([], []).empty and KeyFilter([], []).passes(b"x")


def test_what_scan_can_be_asked_for() -> None:
    keys = KeyFilter([KeyPattern.parse("prefix:a*:")], [KeyPattern.parse("*x")])
    assert keys.globs() == ([b"a\\*:*"], [b"*x"])
    assert KeyFilter([KeyPattern.parse("regex:a")], []).globs() is None
