"""Looks at the two servers of a link before, or while, it runs, and says what to change. Nothing is written.

Permissions are found by trying: each command that a link needs is sent in a form that the server refuses for its
arguments after it has checked the permission, so a reply other than NOPERM means that it is granted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import hiredis

from canal.cluster.shards import view_of
from canal.endpoint import Endpoint
from canal.errors import CanalError
from sync.diagnosis import Finding, Server, Version, disk, of_both, of_one
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

_RATE_S: Final = 1.0


Probe = tuple[str, Version, list[bytes]]
"""(ACL rule, version from which it is tried, a harmless call)"""

_KEY: Final = b"redis-canal:doctor"
SOURCE_PROBES: Final[tuple[Probe, ...]] = (
    ("+ping", (6, 0, 0), [b"PING"]),
    ("+info", (6, 0, 0), [b"INFO", b"server"]),
    ("+replconf", (6, 0, 0), [b"REPLCONF", b"redis-canal-doctor"]),
    # refused for its id, before anything happens; a PSYNC proper would begin a snapshot
    ("+psync", (6, 2, 0), [b"PSYNC", b"redis-canal-doctor", b"1", b"FAILOVER"]),
    # for keys that are fetched or whose deadlines are looked up: lag and TTL, failover of the source, dead letters
    ("+select", (6, 0, 0), [b"SELECT", b"0"]),
    ("+scan", (6, 0, 0), [b"SCAN", b"no cursor"]),
    ("+dump", (6, 0, 0), [b"DUMP", _KEY]),
    ("+pttl", (6, 0, 0), [b"PTTL", _KEY]),
    ("+pexpiretime", (7, 0, 0), [b"PEXPIRETIME", _KEY]),
    ("+time", (6, 0, 0), [b"TIME"]),
    ("+multi +exec", (6, 0, 0), [b"EXEC"]),
    # what other links bring the same writes
    ("+hgetall", (6, 0, 0), [b"HGETALL", _KEY]),
    ("+client|list", (6, 0, 0), [b"CLIENT", b"LIST"]),
)
_OF_CLUSTERS: Final = ([b"INFO"], [b"SHARDS"], [b"SLOTS"], [b"COUNTKEYSINSLOT", b"x"], [b"GETKEYSINSLOT", b"x", b"1"])
CLUSTER_PROBES: Final[tuple[Probe, ...]] = tuple(
    (f"+cluster|{words[0].decode().lower()}", (7, 0, 0), [b"CLUSTER", *words]) for words in (*_OF_CLUSTERS, [b"NODES"])
)
TARGET_PROBES: Final[tuple[Probe, ...]] = (
    ("+info", (6, 0, 0), [b"INFO", b"server"]),
    ("+role", (6, 0, 0), [b"ROLE"]),
    ("+client|setname", (6, 0, 0), [b"CLIENT", b"SETNAME", b"redis-canal-doctor"]),
    ("+client|list", (6, 0, 0), [b"CLIENT", b"LIST"]),
    ("+client|kill", (6, 0, 0), [b"CLIENT", b"KILL", b"ID", b"%d" % (1 << 62)]),
    ("+restore", (6, 0, 0), [b"RESTORE", _KEY, b"0", b"no payload"]),
    ("+sort", (6, 0, 0), [b"SORT", _KEY]),
    ("+flushall", (6, 0, 0), [b"FLUSHALL", b"redis-canal-doctor"]),
    ("+flushdb", (6, 0, 0), [b"FLUSHDB", b"redis-canal-doctor"]),
    ("+swapdb", (6, 0, 0), [b"SWAPDB", b"redis-canal-doctor", b"x"]),
    ("+function", (7, 0, 0), [b"FUNCTION", b"LOAD", b"redis-canal-doctor"]),
    ("+eval (@scripting)", (6, 0, 0), [b"EVAL", b"return 1", b"0"]),
    ("+watch (@transaction)", (6, 0, 0), [b"UNWATCH"]),
    ("+hset (@hash)", (6, 0, 0), [b"HDEL", _KEY, b"field"]),
    ("+smembers (@set)", (6, 0, 0), [b"SMEMBERS", _KEY]),
)


async def examine(
    source: Endpoint, target: Endpoint, *, two_way: bool = False, state_dir: Path | None = None
) -> list[Finding]:
    """Everything that can be said about a link from ``source`` to ``target``. Never raises a CanalError."""
    findings: list[Finding] = []
    clusters = CLUSTER_PROBES if two_way else CLUSTER_PROBES[:-1]
    ends = (("source", source, (*SOURCE_PROBES, *clusters)), ("target", target, TARGET_PROBES))
    servers: dict[str, Server] = {}
    for found in await asyncio.gather(*(look_at_all(*end) for end in ends)):
        for one in found:
            if isinstance(one, Finding):
                findings.append(one)
                continue
            said = [Finding(one.side, "connection", "ok", one.label), *of_one(one, two_way)]
            if one.side in servers:  # of the other masters of a cluster what is not as it should be
                said = [replace(bad, found=f"{one.label}: {bad.found}") for bad in said if bad.level != "ok"]
            servers.setdefault(one.side, one)
            findings += said
    if len(servers) == 2:
        findings += of_both(servers["source"], servers["target"])
    findings += disk(state_dir, servers["source"].rate if "source" in servers else 0.0)
    return findings


async def look_at_all(side: str, endpoint: Endpoint, probes: tuple[Probe, ...]) -> list[Server | Finding]:
    """`look` at the server, or at every master of the cluster that the endpoint names."""
    if endpoint.group is None or endpoint.group.kind != "cluster":
        return [await look(side, endpoint, tuple(probe for probe in probes if probe not in CLUSTER_PROBES))]
    try:
        masters = (await view_of(endpoint)).topology.masters
    except CanalError as error:
        return [Finding(side, "connection", "fail", str(error), "mend this first: nothing else can be looked at")]
    ends = [endpoint.member(one.host, one.port) for one in masters]
    found = list(await asyncio.gather(*(look(side, one, probes) for one in ends)))
    for one in found:
        if isinstance(one, Server):
            one.masters = len(masters)
    return found or [Finding(side, "connection", "fail", "no slot is served", "CLUSTER INFO at its nodes")]


async def look(side: str, endpoint: Endpoint, probes: tuple[Probe, ...]) -> Server | Finding:
    """Ask one server; a Finding that says why it cannot be asked."""
    try:
        conn = await connect(endpoint, who=side)
        try:
            return await _ask(side, conn, probes)
        finally:
            conn.close()
    except CanalError as error:
        return Finding(side, "connection", "fail", str(error), "mend this first: nothing else can be looked at")


async def _ask(side: str, conn: Connection, probes: tuple[Probe, ...]) -> Server:
    (raw,) = await conn.calls([[b"INFO"]])
    server = Server(side, conn.endpoint.label, {}, {}, set(), set(), 0.0, 0.0)
    if isinstance(raw, bytes):
        server.info = parse_info(raw)
    wanted = [probe for probe in probes if not server.info or server.valkey or server.version >= probe[1]]
    for (rule, _, _), reply in zip(wanted, await conn.calls([argv for _, _, argv in wanted]), strict=True):
        _judge(server, rule, reply)
    if server.valkey or server.version >= (6, 0, 0):
        nobody = b"redis-canal-doctor-%b" % secrets.token_hex(8).encode()
        (reply,) = await conn.calls([[b"PTTL" if side == "source" else b"EXISTS", nobody]])
        _judge(server, "+pttl" if side == "source" else "+exists", reply)
    for name in (b"client-output-buffer-limit", b"repl-timeout", b"min-replicas-to-write", b"maxmemory-policy"):
        (reply,) = await conn.calls([[b"CONFIG", b"GET", name]])
        if isinstance(reply, list) and len(reply) == 2:
            server.config[reply[0].decode()] = reply[1].decode()
    await _measure(server, conn)
    return server


def _judge(server: Server, rule: str, reply: Any) -> None:
    if not isinstance(reply, hiredis.ReplyError):
        return
    text = str(reply).lower()
    if text.startswith("noperm"):
        server.refused.add(rule if "command" in text or "key" not in text else "~*")
    elif "unknown command" in text:
        server.unknown.add(rule)


async def _measure(server: Server, conn: Connection) -> None:
    """The clock, and the write rate over a second."""
    before = time.time()
    (reply,) = await conn.calls([[b"TIME"]])
    if isinstance(reply, list):
        server.clock_s = int(reply[0]) + int(reply[1]) / 1e6 - (before + time.time()) / 2
    if "master_repl_offset" not in server.info:
        return
    first, started = await _offset(conn), time.monotonic()
    await asyncio.sleep(_RATE_S)
    server.rate = max(0.0, (await _offset(conn) - first) / (time.monotonic() - started))


async def _offset(conn: Connection) -> int:
    return int(parse_info(await conn.call(b"INFO", b"replication")).get("master_repl_offset", "0"))
