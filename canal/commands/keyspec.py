"""Where the keys of a command stand, as data.

A specification is a few words, one per group of keys. The letter says what the command does with them:

======  ==============================================================================
letter  meaning
======  ==============================================================================
``W``   written whole or removed; what the key held before does not matter
``U``   updated: the outcome depends on what the same key held before
``R``   read: its value flows into *another* key (``SUNIONSTORE d s``: ``s``)
``M``   moved: read like ``R`` and written (``RENAME s d``: ``s``)
======  ==============================================================================

After the letter: ``1`` the argument at that index (the name is 0), ``1..`` from there to the end, ``1..-2`` to the last
but one, ``/2`` every second one, ``#2`` a count at index 2 followed by that many keys. Commands whose keys depend on
their options name a finder in braces.

Every finder is total: arguments that no server would have accepted give fewer keys, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

Argv = Sequence[bytes]
Found = list[tuple[int, int]]  # (index in argv, access)

READ: Final = 1
WRITE: Final = 2
OLD: Final = 4  # the outcome depends on the key's former value

ACCESS: Final[dict[str, int]] = {
    "W": WRITE,
    "U": WRITE | OLD,
    "R": READ | OLD,
    "M": READ | WRITE | OLD,
}


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One group of keys. ``count_at`` > 0: a numkeys argument stands there and the keys follow it."""

    access: int
    first: int
    last: int  # index of the last key; negative counts from the end
    step: int
    count_at: int


Finder = Callable[[Argv], Found]


def integer(text: bytes) -> int | None:
    """The decimal integer in ``text`` (64 bits at most, as servers read it), or None."""
    if not text or len(text) > 20:
        return None
    digits = text[1:] if text[:1] == b"-" else text
    return int(text) if digits.isdigit() else None


def parse_word(word: str) -> KeySpec:
    """Read one word of the notation above; ValueError when it is none."""
    access = ACCESS.get(word[:1])
    if access is None:
        raise ValueError(f"key specification {word!r}: expected W, U, R or M first")
    body, _, step = word[1:].partition("/")
    stride = int(step) if step else 1
    if body.startswith("#"):
        at = int(body[1:])
        return KeySpec(access, at + 1, -1, stride, at)
    first, dots, last = body.partition("..")
    if not dots:
        return KeySpec(access, int(first), int(first), stride, 0)
    return KeySpec(access, int(first), int(last) if last else -1, stride, 0)


def find(specs: tuple[KeySpec, ...], argv: Argv) -> Found:
    """The keys of ``argv`` by plain specifications, in the order of the arguments within each group."""
    found: Found = []
    size = len(argv)
    for spec in specs:
        last = spec.last if spec.last >= 0 else size + spec.last
        if spec.count_at:
            number = integer(argv[spec.count_at]) if spec.count_at < size else None
            if number is None or number <= 0:
                continue
            last = spec.first + (number - 1) * spec.step
        if last >= size:
            last = size - 1
        access = spec.access
        for index in range(spec.first, last + 1, spec.step):
            found.append((index, access))
    return found


# --- finders for commands whose keys depend on their options -------------------------------------------------


def _set(argv: Argv) -> Found:
    """SET replaces the key, unless an option asks about what it held (NX, XX, IFEQ …, KEEPTTL)."""
    if len(argv) < 2:
        return []
    for option in argv[3:]:
        if option.upper() in _SET_ASKS:
            return [(1, ACCESS["U"])]
    return [(1, WRITE)]


_SET_ASKS: Final = frozenset({b"NX", b"XX", b"KEEPTTL", b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"})


def _msetex(argv: Argv) -> Found:
    """MSETEX numkeys key value … [NX|XX] [EX …|KEEPTTL]."""
    number = integer(argv[1]) if len(argv) > 1 else None
    if number is None or number <= 0:
        return []
    end = min(2 + 2 * number, len(argv))
    asks = any(option.upper() in _SET_ASKS for option in argv[end:])
    return [(index, ACCESS["U"] if asks else WRITE) for index in range(2, end, 2)]


def _copy(argv: Argv) -> Found:
    """COPY src dst [DB n] [REPLACE]: without REPLACE the destination's existence decides."""
    if len(argv) < 3:
        return []
    replaces = any(option.upper() == b"REPLACE" for option in argv[3:])
    return [(1, ACCESS["R"]), (2, WRITE if replaces else ACCESS["U"])]


def _restore(argv: Argv) -> Found:
    """RESTORE key ttl payload [REPLACE] …: without REPLACE it fails on a key that exists."""
    if len(argv) < 2:
        return []
    replaces = any(option.upper() == b"REPLACE" for option in argv[4:])
    return [(1, WRITE if replaces else ACCESS["U"])]


def _after_token(argv: Argv, start: int, tokens: frozenset[bytes]) -> int | None:
    """Index of the argument after the last of ``tokens`` (the server lets the last one win), or None."""
    at = None
    for index in range(start, len(argv) - 1):
        if argv[index].upper() in tokens:
            at = index + 1
    return at


_STORE: Final = frozenset({b"STORE", b"STOREDIST"})


def _georadius(argv: Argv) -> Found:
    start = 6 if argv[0].upper() == b"GEORADIUS" else 5
    found: Found = [(1, ACCESS["R"])] if len(argv) > 1 else []
    store = _after_token(argv, start, _STORE)
    return found if store is None else [*found, (store, WRITE)]


def _sort(argv: Argv) -> Found:
    """SORT key [BY p] [LIMIT o n] [GET p …] [ASC|DESC] [ALPHA] [STORE dst]; patterns are no key names."""
    found: Found = [(1, ACCESS["R"])] if len(argv) > 1 else []
    store, index = None, 2
    while index < len(argv):
        option = argv[index].upper()
        if option == b"STORE" and index + 1 < len(argv):
            store = index + 1
        index += 3 if option == b"LIMIT" else 2 if option in (b"BY", b"GET", b"STORE") else 1
    return found if store is None else [*found, (store, WRITE)]


def _migrate(argv: Argv) -> Found:
    """MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH p] [AUTH2 u p] [KEYS k …]."""
    if len(argv) < 4:
        return []
    if argv[3]:
        return [(3, WRITE)]
    index = 6
    while index < len(argv):
        option = argv[index].upper()
        if option == b"KEYS":
            return [(at, WRITE) for at in range(index + 1, len(argv))]
        index += 3 if option == b"AUTH2" else 2 if option == b"AUTH" else 1
    return []


def _xreadgroup(argv: Argv) -> Found:
    """XREADGROUP GROUP g c [COUNT n] [BLOCK n] [CLAIM n] [NOACK] STREAMS k … id …: the first half are keys."""
    for index in range(4, len(argv)):
        if argv[index].upper() == b"STREAMS":
            number = (len(argv) - index - 1) // 2
            return [(at, ACCESS["U"]) for at in range(index + 1, index + 1 + number)]
    return []


def _xgroup(argv: Argv) -> Found:
    """XGROUP CREATE|SETID|… key …; XGROUP HELP has no key."""
    return [(2, ACCESS["U"])] if len(argv) > 2 else []


FINDERS: Final[dict[str, Finder]] = {
    "{set}": _set,
    "{msetex}": _msetex,
    "{copy}": _copy,
    "{restore}": _restore,
    "{georadius}": _georadius,
    "{sort}": _sort,
    "{migrate}": _migrate,
    "{xreadgroup}": _xreadgroup,
    "{xgroup}": _xgroup,
}
