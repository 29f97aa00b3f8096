"""Nodes: registration, the list of the living, and who is draining."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from canal.errors import Refused
from node.coordination.base import Conflict, Create, Record, Remove, Store
from node.coordination.records import NodeRecord, check_name, decode, encode

NODES = "nodes"
DRAINS = "drains"


class Nodes:
    """The nodes of a datacenter, over a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, record: NodeRecord, *, patience_s: float | None = None) -> None:
        """Announce this daemon under ``record.node`` for as long as the session lives.

        A record of that name that belongs to another session is waited for: it is this daemon's own, from before it was
        killed, and ends with its session. Raises `Refused` at once when the process behind it is alive on this machine,
        and after ``patience_s`` (default: the session time-out and two seconds) when it does not go away.
        """
        path = f"{NODES}/{check_name('node', record.node)}"
        patience_s = self._store.session_timeout_s + 2.0 if patience_s is None else patience_s
        deadline = time.monotonic() + patience_s
        changed = threading.Event()
        unsubscribe = self._store.subscribe(lambda event: changed.set())
        try:
            while True:
                changed.clear()
                there = self._store.get(path, watch=True)
                if there is None or there.mine:
                    try:
                        self._store.commit(
                            *([Remove(path)] if there else []), Create(path, encode(record), ephemeral=True)
                        )
                        return
                    except Conflict:
                        continue
                self._refuse_the_living(path, there, record, deadline, patience_s)
                changed.wait(min(0.5, max(0.01, deadline - time.monotonic())))
        finally:
            unsubscribe()

    def _refuse_the_living(
        self, path: str, there: Record, record: NodeRecord, deadline: float, patience_s: float
    ) -> None:
        other = decode(NodeRecord, there.data, path)
        if process_lives(other):
            raise Refused(
                f"node {record.node} is already running on this machine as process {other.pid};"
                " give this daemon another name (node: in node.yaml)"
            )
        if time.monotonic() > deadline:
            raise Refused(
                f"node {record.node} is registered by a live daemon on {other.host or 'another machine'}"
                f" (process {other.pid}) and stayed so for {patience_s:.0f} s;"
                " give this daemon another name (node: in node.yaml)"
            )

    def unregister(self, node: str) -> None:
        """Take this session's registration back; no error when there is none."""
        path = f"{NODES}/{node}"
        there = self._store.get(path)
        if there is not None and there.mine:
            try:
                self._store.commit(Remove(path, there.version))
            except Conflict:
                return

    def registered(self, node: str) -> bool:
        """True while the record of that name belongs to this session."""
        there = self._store.get(f"{NODES}/{node}", watch=True)
        return there is not None and there.mine

    def living(self) -> dict[str, NodeRecord]:
        """The nodes that are registered now, by name; watched."""
        found = {}
        for name in self._store.children(NODES, watch=True):
            path = f"{NODES}/{name}"
            there = self._store.get(path, watch=True)
            if there is not None:
                found[name] = decode(NodeRecord, there.data, path)
        return found

    def drain(self, node: str, on: bool = True) -> None:
        """Have ``node`` give up its shards and take none, until switched off; also for a node that is down."""
        path = f"{DRAINS}/{check_name('node', node)}"
        try:
            self._store.commit(Create(path, b"") if on else Remove(path))
        except Conflict:
            return

    def draining(self) -> frozenset[str]:
        """Names of the nodes that are to give up their shards; watched."""
        return frozenset(self._store.children(DRAINS, watch=True))


def boot_id() -> str:
    """An id of this machine's present boot, or '' where the system gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_started(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 when there is no such process (or it is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    after_name = stat.rpartition(")")[2].split()  # proc(5): the name may hold blanks; state is field 3, starttime 22
    return 0 if after_name[0] in "ZX" else int(after_name[19])


def process_lives(record: NodeRecord) -> bool:
    """True when the daemon that wrote ``record`` certainly lives: same boot of this machine, same process."""
    if not record.boot or record.boot != boot_id() or record.host != os.uname().nodename:
        return False
    return record.pid_started != 0 and pid_started(record.pid) == record.pid_started
