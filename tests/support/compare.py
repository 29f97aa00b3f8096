"""Whether two servers hold the same: key by key, by content and deadline. It shares no code with the product.

    assert_equal(source, target)
    wait_equal(source, target, timeout=30)         # in async tests: await asyncio.to_thread(wait_equal, a, b)
    differences(source, target)                    # readable lines; empty when equal

Compared: which keys are in which database; type; strings (so bitmaps, HyperLogLogs), lists in order, sets, hashes and
their fields' deadlines, sorted sets with scores as exact doubles, streams (entries, last id, max-deleted id,
entries-added, groups, consumers, pending entries with delivery time and count); each key's deadline; functions.

Left out, because no replica reproduces it either: a stream group's entries-read and lag, consumers' seen and active
times. Also encodings, LRU and LFU. Keys under `redis-canal:` are not user data and are skipped.

Equal DUMP payloads mean equal content, so only keys whose payloads differ (other encoding, other element order, other
version) are read in full. What differs is read a second time before it is reported: a key may have expired in between.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import hiredis

from tests.support.content import read_contents, unlike
from tests.support.process import PATIENCE_S
from tests.support.wire import Command, Target, Wire

RESERVED = b"redis-canal:"
LIMIT = 20

_CHUNK = 1000
_FOOTER = 10  # DUMP: two bytes RDB version, eight bytes CRC64
_FIRST_AMBIGUOUS_TYPE = 22  # from here on Redis and Valkey give the same number to different layouts


def assert_equal(a: Target, b: Target, *, ttl_tolerance_ms: int = 1) -> None:
    found = differences(a, b, ttl_tolerance_ms=ttl_tolerance_ms)
    assert not found, _report(found)


def wait_equal(a: Target, b: Target, timeout: float = 30.0, *, ttl_tolerance_ms: int = 1, every: float = 0.05) -> None:
    """Compare until equal; AssertionError with the differences after `timeout` seconds, but at least a minute."""
    timeout = max(timeout, PATIENCE_S)
    deadline = time.monotonic() + timeout
    while differences(a, b, ttl_tolerance_ms=ttl_tolerance_ms, limit=1):
        if time.monotonic() > deadline:
            found = differences(a, b, ttl_tolerance_ms=ttl_tolerance_ms)
            assert not found, f"not equal within {timeout:g} s\n{_report(found)}"
            return
        time.sleep(every)


def _report(found: list[str]) -> str:
    more = "\n(only the first ones)" if len(found) >= LIMIT else ""
    return "the servers differ:\n" + "\n".join(found) + more


def differences(a: Target, b: Target, *, ttl_tolerance_ms: int = 1, limit: int = LIMIT) -> list[str]:
    """The first `limit` differences, one readable line each.

    Deadlines are compared as absolute milliseconds, exact to the tolerance where the server has PEXPIRETIME (7.0 on);
    elsewhere TIME before and after PTTL bounds them, and the bounds must meet within the tolerance.
    """
    with Side(a) as left, Side(b) as right:
        found = list(islice(_everything(left, right, ttl_tolerance_ms), limit))
    return found


class Side:
    """One of the two servers."""

    def __init__(self, target: Target) -> None:
        self.wire = Wire(target)
        info = self.wire.ask("INFO", "server").decode()
        valkey = re.search(r"^valkey_version:(\d+)\.(\d+)", info, re.MULTILINE)
        redis = re.search(r"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
        match = valkey or redis
        assert match is not None
        self.valkey = valkey is not None
        self.version = int(match[1]), int(match[2])
        # Valkey counts on from 7.2, so one comparison serves both.
        self.has_pexpiretime = self.has_functions = self.version >= (7, 0)
        self.has_field_deadlines = self.version >= ((9, 0) if self.valkey else (7, 4))
        self.has_stream_full = self.version >= (6, 0)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def databases(self) -> set[int]:
        info = self.wire.ask("INFO", "keyspace").decode()
        return {int(number) for number in re.findall(r"^db(\d+):", info, re.MULTILINE)}

    def keys(self, db: int) -> set[bytes]:
        self.wire.ask("SELECT", db)
        cursor, found = b"0", set[bytes]()
        while True:
            cursor, batch = self.wire.ask("SCAN", cursor, "COUNT", 10_000)
            found.update(batch)
            if cursor == b"0":
                return {key for key in found if not key.startswith(RESERVED)}

    def ask_deadlines(self, keys: list[bytes]) -> Iterator[Command]:
        """The commands whose replies `deadlines` understands: one more in front and behind than there are keys."""
        name = "PEXPIRETIME" if self.has_pexpiretime else "PTTL"
        yield ("TIME",)
        yield from ((name, key) for key in keys)
        yield ("TIME",)

    def deadlines(self, replies: list[Any]) -> list[tuple[int, int] | None]:
        """Earliest and latest possible deadline of each key in Unix milliseconds; None when it has none."""
        earliest = latest = 0
        if not self.has_pexpiretime:
            earliest = int(replies[0][0]) * 1000 + int(replies[0][1]) // 1000
            latest = int(replies[-1][0]) * 1000 + int(replies[-1][1]) // 1000 + 1
        return [None if left < 0 else (earliest + left, latest + left) for left in replies[1:-1]]


def _everything(a: Side, b: Side, tolerance_ms: int) -> Iterator[str]:
    yield from _compare_functions(a, b)
    for db in sorted(a.databases() | b.databases()):
        keys_a, keys_b = a.keys(db), b.keys(db)
        yield from _compare_keys(a, b, db, sorted(keys_a ^ keys_b), tolerance_ms)
        yield from _compare_keys(a, b, db, keys_a & keys_b, tolerance_ms)


def _compare_keys(a: Side, b: Side, db: int, keys: Iterable[bytes], tolerance_ms: int) -> Iterator[str]:
    rest = iter(keys)
    while chunk := list(islice(rest, _CHUNK)):
        if doubtful := _unequal(a, b, chunk, tolerance_ms):
            again = _unequal(a, b, list(doubtful), tolerance_ms)
            for key, what in again.items():
                yield f"db {db} key {_shown(key)}: {what}"


def _unequal(a: Side, b: Side, keys: list[bytes], tolerance_ms: int) -> dict[bytes, str]:
    """What differs, by key."""
    dumps_a, deadlines_a, dumps_b, deadlines_b = _read_both(a, b, keys)
    found: dict[bytes, str] = {}
    closer: list[bytes] = []
    for key, dump_a, dump_b, until_a, until_b in zip(keys, dumps_a, dumps_b, deadlines_a, deadlines_b, strict=True):
        if dump_a is None or dump_b is None:
            if dump_a is not dump_b:
                found[key] = "only in a" if dump_b is None else "only in b"
        elif not _near(until_a, until_b, tolerance_ms):
            found[key] = f"deadline in a {_when(until_a)}, in b {_when(until_b)}"
        elif not _same_dump(dump_a, dump_b, a.valkey == b.valkey):
            closer.append(key)
    if closer:
        contents = zip(closer, read_contents(a, closer), read_contents(b, closer), strict=True)
        found.update({key: what for key, one, other in contents if (what := unlike(one, other, tolerance_ms))})
    return found


def _read_both(a: Side, b: Side, keys: list[bytes]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    sent = []
    for side in (a, b):
        dumps: list[Command] = [("DUMP", key) for key in keys]
        sent.append(side.wire.send([*dumps, *side.ask_deadlines(keys)]))
    result: list[list[Any]] = []
    for side, count in zip((a, b), sent, strict=True):
        replies = side.wire.receive(count)
        result += [replies[: len(keys)], side.deadlines(replies[len(keys) :])]
    return result[0], result[1], result[2], result[3]


def _same_dump(a: bytes | hiredis.ReplyError, b: bytes | hiredis.ReplyError, same_flavor: bool) -> bool:
    if isinstance(a, hiredis.ReplyError) or isinstance(b, hiredis.ReplyError):
        return False
    return a[:-_FOOTER] == b[:-_FOOTER] and (same_flavor or a[0] < _FIRST_AMBIGUOUS_TYPE)


def _near(a: tuple[int, int] | None, b: tuple[int, int] | None, tolerance_ms: int) -> bool:
    if a is None or b is None:
        return a is b
    return a[0] - tolerance_ms <= b[1] and b[0] - tolerance_ms <= a[1]


def _when(deadline: tuple[int, int] | None) -> str:
    if deadline is None:
        return "none"
    return str(deadline[0]) if deadline[0] == deadline[1] else f"{deadline[0]}…{deadline[1]}"


def _compare_functions(a: Side, b: Side) -> Iterator[str]:
    if not (a.has_functions and b.has_functions):
        return
    libraries_a, libraries_b = _libraries(a), _libraries(b)
    for name in sorted(libraries_a.keys() | libraries_b.keys()):
        if name not in libraries_a or name not in libraries_b:
            yield f"function library {_shown(name)}: only in {'a' if name in libraries_a else 'b'}"
        elif libraries_a[name] != libraries_b[name]:
            yield f"function library {_shown(name)}: other code or engine"


def _libraries(side: Side) -> dict[bytes, tuple[bytes, bytes]]:
    """(engine, code) by name."""
    libraries = [
        dict(zip(flat[::2], flat[1::2], strict=True)) for flat in side.wire.ask("FUNCTION", "LIST", "WITHCODE")
    ]
    return {found[b"library_name"]: (found[b"engine"], found[b"library_code"]) for found in libraries}


def _shown(name: bytes) -> str:
    return repr(name if len(name) <= 60 else name[:60] + b"...")
