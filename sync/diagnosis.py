"""What a server's answers mean for a link: findings, each with what to do about it. No I/O but for the disk's room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sync.horizon import room

Level = Literal["ok", "note", "warn", "fail"]
Version = tuple[int, int, int]

_BACKLOG: Final = 64 << 20
_BUFFER: Final = 256 << 20
_HOUR: Final = 3600
_ESSENTIAL: Final = {"+psync", "+replconf", "+ping"}


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


def of_one(server: Server, two_way: bool) -> list[Finding]:
    """What is to be said of one server, for its side of a link."""
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


def of_both(source: Server, target: Server) -> list[Finding]:
    """What is to be said of the two together."""
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
