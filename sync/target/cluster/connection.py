"""Awaited calls to a whole cluster: each command goes to the node of its key, and on to where MOVED and ASK point.

It has the face of `Connection`, so that whoever asks a target (checkpoint, key counts, deadlines, SCAN of a sweep) need
not know what it is. Commands without a key go to the first master, but for those that speak of all keys; transactions
are for one node at a time (`node_of`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

import hiredis

from canal.cluster import SLOTS, Member, Topology, parse_slots, slot_of
from canal.cluster.discover import discover
from canal.commands import all_keys
from canal.endpoint import Endpoint
from canal.errors import CanalError, Unreachable, Unready
from canal.resp import parse
from sync.target.connection import Connection, connect
from sync.target.errors import classify

log = logging.getLogger(__name__)

T = TypeVar("T")

_REDIRECTS: Final = 8
_ONE_KEY: Final = frozenset(
    b"HGETALL HGET HMGET SMEMBERS TYPE PTTL TTL PEXPIRETIME EXPIRETIME DUMP GET STRLEN EXISTS SISMEMBER HKEYS".split()
)
_ONE_NODE: Final = (b"MULTI", b"EXEC", b"DISCARD", b"WATCH", b"UNWATCH")
_SUMMED: Final = (b"EXISTS", b"DEL", b"UNLINK", b"TOUCH")


class ClusterConnection(Connection):
    """Made by `open_cluster`. ``nodes``: a connection to each master, by node id."""

    several = True

    def __init__(self, endpoint: Endpoint, topology: Topology, who: str = "target") -> None:
        super().__init__(endpoint, who)
        self.topology = topology
        self.nodes: dict[str, Connection] = {}

    @property
    def broken(self) -> CanalError | None:
        """What ended it, or one of its nodes' connections."""
        return self.closed or next((node.closed for node in self.nodes.values() if node.closed is not None), None)

    # what a Connection has

    @property
    def awaits_replies(self) -> bool:
        """Something was asked of a node that is not answered yet."""
        return any(node.awaits_replies for node in self.nodes.values())

    def close(self, error: CanalError | None = None) -> None:
        """Drop all connections at once."""
        for node in self.nodes.values():
            node.close(error)
        if self.closed is None:
            self.closed = error or Unreachable(f"connections to {self.who} {self.endpoint.label} closed")

    @property
    def unsent(self) -> int:
        """Bytes that the nodes' kernels have not taken yet."""
        return sum(node.unsent for node in self.nodes.values())

    async def call(self, *argv: bytes, timeout: float = 30.0) -> Any:
        """Send one command; raises what `classify` makes of an error reply."""
        reply = (await self.calls([list(argv)], timeout))[0]
        if isinstance(reply, hiredis.ReplyError):
            shown = " ".join(word.decode("utf-8", "replace") for word in argv[:2])
            raise classify(str(reply), shown, self.who)
        return reply

    async def calls(self, commands: list[list[bytes]], timeout: float = 30.0) -> list[Any]:
        """Send each command to its node, the nodes side by side; replies in the order of the commands."""
        if self.closed is not None:
            raise self.closed
        parts: dict[str, list[int]] = {}
        replies: list[Any] = [None] * len(commands)
        for number, argv in enumerate(commands):
            name = argv[0].upper()
            if name in _ONE_NODE:
                raise AssertionError(f"{argv[0]!r} is for one node, not for a cluster")
            if name == b"SELECT":
                replies[number] = b"OK" if argv[1] == b"0" else hiredis.ReplyError("ERR a cluster has database 0 only")
            elif name == b"INFO" and b"keyspace" in argv:
                replies[number] = await self._keyspace(timeout)
            elif name in _SUMMED and len(argv) > 2:
                replies[number] = sum(await self.calls([[name, key] for key in argv[1:]], timeout))
            else:
                parts.setdefault(self._node_for(argv), []).append(number)
        await side_by_side(self._part(node, numbers, commands, replies, timeout) for node, numbers in parts.items())
        for number, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ")):
                replies[number] = await self._redirected(commands[number], str(reply), timeout)
        return replies

    async def bulk(self, raw: bytes, count: int, timeout: float = 30.0) -> list[Any]:
        """Send ``count`` commands that are encoded already."""
        commands: list[list[bytes]] = []
        at = 0
        while (parsed := parse(raw, at, len(raw))) is not None:
            argv, at = parsed
            commands.append(argv)
        return await self.calls(commands, timeout)

    async def _part(
        self, node: str, numbers: list[int], commands: list[list[bytes]], replies: list[Any], timeout: float
    ) -> None:
        conn = await self.node(node)
        for number, reply in zip(numbers, await conn.calls([commands[one] for one in numbers], timeout), strict=True):
            replies[number] = reply

    async def _redirected(self, argv: list[bytes], error: str, timeout: float) -> Any:
        for _ in range(_REDIRECTS):
            conn = await self.at(error)
            if error.startswith("ASK "):
                reply = (await conn.calls([[b"ASKING"], argv], timeout))[1]
            else:
                await self.refresh()
                reply = (await conn.calls([argv], timeout))[0]
            if not isinstance(reply, hiredis.ReplyError) or not str(reply).startswith(("MOVED ", "ASK ")):
                return reply
            error = str(reply)
        raise Unready(f"{self.who} {self.endpoint.label}: its nodes send {argv[0]!r} in circles")

    async def _keyspace(self, timeout: float) -> bytes:
        """INFO keyspace over all masters."""
        total: dict[str, dict[str, int]] = {}
        for member in self.topology.masters:
            raw = await (await self.node(member.id)).call(b"INFO", b"keyspace", timeout=timeout)
            for line in raw.decode().splitlines():
                name, colon, value = line.partition(":")
                if colon:
                    sums = total.setdefault(name, {})
                    for pair in value.split(","):
                        figure, _, number = pair.partition("=")
                        if number.isdigit():
                            sums[figure] = sums.get(figure, 0) + int(number)
        lines = [f"{name}:" + ",".join(f"{figure}={n}" for figure, n in sums.items()) for name, sums in total.items()]
        return "\r\n".join(["# Keyspace", *lines, ""]).encode()

    def _node_for(self, argv: list[bytes]) -> str:
        name = argv[0].upper()
        if name in _ONE_KEY:
            key: bytes | None = argv[1]
        else:
            keys = all_keys(argv)
            key = keys[0][1] if keys else None
        return self.owner(slot_of(key)).id if key is not None else self.topology.masters[0].id

    # nodes

    def owner(self, slot: int) -> Member:
        """The master of a slot as far as known. Raises Unready while it has none."""
        member = self.topology.owners[slot]
        if member is None:
            raise Unready(f"{self.who} {self.endpoint.label}: nobody serves slot {slot}")
        return member

    def slots_of(self, node_id: str) -> list[int]:
        """The slots that a node serves, as far as known."""
        return [slot for slot in range(SLOTS) if (one := self.topology.owners[slot]) is not None and one.id == node_id]

    async def node(self, node_id: str) -> Connection:
        """The connection to a master."""
        conn = self.nodes.get(node_id)
        if conn is not None and (conn.closed is None or conn.streaming):
            return conn
        if conn is not None:  # it broke: perhaps another node has its slots by now
            del self.nodes[node_id]
            await self.refresh()
        member = next((one for one in self.topology.masters if one.id == node_id), None)
        if member is None:
            raise Unready(f"{self.who} {self.endpoint.label}: node {node_id} is no master any more")
        return await self._open(member)

    async def at(self, redirection: str) -> Connection:
        """The connection to the node that MOVED or ASK names."""
        for attempt in range(2):
            member = self.topology.redirected(redirection, fresh=attempt > 0)
            if member is not None:
                return await self.node(member.id)
            if attempt == 0:
                await self.refresh()
        raise Unready(f"{self.who} {self.endpoint.label}: redirected by {redirection!r}, to no master that is known")

    async def _open(self, member: Member) -> Connection:
        conn = await connect(self.endpoint.member(member.host, member.port), who=self.who)
        if member.id in self.nodes:  # somebody else was first
            conn.close()
            return self.nodes[member.id]
        self.nodes[member.id] = conn
        return conn

    async def refresh(self) -> None:
        """Ask for the topology anew: a node that is connected, else the seeds."""
        for conn in list(self.nodes.values()):
            if conn.closed is None and not conn.streaming:
                reply = (await conn.calls([[b"CLUSTER", b"SLOTS"]]))[0]
                if not isinstance(reply, hiredis.ReplyError):
                    found = parse_slots(reply, conn.endpoint.host)
                    if found.masters:
                        self.topology = found
                        return
        self.topology = await discover(self.endpoint, self.topology.masters)

    async def open_all(self) -> None:
        """Connect to every master."""
        async with asyncio.TaskGroup() as tasks:
            for member in self.topology.masters:
                if member.id not in self.nodes:
                    tasks.create_task(self._open(member))


def first_of(group: BaseExceptionGroup[CanalError]) -> BaseException:
    """The first error of those that nodes asked side by side have raised: one is enough to begin anew."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def side_by_side(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once, results in their order. Raises what the first that fails raises; the others are ended."""
    lost: BaseExceptionGroup[CanalError] | None = None
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(work) for work in works]
    except* CanalError as found:
        lost = found
    if lost is not None:
        raise first_of(lost)
    return [task.result() for task in tasks]


async def open_cluster(endpoint: Endpoint, who: str = "target") -> ClusterConnection:
    """Find the cluster and connect to all its masters. Raises Unreachable, Unready and the like, one line each."""
    conn = ClusterConnection(endpoint, await discover(endpoint), who)
    try:
        await conn.open_all()
        if not conn.topology.complete:
            missing = conn.topology.owners.count(None)
            raise Unready(f"{who} {endpoint.label}: {missing} of its slots are served by nobody")
    except BaseExceptionGroup as group:
        conn.close()
        raise group.exceptions[0] from None
    except BaseException:
        conn.close()
        raise
    return conn
