"""One server or cluster of a comparison: a connection, what it can do, and its keys in pages. Nothing is written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import hiredis

from canal.endpoint import Endpoint
from canal.errors import AuthError, PeerError
from canal.position import Position
from sync.tag import RESERVED
from sync.target.cluster.scanning import nodes_of
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

Asked = Sequence[tuple[int, list[bytes]]]
"""(database, command) pairs."""
_WANTED = (b"PEXPIRETIME", b"HPEXPIRETIME", b"FUNCTION", b"MEMORY", b"ZMSCORE", b"SMISMEMBER", b"EVAL_RO")


class Side:
    """Made by `open`. Several calls may be under way at once: they are answered in order."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name  # for messages: "first" or "second"
        self.commands: frozenset[bytes] = frozenset()
        self.scripts = False  # may scripts be called?
        self.script = b"EVAL"  # by this command; EVAL_RO (7.0) goes on where writes are held (CLIENT PAUSE WRITE)
        self._connection = connection
        self._db = 0

    @classmethod
    async def open(cls, endpoint: Endpoint, name: str, *, held: bool = False) -> Side:
        """Connect. Raises PeerError. ``held``: writes are held there, and before 7.0 scripts would be, too."""
        side = cls(await connect(endpoint, who=f"{name} side"), name)
        try:
            (found,) = await side.ask(0, [[b"COMMAND", b"INFO", *_WANTED]], False)
            if not isinstance(found, hiredis.ReplyError):
                side.commands = frozenset(name for name, info in zip(_WANTED, found, strict=True) if info)
            if b"EVAL_RO" in side.commands:
                side.script = b"EVAL_RO"
            if side.several:
                pass  # a script speaks of one slot: keys are asked for by ordinary commands
            elif side.script != b"EVAL" or not held:
                (script,) = await side.ask(0, [[side.script, b"return 1", b"0"]], False)
                side.scripts = script == 1
        except BaseException:
            side.close()
            raise
        return side

    @property
    def label(self) -> str:
        """How the server is called in messages."""
        return self._connection.endpoint.label

    @property
    def several(self) -> bool:
        """Is it a whole cluster?"""
        return self._connection.several

    def close(self) -> None:
        """Drop the connection."""
        self._connection.close()

    async def each(self, asked: Asked, strict: bool = True) -> list[Any]:
        """Replies to commands; error replies stand in the list, but for missing permission where ``strict``."""
        commands: list[list[bytes]] = []
        selects: list[int] = []
        for db, command in asked:
            if db != self._db:
                selects.append(len(commands))
                commands.append([b"SELECT", b"%d" % db])
                self._db = db
            commands.append(command)
        if not commands:
            return []
        replies = await self._connection.calls(commands, timeout=60.0)
        for at in selects:
            if isinstance(replies[at], hiredis.ReplyError):
                raise PeerError(f"{self.label}: SELECT {commands[at][1].decode()}: {replies[at]}")
        if selects:
            skipped = set(selects)
            replies = [reply for at, reply in enumerate(replies) if at not in skipped]
        if strict:
            self._permitted(replies)
        return replies

    def _permitted(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("NOPERM", "NOAUTH")):
                raise AuthError(f"{self.label}: {reply}; comparing needs read access to all keys")

    async def ask(self, db: int, commands: list[list[bytes]], strict: bool = True) -> list[Any]:
        """`each` for commands in one database."""
        return await self.each([(db, command) for command in commands], strict)

    async def databases(self) -> dict[int, int]:
        """Those that hold keys, and how many."""
        (text,) = await self.ask(0, [[b"INFO", b"keyspace"]])
        if isinstance(text, hiredis.ReplyError):
            raise PeerError(f"{self.label}: INFO: {text}")
        return {int(db): int(keys) for db, keys in re.findall(rb"^db(\d+):keys=(\d+)", text, re.MULTILINE)}

    async def scan(self, db: int, cursor: bytes, count: int, pattern: bytes | None) -> tuple[bytes, list[bytes]]:
        """One page of keys without the reserved ones, and the cursor of the next (``0``: that was the last).

        A key may come twice. A cluster's masters come one after the other: ``<number>:<cursor>``.
        """
        match = [b"MATCH", pattern] if pattern else []
        if self.several:
            number, _, at = cursor.rpartition(b":")
            nodes = nodes_of(self._connection)
            found, keys = await nodes[int(number or 0)].call(b"SCAN", at, *match, b"COUNT", b"%d" % count)
            nearby = int(number or 0) + (found == b"0")
            onward = b"0" if nearby == len(nodes) else b"%d:%b" % (nearby, found)
            return onward, [key for key in keys if not key.startswith(RESERVED)]
        (reply,) = await self.ask(db, [[b"SCAN", cursor, *match, b"COUNT", b"%d" % count]])
        if isinstance(reply, hiredis.ReplyError):
            raise PeerError(f"{self.label}: SCAN: {reply}")
        return reply[0], [key for key in reply[1] if not key.startswith(RESERVED)]

    async def random(self, db: int, count: int) -> list[bytes]:
        """Keys chosen at random, each once, without the reserved ones: ``count`` or fewer."""
        found: list[Any] = []
        if self.several:
            nodes = nodes_of(self._connection)
            for number, node in enumerate(nodes):
                found += await node.calls([[b"RANDOMKEY"]] * len(range(number, count, len(nodes))))
        else:
            found = await self.ask(db, [[b"RANDOMKEY"]] * count)
        for reply in found:
            if isinstance(reply, hiredis.ReplyError):
                raise PeerError(f"{self.label}: RANDOMKEY: {reply}")
        return [key for key in dict.fromkeys(found) if key is not None and not key.startswith(RESERVED)]

    async def info(self) -> dict[str, str]:
        """INFO's server and replication sections; empty when it may not be asked. Of a cluster its first master's, with
        the ``run_id`` of all.
        """
        if self.several:
            found = [await _info(node) for node in nodes_of(self._connection)]
            return {**found[0], "run_id": ",".join(one.get("run_id", "") for one in found)}
        replies = await self.ask(0, [[b"INFO", b"server"], [b"INFO", b"replication"]], False)
        return {
            name: value for reply in replies if isinstance(reply, bytes) for name, value in parse_info(reply).items()
        }

    async def positions(self) -> list[Position]:
        """Where its own stream stands, of a cluster those of all masters; empty when it may not be asked."""
        found = [await _info(node) for node in nodes_of(self._connection)] if self.several else [await self.info()]
        pairs = [(one.get("master_replid", ""), one.get("master_repl_offset", "")) for one in found]
        return [Position(replid, int(offset)) for replid, offset in pairs if replid and offset.isdigit()]


async def _info(node: Connection) -> dict[str, str]:
    replies = await node.calls([[b"INFO", b"server"], [b"INFO", b"replication"]])
    return {name: value for reply in replies if isinstance(reply, bytes) for name, value in parse_info(reply).items()}


class Pair:
    """The two sides, and what both can tell."""

    def __init__(self, first: Side, second: Side) -> None:
        self.first, self.second = first, second
        shared = first.commands & second.commands
        self.absolute = b"PEXPIRETIME" in shared
        self.field_deadlines = b"HPEXPIRETIME" in shared
        self.functions = b"FUNCTION" in shared

    @classmethod
    async def open(cls, first: Endpoint, second: Endpoint, *, held: bool = False) -> Pair:
        """Connect to both. Raises PeerError."""
        one = await Side.open(first, "first", held=held)
        try:
            return cls(one, await Side.open(second, "second"))
        except BaseException:
            one.close()
            raise

    def close(self) -> None:
        """Drop both connections."""
        self.first.close()
        self.second.close()

    async def both(self, here: Asked, there: Asked) -> tuple[list[Any], list[Any]]:
        """Ask both sides at the same time."""
        answers = await asyncio.gather(self.first.each(here), self.second.each(there), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers[0], answers[1]  # type: ignore[return-value]
