"""Looks at the two servers of a link before, or while, it runs, and says what to change. Nothing is written.

Permissions are found by trying: each command that a link needs is sent in a form that the server refuses for its
arguments after it has checked the permission, so a reply other than NOPERM means that it is granted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import hiredis

from canal.cluster.shards import view_of
from canal.endpoint import Endpoint
from canal.errors import CanalError
from sync.horizon import room
from sync.target.connection import Connection, connect
from sync.target.fence import parse_info

Level = Literal["ok", "note", "warn", "fail"]
Version = tuple[int, int, int]

_RATE_S: Final = 1.0
_BACKLOG: Final = 64 << 20
_BUFFER: Final = 256 << 20
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``advice`` is empty when nothing needs to be done."""

    side: str
    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass(slots=True)
class Server:
    """What a server said; ``config`` has what CONFIG GET permitted."""

    side: str
    label: str
    info: dict[str, str]
    config: dict[str, str]
    refused: set[str]  # permissions that were tried and are missing, as ACL rules
    unknown: set[str]  # commands that it does not know
    rate: float  # bytes/s of its replication stream
    clock_s: float  # ahead of this machine's
    masters: int = 0  # of the cluster that was given, this one among them

    @property
    def valkey(self) -> bool:
        return "valkey_version" in self.info

    @property
    def version(self) -> Version:
        text = self.info.get("valkey_version") or self.info.get("redis_version", "0")
        parts = [int(part) for part in text.split(".")[:3] if part.isdigit()]
        return (*parts, 0, 0, 0)[:3]  # type: ignore[return-value]

    def number(self, name: str) -> int:
        text = self.info.get(name, "0")
        return int(text) if text.lstrip("-").isdigit() else 0


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
_ESSENTIAL: Final = {"+psync", "+replconf", "+ping"}
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
            said = [Finding(one.side, "connection", "ok", one.label), *_of_one(one, two_way)]
            if one.side in servers:  # of the other masters of a cluster what is not as it should be
                said = [replace(bad, found=f"{one.label}: {bad.found}") for bad in said if bad.level != "ok"]
            servers.setdefault(one.side, one)
            findings += said
    if len(servers) == 2:
        findings += _of_both(servers["source"], servers["target"])
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


# --- judgements ---


def _of_one(server: Server, two_way: bool) -> list[Finding]:
    out: list[Finding] = []

    def say(check: str, level: Level, found: str, advice: str = "") -> None:
        out.append(Finding(server.side, check, level, found, advice))

    _permissions(server, say)
    if not server.info:
        say("version", "warn", "INFO is not permitted", "grant +info: the rest cannot be looked at")
        return out
    _version(server, say)
    _role(server, say)
    _eviction(server, two_way, say)
    if server.side == "source":
        _as_source(server, say)
    else:
        _as_target(server, say)
    if abs(server.clock_s) > 0.5:
        text = f"{server.clock_s:+.1f} s from this machine's"
        say("clock", "fail" if abs(server.clock_s) > 5 else "warn", text, "set up NTP: deadlines of keys are moments")
    else:
        say("clock", "ok", f"{server.clock_s * 1000:+.0f} ms from this machine's")
    return out


Say = Callable[..., None]


def _permissions(server: Server, say: Say) -> None:
    missing = sorted(server.refused)
    if missing:
        rules = " ".join(rule.split(" (")[0] for rule in missing)
        level, why = _weight(server.side, set(missing))
        say("permissions", level, f"missing: {', '.join(missing)}", f"ACL SETUSER <user> {rules}{why}")
    else:
        say("permissions", "ok", "all that a link needs")
    if server.unknown:
        say(
            "commands", "fail", f"unknown or renamed: {', '.join(sorted(server.unknown))}", "give them back their names"
        )


def _weight(side: str, missing: set[str]) -> tuple[Level, str]:
    """How bad it is that these rules are missing, and what works without them."""
    if side == "target":
        only_kill = missing <= {"+client|list", "+client|kill"}
        return ("warn", "; or use the guarded writer") if only_kill else ("fail", "")
    if missing & _ESSENTIAL:
        return "fail", ""
    if missing <= {"+hgetall", "+client|list"}:
        return "warn", "; without them a link that brings the same writes a second time is not noticed"
    if missing == {"+info"}:
        return "warn", "; without it one server given twice cannot be told, nor how long the backlog lasts"
    return "warn", "; without them keys cannot be fetched after an outage, a failover or a dead letter"


def _version(server: Server, say: Say) -> None:
    text = f"{'Valkey' if server.valkey else 'Redis'} {'.'.join(map(str, server.version))}"
    least = (2, 8, 0) if server.side == "source" else (5, 0, 0)
    if server.version < least:
        say("version", "fail", text, f"a {server.side} must be at least {least[0]}.{least[1]}")
    else:
        say("version", "ok", text)
    if server.info.get("cluster_enabled") == "1":
        if server.masters:
            say("cluster", "ok", f"{server.masters} masters")
            return
        say("cluster", "fail", "a node of a Redis Cluster", "give the cluster: redis+cluster://HOST:PORT,HOST:PORT")


def _role(server: Server, say: Say) -> None:
    role = server.info.get("role", "")
    if role == "master":
        say("role", "ok", role)
    elif server.side == "source":
        say("role", "warn", role, "a replica serves, but gives up its stream when it loses its master: name the master")
    else:
        say("role", "fail", role, "only a master can be written to")


def _eviction(server: Server, two_way: bool, say: Say) -> None:
    policy = server.info.get("maxmemory_policy") or server.config.get("maxmemory-policy", "")
    if policy in ("", "noeviction"):
        say("eviction", "ok", policy or "not known")
        return
    bad = server.side == "target" or two_way
    advice = "CONFIG SET maxmemory-policy noeviction: "
    advice += "evicted keys differ, and the checkpoint may go" if bad else "what it evicts is deleted at the target too"
    say("eviction", "fail" if bad else "warn", policy, advice)


def _as_source(server: Server, say: Say) -> None:
    backlog = server.number("repl_backlog_size")
    lasts = f", {backlog / server.rate:.0f} s at {server.rate / 1e6:.2f} MB/s" if server.rate > 100 else ""
    if backlog < _BACKLOG or (server.rate > 100 and backlog / server.rate < 60):
        want = max(_BACKLOG, int(server.rate * 600))
        advice = f"CONFIG SET repl-backlog-size {want} (ten minutes of writes, 64 MB at least)"
        say("backlog", "warn", f"{backlog >> 10} kB{lasts}", advice)
    else:
        say("backlog", "ok", f"{backlog >> 20} MB{lasts}")
    limit = _replica_limit(server.config.get("client-output-buffer-limit", ""))
    if limit is None:
        say(
            "output buffer",
            "note",
            "not known: CONFIG GET is not permitted",
            "client-output-buffer-limit replica should be 256 MB or more",
        )
    elif limit and limit < _BUFFER:
        say(
            "output buffer",
            "warn",
            f"replicas are cut at {limit >> 20} MB",
            "CONFIG SET client-output-buffer-limit 'replica 512mb 256mb 60'",
        )
    else:
        say("output buffer", "ok", "unlimited" if not limit else f"{limit >> 20} MB")
    _timeout(server, say)
    needs = server.config.get("min-replicas-to-write", "0")
    if needs not in ("", "0"):
        say(
            "min-replicas",
            "warn",
            f"min-replicas-to-write {needs}",
            "redis-canal counts as a replica and lags by up to a second: do not rely on it for this number",
        )


def _timeout(server: Server, say: Say) -> None:
    text = server.config.get("repl-timeout", "")
    if text and int(text) < 30:
        say(
            "repl-timeout",
            "warn",
            f"{text} s",
            "CONFIG SET repl-timeout 60: a pause of the daemon's machine cuts the link",
        )
    elif text:
        say("repl-timeout", "ok", f"{text} s")


def _replica_limit(text: str) -> int | None:
    """The hard limit of class ``replica`` (``slave`` before 5.0), 0 for none; None when it is not known."""
    words = text.split()
    for name in ("replica", "slave"):
        if name in words:
            return int(words[words.index(name) + 1])
    return None


def _as_target(server: Server, say: Say) -> None:
    used, most = server.number("used_memory"), server.number("maxmemory")
    if most and used > most * 0.9:
        say(
            "memory",
            "warn",
            f"{100 * used // most}% of maxmemory in use",
            "raise maxmemory: at the limit writes are refused (OOM) and the link waits",
        )
    else:
        say("memory", "ok", f"{used >> 20} MB used, " + (f"limit {most >> 20} MB" if most else "no limit"))
    needs = server.config.get("min-replicas-to-write", "0")
    if needs.isdigit() and int(needs) > server.number("connected_slaves"):
        say(
            "min-replicas",
            "fail",
            f"needs {needs} replicas, has {server.number('connected_slaves')}",
            "it refuses writes (NOREPLICAS): give it replicas, or CONFIG SET min-replicas-to-write 0",
        )
    persists = server.info.get("aof_enabled") == "1" or server.number("rdb_last_save_time") > 0
    if server.info.get("aof_enabled") != "1":
        say(
            "persistence",
            "note",
            "no AOF" if persists else "none",
            "after a crash it continues from what it saved: "
            "retain as much in the journal (journal.retain_seconds), or CONFIG SET appendonly yes",
        )


def _of_both(source: Server, target: Server) -> list[Finding]:
    out = []
    same = source.info.get("run_id") and source.info.get("run_id") == target.info.get("run_id")
    if same:
        out.append(Finding("both", "identity", "fail", "source and target are the same server", "give two"))
    elif source.info.get("master_replid") and source.info.get("master_replid") == target.info.get("master_replid"):
        out.append(Finding("both", "identity", "fail", "one is the other's replica", "REPLICAOF NO ONE at the target"))
    if source.info and target.info:
        older = not target.valkey and not source.valkey and target.version[:2] < source.version[:2]
        if older or source.valkey != target.valkey:
            out.append(
                Finding(
                    "both",
                    "versions",
                    "note",
                    "the target is another or older kind",
                    "commands and types that it does not know become dead letters; the rest is translated",
                )
            )
    return out


def disk(state_dir: Path | None, rate: float) -> list[Finding]:
    """Whether the journal's disk outlasts an hour."""
    if state_dir is None:
        return []
    there = next((path for path in (state_dir, *state_dir.parents) if path.exists()), Path("/"))
    free = room(there, 0, 0)
    if free is None:
        return [Finding("here", "disk", "fail", f"{state_dir} cannot be looked at", "name a directory on a local disk")]
    lasts = free / rate if rate > 1 else float("inf")
    text = f"{free >> 30} GiB free" + (f", {lasts / _HOUR:.1f} h at {rate / 1e6:.2f} MB/s" if rate > 100 else "")
    if free < 1 << 30 or lasts < _HOUR:
        return [Finding("here", "disk", "warn", text, "give the journal more room: it holds the writes of an outage")]
    return [Finding("here", "disk", "ok", text)]
