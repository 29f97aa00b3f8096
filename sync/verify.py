"""Compare two servers by content, key by key, with TTLs, in both directions, while writes may go on.

A difference counts only when it is still there in every one of several rounds, so that what is in flight is not
reported. Both servers are read with SCAN and pipelined reads; nothing is written. Reserved keys are left out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import hiredis

from canal.endpoint import Endpoint
from canal.errors import AuthError, CanalError, PeerError
from sync.content import comparable, describe, field_deadlines_command, read_command, size_command, weight
from sync.tag import RESERVED
from sync.target.connection import Connection, connect

Kind = Literal["missing", "extra", "type", "value", "ttl", "function"]
DELAYED_TTL_TOLERANCE_MS: Final = 50  # where a side tells only remaining times, which pass on the way
_NO_DEADLINE: Final = -1


@dataclass(frozen=True, slots=True)
class Options:
    """``rounds`` looks in all, ``pause_s`` between them; ``keep`` bounds how many differences are remembered."""

    databases: tuple[int, ...] | None = None  # None: all that hold keys on either side
    pattern: bytes | None = None  # glob, as SCAN MATCH
    ttl_tolerance_ms: int = 1
    rounds: int = 3
    pause_s: float = 1.0
    page: int = 500
    max_weight: int = 20_000  # elements asked for in one go
    keep: int = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """One key (or function library) that is not the same. ``missing`` at the second side, or ``extra`` there."""

    db: int
    key: bytes
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        what = "function library" if self.kind == "function" else f"db {self.db} key"
        return f"{self.kind}: {what} {self.key!r}" + (f": {self.detail}" if self.detail else "")


@dataclass(slots=True)
class Report:
    """The result. ``keys`` were compared; ``first_keys`` and ``second_keys`` were seen on each side."""

    keys: int = 0
    first_keys: int = 0
    second_keys: int = 0
    rounds: int = 0
    overflow: bool = False  # more keys differed at some time than can be remembered: look again when it is calmer
    differences: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differences and not self.overflow

    def as_dict(self) -> dict[str, Any]:
        """For JSON; keys as text with what is not printable escaped."""
        out = asdict(self)
        out["equal"] = self.equal
        for difference in out["differences"]:
            difference["key"] = difference["key"].decode("utf-8", "backslashreplace")
        return out


Progress = Callable[[Report], None]


async def compare(
    first: Endpoint, second: Endpoint, options: Options | None = None, progress: Progress | None = None
) -> Report:
    """Compare and report. Raises PeerError when a side cannot be reached or read."""
    sides = (await _Side.open(first), None)
    try:
        pair = (sides[0], await _Side.open(second))
        try:
            return await _Comparison(*pair, options or Options(), progress or (lambda report: None)).run()
        finally:
            pair[1].close()
    finally:
        sides[0].close()


class _Side:
    """One server: a connection, the database selected on it, and what it can do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._db = 0
        self.commands: frozenset[bytes] = frozenset()

    @classmethod
    async def open(cls, endpoint: Endpoint) -> _Side:
        side = cls(await connect(endpoint))
        wanted = (b"PEXPIRETIME", b"HPEXPIRETIME", b"FUNCTION")
        found = await side.ask(0, [[b"COMMAND", b"INFO", *wanted]])
        if not isinstance(found[0], hiredis.ReplyError):
            side.commands = frozenset(name for name, info in zip(wanted, found[0], strict=True) if info)
        return side

    def close(self) -> None:
        self._connection.close()

    async def ask(self, db: int, commands: list[list[bytes]]) -> list[Any]:
        """Replies to commands in one database; error replies stand in the list, but for missing permission."""
        if db != self._db:
            await self._connection.call(b"SELECT", b"%d" % db)
            self._db = db
        replies = await self._connection.calls(commands) if commands else []
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("NOPERM", "NOAUTH")):
                raise AuthError(f"{self._connection.endpoint.label}: {reply}; comparing needs read access to all keys")
        return replies

    async def databases(self) -> set[int]:
        """Those that hold keys."""
        (text,) = await self.ask(0, [[b"INFO", b"keyspace"]])
        if isinstance(text, hiredis.ReplyError):
            raise PeerError(f"{self._connection.endpoint.label}: INFO: {text}")
        return {int(number) for number in re.findall(rb"^db(\d+):", text, re.MULTILINE)}

    async def scan(self, db: int, options: Options) -> AsyncIterator[list[bytes]]:
        """Pages of keys without the reserved ones; a key may come twice."""
        cursor = b"0"
        match = [b"MATCH", options.pattern] if options.pattern else []
        while True:
            (reply,) = await self.ask(db, [[b"SCAN", cursor, *match, b"COUNT", b"%d" % options.page]])
            if isinstance(reply, hiredis.ReplyError):
                raise PeerError(f"{self._connection.endpoint.label}: SCAN: {reply}")
            cursor, keys = reply
            if page := [key for key in keys if not key.startswith(RESERVED)]:
                yield page
            if cursor == b"0":
                return


class _Comparison:
    """One run over two sides."""

    def __init__(self, first: _Side, second: _Side, options: Options, progress: Progress) -> None:
        self._first, self._second, self._options, self._progress = first, second, options, progress
        shared = first.commands & second.commands
        self._absolute = b"PEXPIRETIME" in shared
        self._field_deadlines = b"HPEXPIRETIME" in shared
        self._functions = b"FUNCTION" in shared
        self._tolerance = max(options.ttl_tolerance_ms, 0 if self._absolute else DELAYED_TTL_TOLERANCE_MS)
        self._report = Report()

    async def run(self) -> Report:
        report, options = self._report, self._options
        suspects = await self._first_round()
        report.rounds = 1
        self._progress(report)
        while suspects and report.rounds < options.rounds:
            await asyncio.sleep(options.pause_s)
            suspects = await self._again(suspects)
            report.rounds += 1
        report.differences = sorted(suspects, key=lambda one: (one.db, one.key))
        self._progress(report)
        return report

    async def _both(self, db: int, commands: list[list[bytes]]) -> tuple[list[Any], list[Any]]:
        answers = await asyncio.gather(
            self._first.ask(db, commands), self._second.ask(db, commands), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers[0], answers[1]  # type: ignore[return-value]

    async def _first_round(self) -> list[Difference]:
        suspects: list[Difference] = []
        chosen = self._options.databases
        dbs = sorted(await self._first.databases() | await self._second.databases()) if chosen is None else chosen
        for db in dbs:
            async for page in self._first.scan(db, self._options):
                self._report.first_keys += len(page)
                self._keep(suspects, await self._page(db, page))
            async for page in self._second.scan(db, self._options):
                self._report.second_keys += len(page)
                self._keep(suspects, await self._extra(db, page))
        if self._functions:
            self._keep(suspects, await self._libraries())
        return suspects

    def _keep(self, suspects: list[Difference], found: Iterable[Difference]) -> None:
        for one in found:
            if len(suspects) >= self._options.keep:
                self._report.overflow = True
                break
            suspects.append(one)
        self._progress(self._report)

    async def _again(self, suspects: Sequence[Difference]) -> list[Difference]:
        """Those that differ still."""
        out: list[Difference] = []
        if any(one.kind == "function" for one in suspects):
            out += await self._libraries()
        for db in sorted({one.db for one in suspects if one.kind != "function"}):
            keys = sorted({one.key for one in suspects if one.db == db and one.kind != "function"})
            for start in range(0, len(keys), self._options.page):
                out += await self._page(db, keys[start : start + self._options.page], count=False)
        return out

    async def _extra(self, db: int, page: list[bytes]) -> list[Difference]:
        """Keys of the second side that the first lacks."""
        exists = await self._first.ask(db, [[b"EXISTS", key] for key in page])
        absent = [key for key, there in zip(page, exists, strict=True) if not there]
        return await self._page(db, absent, count=False) if absent else []

    async def _page(self, db: int, keys: list[bytes], count: bool = True) -> list[Difference]:
        """Compare these keys whole. Keys that exist on neither side are equal."""
        out: list[Difference] = []
        deadline = b"PEXPIRETIME" if self._absolute else b"PTTL"
        commands = [command for key in keys for command in ([b"TYPE", key], [deadline, key])]
        here, there = await self._both(db, commands)
        same: list[tuple[bytes, bytes]] = []
        for index, key in enumerate(keys):
            left, right = here[2 * index], there[2 * index]
            if left != right:
                out.append(_kinds(db, key, left, right))
            elif left != b"none":
                same.append((key, left))
                out += self._deadlines(db, key, here[2 * index + 1], there[2 * index + 1])
        if count:
            self._report.keys += len(keys)
        ttl = {one.key for one in out}
        return out + [one for one in await self._values(db, same) if one.key not in ttl]

    def _deadlines(self, db: int, key: bytes, left: int, right: int) -> list[Difference]:
        if left == right or (left > 0 and right > 0 and abs(left - right) <= self._tolerance):
            return []
        unit = "" if self._absolute else " left"
        return [Difference(db, key, "ttl", f"{_when(left)} against {_when(right)}{unit}")]

    async def _values(self, db: int, keys: list[tuple[bytes, bytes]]) -> list[Difference]:
        """Compare the values of keys whose type is known to be the same."""
        here, there = await self._both(db, [size_command(kind, key) for key, kind in keys])
        out: list[Difference] = []
        group: list[tuple[bytes, bytes]] = []
        total = 0
        for (key, kind), left, right in zip(keys, here, there, strict=True):
            if left != right:
                out.append(Difference(db, key, "value", f"{kind.decode()} of size {left} against {right}"))
                continue
            cost = weight(kind, left) if isinstance(left, int) else 0
            if group and total + cost > self._options.max_weight:
                out += await self._contents(db, group)
                group, total = [], 0
            group.append((key, kind))
            total += cost
        return out + await self._contents(db, group)

    async def _contents(self, db: int, group: list[tuple[bytes, bytes]]) -> list[Difference]:
        here, there = await self._both(db, [read_command(kind, key) for key, kind in group])
        out: list[Difference] = []
        hashes: list[tuple[bytes, list[bytes]]] = []
        for (key, kind), left, right in zip(group, here, there, strict=True):
            ours, theirs = comparable(kind, left), comparable(kind, right)
            if ours != theirs:
                out.append(Difference(db, key, "value", f"{kind.decode()}: {describe(kind, ours, theirs)}"))
            elif kind == b"hash" and self._field_deadlines and isinstance(ours, dict):
                hashes.append((key, list(ours)))
        return out + await self._fields(db, hashes)

    async def _fields(self, db: int, hashes: list[tuple[bytes, list[bytes]]]) -> list[Difference]:
        """Deadlines of hash fields."""
        here, there = await self._both(db, [field_deadlines_command(key, fields) for key, fields in hashes])
        out: list[Difference] = []
        for (key, fields), left, right in zip(hashes, here, there, strict=True):
            if left == right or isinstance(left, hiredis.ReplyError) or isinstance(right, hiredis.ReplyError):
                continue
            for name, ours, theirs in zip(fields, left, right, strict=True):
                out += [
                    Difference(db, key, "ttl", f"field {name!r}: {one.detail}")
                    for one in self._deadlines(db, key, ours, theirs)
                ]
        return out

    async def _libraries(self) -> list[Difference]:
        """Function libraries, by name and code."""
        here, there = (_code(reply[0]) for reply in await self._both(0, [[b"FUNCTION", b"LIST", b"WITHCODE"]]))
        return [
            Difference(0, name, "function", _presence(name in here, name in there))
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]


def _code(reply: Any) -> dict[bytes, bytes]:
    if isinstance(reply, hiredis.ReplyError):
        return {}
    libraries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in reply]
    return {library[b"library_name"]: library[b"library_code"] for library in libraries}


def _presence(here: bool, there: bool) -> str:
    if here and there:
        return "the code differs"
    return "only at the first side" if here else "only at the second side"


def _kinds(db: int, key: bytes, left: Any, right: Any) -> Difference:
    for reply in (left, right):
        if isinstance(reply, hiredis.ReplyError):
            raise CanalError(f"TYPE of {key!r} in db {db}: {reply}")
    if right == b"none":
        return Difference(db, key, "missing", left.decode())
    if left == b"none":
        return Difference(db, key, "extra", right.decode())
    return Difference(db, key, "type", f"{left.decode()} against {right.decode()}")


def _when(deadline: Any) -> str:
    return "none" if deadline == _NO_DEADLINE else f"{deadline} ms"
