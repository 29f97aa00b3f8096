"""Whose state of a key wins when datacenters wrote it at the same time: the key's *home*. No I/O.

Both ends of every link must work out the same home for the same key, without asking each other. So a policy is made of
nothing but its words and the names of the datacenters, and tags carry its `Homes.fingerprint`: where two sides
disagree both would echo for ever, and neither does.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

from canal.errors import ConfigError
from canal.url import Endpoint
from sync.filters import KeyPattern

Place = tuple[int, bytes]
"""(database, key). A function library counts as a key: ``(FUNCTIONS, name)``."""

FUNCTIONS: Final = -1
"""The database in which function libraries count as keys."""

HASH: Final = "hash"


class Homes:
    """A policy. ``words``: ``hash``, or a datacenter's name, or ``PATTERN=DC`` for keys by pattern (glob, ``prefix:…``
    or ``regex:…``; the first that fits wins); of the words without a pattern there is at most one, ``hash`` when there
    is none. ``datacenters``: all that write, in any order.

    Raises ConfigError for words that are none of these, or that name a datacenter which is not among them.
    """

    def __init__(self, words: Sequence[str], datacenters: Iterable[str]) -> None:
        self.datacenters = tuple(sorted(set(datacenters)))
        self.default = HASH
        self._patterns: list[tuple[KeyPattern, str]] = []
        plain: list[str] = []
        for word in words:
            pattern, equals, name = word.rpartition("=")
            if equals:
                self._patterns.append((KeyPattern.parse(pattern), self._known(name, word)))
            else:
                plain.append(self._known(word, word))
        if len(plain) > 1:
            raise ConfigError(f"home: expected one of {', '.join(plain)} for keys that no pattern names, got all")
        self.default = plain[0] if plain else HASH
        self._tests = [(pattern.expression().search, name) for pattern, name in self._patterns]

    def _known(self, name: str, word: str) -> str:
        if name == HASH or name in self.datacenters:
            return name
        raise ConfigError(
            f"home {word!r}: expected hash, a datacenter ({', '.join(self.datacenters)}) or PATTERN=DATACENTER, "
            f"and found no datacenter {name!r}"
        )

    def home(self, place: Place) -> str:
        """The datacenter whose state of this key wins."""
        name = self._named(place[1])
        return name if name != HASH else self.datacenters[self._hashed(place[1])]

    def ranking(self, place: Place) -> tuple[str, ...]:
        """Every datacenter: the home, and after it who stands in for it, in order, when it is not there."""
        name = self._named(place[1])
        names = self.datacenters
        first = self._hashed(place[1]) if name == HASH else names.index(name)
        return names[first:] + names[:first]

    @property
    def fingerprint(self) -> str:
        """Eight hex digits; equal for policies that give every key the same home."""
        said = [*(f"{pattern}={name}" for pattern, name in self._patterns), self.default, *self.datacenters]
        return hashlib.sha256("\0".join(said).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        words = [*(f"{pattern}={name}" for pattern, name in self._patterns), self.default]
        return f"{', '.join(words)} among {', '.join(self.datacenters)}"

    def _named(self, key: bytes) -> str:
        for search, name in self._tests:
            if search(key):
                return name
        return self.default

    def _hashed(self, key: bytes) -> int:
        return zlib.crc32(hash_tag(key)) % len(self.datacenters)


def hash_tag(key: bytes) -> bytes:
    """The part of a key that places it (Redis Cluster specification): what stands in its first ``{…}`` unless that is
    empty, or the whole key. Keys that are used together have one home that way.
    """
    begin = key.find(b"{")
    if begin < 0:
        return key
    end = key.find(b"}", begin + 1)
    return key[begin + 1 : end] if end > begin + 1 else key


def library_name(argv: list[bytes]) -> bytes:
    """The library that FUNCTION LOAD or DELETE concerns; empty where the command does not say."""
    word = argv[1].upper() if len(argv) > 1 else b""
    if word == b"DELETE" and len(argv) > 2:
        return argv[2]
    if word == b"LOAD" and len(argv) > 2:
        for part in argv[-1].split(b"\n", 1)[0].split():
            if part.startswith(b"name="):
                return part[5:]
    return b""


def refuse_clusters(
    source: Endpoint,
    target: Endpoint,
    conflicts: str = "settle",
    home: Sequence[str] = (HASH,),
    direct: Sequence[str] = (),
    flush: str = "auto",
    others: Sequence[str] = (),
) -> None:
    """Raise ConfigError for what cannot go two ways with a cluster on either side, or without settling conflicts.

    A cluster has as many streams as masters; a third datacenter would have to compare positions of all of them.
    ``others``: datacenters that write, besides source, target and ``direct``.
    """
    third = [*direct, *others]
    clusters = [(side, one) for side, one in (("source", source), ("target", target)) if one.clustered]
    for side, endpoint in clusters if third else ():
        raise ConfigError(
            f"{side} {endpoint.label} is a Redis Cluster: two ways it is linked with one other datacenter, and "
            f"{', '.join(third)} is named besides"
        )
    if flush == "replay" and clusters:
        raise ConfigError("--flush replay is not for clusters two ways: FLUSHALL of one master would empty all others")
    if conflicts != "off":
        return
    if any(word.rpartition("=")[2] == HASH for word in home):
        raise ConfigError(
            "conflicts: off needs to know where keys are written when both sides are brought together: give --home "
            "(two_way.home) a datacenter, or PATTERN=DATACENTER and one for the rest; hash says nothing of that"
        )
    if direct:
        raise ConfigError(f"conflicts: off is for two datacenters, and direct names {', '.join(direct)} besides")
