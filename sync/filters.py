"""Which keys a link carries, by name: prefixes, globs and regular expressions over the bytes of keys. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from canal.errors import ConfigError

PatternKind = Literal["prefix", "glob", "regex"]


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """One rule about key names. ``prefix`` and ``glob`` concern the whole name, ``regex`` is searched for in it."""

    kind: PatternKind
    text: bytes

    @classmethod
    def parse(cls, word: str) -> KeyPattern:
        """Read ``prefix:user:``, ``glob:user:*`` or ``regex:^user:\\d+$``; without such a beginning it is a glob.

        Raises ConfigError for a regular expression that is none.
        """
        kind, colon, text = word.partition(":")
        for known in _KINDS:
            if colon and kind == known:
                return cls(known, text.encode()).checked()
        return cls("glob", word.encode()).checked()

    def checked(self) -> KeyPattern:
        """This pattern, or ConfigError when it is no regular expression."""
        self.expression()
        return self

    def expression(self) -> re.Pattern[bytes]:
        """The compiled form, for ``search``."""
        if self.kind == "prefix":
            return re.compile(rb"\A" + re.escape(self.text), re.DOTALL)
        if self.kind == "glob":
            return re.compile(rb"\A" + glob_expression(self.text) + rb"\Z", re.DOTALL)
        try:
            return re.compile(self.text)
        except re.error as error:
            raise ConfigError(
                f"key pattern {self.text.decode(errors='replace')!r}: not a regular expression ({error}); "
                "for Redis's own patterns write glob:…"
            ) from None

    def as_glob(self) -> bytes | None:
        """The same as a pattern of KEYS and SCAN, or None for a regular expression."""
        if self.kind == "glob":
            return self.text
        return escape_glob(self.text) + b"*" if self.kind == "prefix" else None

    def __str__(self) -> str:
        return f"{self.kind}:{self.text.decode(errors='backslashreplace')}"


_KINDS: Final[tuple[PatternKind, ...]] = ("prefix", "glob", "regex")
_SPECIAL: Final = re.compile(rb"([*?\[\]\\^-])")


def escape_glob(text: bytes) -> bytes:
    """``text`` as a glob that matches it alone."""
    return _SPECIAL.sub(rb"\\\1", text)


def glob_expression(glob: bytes) -> bytes:
    """A Redis glob (``*``, ``?``, ``[a-z]``, ``[^a]``, ``\\x``) as a regular expression without anchors.

    As Redis matches (util.c, stringmatchlen): a class that is not closed ends with the pattern, a range may stand
    either way round, and a backslash at the end stands for itself.
    """
    out, at, size = bytearray(), 0, len(glob)
    while at < size:
        char = glob[at : at + 1]
        at += 1
        if char == b"*":
            out += b".*"
        elif char == b"?":
            out += b"."
        elif char == b"[":
            members, at = _class(glob, at)
            out += members
        else:
            if char == b"\\" and at < size:
                char = glob[at : at + 1]
                at += 1
            out += re.escape(char)
    return bytes(out)


def _class(glob: bytes, at: int) -> tuple[bytes, int]:
    """A character class from behind its bracket: (expression, position after it)."""
    size = len(glob)
    negated = glob[at : at + 1] == b"^"
    at += negated
    ranges: list[tuple[int, int]] = []
    while at < size and glob[at] != 0x5D:
        if glob[at] == 0x5C and at + 1 < size:
            at += 1
            ranges.append((glob[at], glob[at]))
            at += 1
        elif at + 2 < size and glob[at + 1] == 0x2D:
            ranges += _range(glob[at], glob[at + 2])
            at += 3
        else:
            ranges.append((glob[at], glob[at]))
            at += 1
    at = min(at + 1, size)
    if not ranges:
        return (b"." if negated else b"(?!)"), at
    body = b"".join(b"\\x%02x-\\x%02x" % pair for pair in ranges)
    return b"[" + (b"^" if negated else b"") + body + b"]", at


def _range(first: int, last: int) -> list[tuple[int, int]]:
    """The bytes between two, either way round; bytes from 128 on count as negative, as C's char does on x86."""
    low, high = sorted(byte - 256 if byte > 127 else byte for byte in (first, last))
    if low >= 0:
        return [(low, high)]
    if high < 0:
        return [(low + 256, high + 256)]
    return [(low + 256, 255), (0, high)]


class KeyFilter:
    """Passes a key that one of ``include`` matches (all keys, when there is none) and none of ``exclude``."""

    __slots__ = ("_exclude", "_exclude_prefixes", "_include", "_include_prefixes", "exclude", "include")

    def __init__(self, include: Iterable[KeyPattern], exclude: Iterable[KeyPattern]) -> None:
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self._include_prefixes, self._include = _compiled(self.include)
        self._exclude_prefixes, self._exclude = _compiled(self.exclude)

    @property
    def empty(self) -> bool:
        """Does it pass everything?"""
        return not self.include and not self.exclude

    def passes(self, key: bytes) -> bool:
        """Is this key carried?"""
        if self.include and not _matches(key, self._include_prefixes, self._include):
            return False
        return not (self.exclude and _matches(key, self._exclude_prefixes, self._exclude))

    def globs(self) -> tuple[list[bytes], list[bytes]] | None:
        """(include, exclude) as patterns for SCAN, or None when there are regular expressions among them."""
        include = [pattern.as_glob() for pattern in self.include]
        exclude = [pattern.as_glob() for pattern in self.exclude]
        known_include = [glob for glob in include if glob is not None]
        known_exclude = [glob for glob in exclude if glob is not None]
        if len(known_include) < len(include) or len(known_exclude) < len(exclude):
            return None
        return known_include, known_exclude


_Compiled = tuple[tuple[bytes, ...], tuple[re.Pattern[bytes], ...]]


def _compiled(patterns: tuple[KeyPattern, ...]) -> _Compiled:
    """Prefixes apart: bytes.startswith takes them all at once."""
    prefixes = tuple(pattern.text for pattern in patterns if pattern.kind == "prefix")
    return prefixes, tuple(pattern.expression() for pattern in patterns if pattern.kind != "prefix")


def _matches(key: bytes, prefixes: tuple[bytes, ...], expressions: tuple[re.Pattern[bytes], ...]) -> bool:
    if prefixes and key.startswith(prefixes):
        return True
    return any(expression.search(key) is not None for expression in expressions)
