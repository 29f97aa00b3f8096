"""Real Redis Clusters for tests: masters and replicas from the fixture servers, which end with the test.

    with Cluster.start(masters=3, replicas=1, version="8.2") as cluster:
        cluster.url                              # redis+cluster://127.0.0.1:…,…
        cluster.ask("SET", "k", 1)               # sent to the key's node
        cluster.failover(cluster.owner(b"k"))    # kill -9 of a master, until a replica has taken its slots
        cluster.move_slots(range(100), to=cluster.masters[1])
        with cluster.gathered() as copy:         # all keys in one standalone server, for tests.support.compare

The set-up is done by CLUSTER commands alone (ADDSLOTS, MEET, REPLICATE), on ports that the OS chose.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import hiredis
import redis

from canal.cluster import SLOTS, slot_of
from tests.support.certificates import Certificates
from tests.support.process import ReservedPort, wait_until
from tests.support.servers import DEFAULT_VERSION, Server, parse_version
from tests.support.wire import Argument, Wire

NODE_TIMEOUT_MS = 3000
MOVED_MS = 5000
"""How far deadlines may be off where slots of a target moved: MIGRATE says how much is left when it is sent, and that
counts on from when it has arrived.
"""
_HIGHEST_PORT = 55535  # before 7.0 the bus listens 10000 above


class Node(Server):
    """A server with a cluster bus. ``bus`` is its port."""

    bus: ReservedPort | None = None

    @property
    def announced(self) -> int:
        """The port that the cluster's nodes, and clients with TLS where there is TLS, know it by."""
        return self.tls_port or self.port

    def do(self, *words: object) -> Any:
        """A command over the control client; its reply as it is."""
        return self.control.execute_command(*words)  # type: ignore[no-untyped-call]

    @property
    def id(self) -> str:
        return str(self.do("CLUSTER", "MYID").decode())

    def master_id(self) -> str | None:
        """Of a replica; None for a master."""
        line = next(one for one in self._lines() if "myself" in one[2])
        return line[3] if line[3] != "-" else None

    def serves(self) -> list[int]:
        """The slots that this node, in its own eyes, serves."""
        line = next(one for one in self._lines() if "myself" in one[2])
        out: list[int] = []
        for word in line[8:]:
            if not word.startswith("["):
                first, _, last = word.partition("-")
                out += range(int(first), int(last or first) + 1)
        return out

    def _lines(self) -> list[list[str]]:
        raw = self.do("CLUSTER", "NODES")
        text = raw.decode() if isinstance(raw, bytes) else str(raw)
        return [line.split(" ") for line in text.splitlines() if line]

    def state_ok(self) -> bool:
        with suppress(redis.RedisError):
            raw = self.do("CLUSTER", "INFO")
            return b"cluster_state:ok" in (raw if isinstance(raw, bytes) else str(raw).encode())
        return False

    def close(self) -> None:
        super().close()
        if self.bus is not None:
            self.bus.release()


class Cluster:
    """See the top of this file. Make it with `start`. ``nodes``: the first masters, then their replicas, then more."""

    def __init__(self, version: str, settings: dict[str, Any], tls: Certificates | None = None) -> None:
        self.version = version
        self.settings = settings
        self.tls = tls
        self.nodes: list[Node] = []

    @classmethod
    def start(
        cls,
        masters: int = 3,
        replicas: int = 0,
        version: str | None = None,
        *,
        slots: list[Iterable[int]] | None = None,
        tls: Certificates | None = None,
        **settings: object,
    ) -> Self:
        """Start and wait until every node says that all slots are served. ``replicas`` is per master.

        ``slots``: those of each master, by default equal parts in order. ``settings`` are every node's. With ``tls``
        (7.0) nodes speak TLS among themselves, too; ``port=0`` leaves the tests only the Unix sockets without it.
        """
        cluster = cls(version or DEFAULT_VERSION, settings, tls)
        try:
            cluster._form(masters, replicas, slots)
        except BaseException:
            cluster.close()
            raise
        return cluster

    # -- addresses and questions

    @property
    def url(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}+cluster://" + ",".join(f"127.0.0.1:{node.announced}" for node in self.nodes)

    @property
    def masters(self) -> list[Node]:
        """The running nodes that serve slots now, in the order of their first slots."""
        found = [(node.serves(), node) for node in self.nodes if node.running and node.master_id() is None]
        return [node for slots, node in sorted((pair for pair in found if pair[0]), key=lambda pair: pair[0][0])]

    def owner(self, key: bytes | str) -> Node:
        """The master of the key's slot."""
        slot = slot_of(key if isinstance(key, bytes) else key.encode())
        return next(node for node in self.masters if slot in node.serves())

    def replicas_of(self, master: Node) -> list[Node]:
        name = master.id
        return [node for node in self.nodes if node.running and node is not master and node.master_id() == name]

    def ask(self, *command: Argument) -> Any:
        """One command, sent to the node of its first argument and on to where MOVED and ASK point."""
        key = command[1] if len(command) > 1 else b""
        node = self.owner(key if isinstance(key, bytes) else str(key))
        asking = False
        for _ in range(20):
            with Wire(node) as wire:
                if asking:
                    wire.ask("ASKING")
                reply = wire.call([command])[0]
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            word, *rest = str(reply).split(" ")
            if word not in ("MOVED", "ASK"):
                raise reply
            port = int(rest[1].rpartition(":")[2])
            node, asking = next(one for one in self.nodes if port in (one.port, one.tls_port)), word == "ASK"
        raise AssertionError(f"{command!r} is sent in circles")

    def each(self, keys: Iterable[str], *command: Argument) -> dict[str, Any]:
        """NAME key ARGUMENT… for every key, those of a master in one go. Replies by key."""
        wanted = list(keys)
        replies: dict[str, Any] = {}
        for node in self.masters:
            slots = set(node.serves())
            mine = [key for key in wanted if slot_of(key.encode()) in slots]
            with Wire(node) as wire:
                replies.update(zip(mine, wire.call([(command[0], key, *command[1:]) for key in mine]), strict=True))
        return replies

    def dbsize(self) -> int:
        """Keys on all masters, reserved ones too."""
        return sum(int(node.control.dbsize()) for node in self.masters)

    def gathered(self) -> Server:
        """A standalone server that holds the keys of all masters; a key on two of them raises AssertionError."""
        copy = Server.start(self.version)
        try:
            seen: set[bytes] = set()
            for node in self.masters:
                _copy(node, copy, seen)
        except BaseException:
            copy.close()
            raise
        return copy

    # -- what happens to clusters

    def add_node(self) -> Node:
        """A master without slots, known to all."""
        node = self._node()
        self.nodes.append(node)
        self._meet(node)
        self._await_known()
        return node

    def move_slots(self, slots: Iterable[int], to: Node, *, keys_at_once: int = 100) -> int:
        """Move slots with their keys, one after the other as redis-cli does. Returns how many were moved."""
        goal, moved = to.id, 0
        where = {slot: node for node in self.masters for slot in node.serves()}
        for slot in slots:
            source = where[slot]
            if source is to:
                continue
            wait_until(partial(_set_slot, to, slot, "IMPORTING", source.id), 60, "the slot is imported")
            wait_until(partial(_set_slot, source, slot, "MIGRATING", goal), 60, "the slot migrates")
            self.move_keys(slot, source, to, keys_at_once)
            for node in (to, source, *(one for one in self.masters if one not in (to, source))):
                wait_until(partial(_set_slot, node, slot, "NODE", goal), 60, "the slot's owner is set")
            moved += 1
        return moved

    @staticmethod
    def move_keys(slot: int, source: Node, to: Node, keys_at_once: int = 100) -> None:
        """MIGRATE what the slot holds, until it holds nothing."""
        while keys := source.do("CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            words = ["MIGRATE", "127.0.0.1", to.announced, "", 0, 60000, "KEYS", *keys]
            source.do(*words)

    def migrate_slots(self, slots: range, source: Node, to: Node) -> None:
        """Move a run of slots by the servers' own migration (Valkey 9 on): all of it changes hands at once."""
        source.do("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slots[0], slots[-1], "NODE", to.id)

        def job() -> dict[bytes, Any]:
            last = source.do("CLUSTER", "GETSLOTMIGRATIONS")[0]
            return dict(zip(last[::2], last[1::2], strict=True))

        ended = (b"success", b"failed", b"cancelled")
        found = wait_until(lambda: found if (found := job())[b"state"] in ended else None, 60, "the slots have moved")
        assert found[b"state"] == b"success", found
        wait_until(lambda: slots[0] in to.serves(), 60, "the taker serves them")

    def failover(self, master: Node, *, lossy: bool = True) -> Node:
        """Have a replica take over: kill -9 and wait, or (``lossy=False``) CLUSTER FAILOVER. The new master."""
        heirs, slots = self.replicas_of(master), master.serves()
        assert heirs, "this master has no replica"
        if lossy:
            master.kill()
        else:
            heirs[0].do("CLUSTER", "FAILOVER")

        def heir() -> Node | None:
            return next((node for node in heirs if node.master_id() is None and slots[0] in node.serves()), None)

        found = wait_until(heir, 60, "a replica has taken the slots over")
        self.await_ok()
        return found

    def takeover(self, master: Node) -> Node:
        """kill -9 and CLUSTER FAILOVER TAKEOVER at once: a failover without the wait for the node timeout."""
        heirs = self.replicas_of(master)
        assert heirs, "this master has no replica"
        master.kill()
        heirs[0].do("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(lambda: heirs[0].master_id() is None, 60, "the replica has taken over")
        self.await_ok()
        return heirs[0]

    def come_back(self, node: Node) -> None:
        """Start a killed node again, as a replica of whoever has its slots, and wait until it is in step."""
        node.run()
        wait_until(lambda: node.master_id() is not None, 60, "the old master is a replica now")
        self.await_replicas()
        self.await_ok()

    def await_ok(self) -> None:
        wait_until(
            lambda: all(node.state_ok() for node in self.nodes if node.running), 60, "every node says cluster_state:ok"
        )

    def await_replicas(self) -> None:
        """Until every replica's link to its master is up."""

        def up() -> bool:
            try:
                replicas = [node for node in self.nodes if node.running and node.master_id() is not None]
                return all(node.info("replication").get("master_link_status") == "up" for node in replicas)
            except redis.BusyLoadingError:
                return False

        wait_until(up, 60, "every replica follows its master")

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside

    def _node(self) -> Node:
        settings: dict[str, Any] = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            "cluster_node_timeout": NODE_TIMEOUT_MS,
            "cluster_replica_validity_factor": 0,
            "cluster_allow_replica_migration": "no",
            **self.settings,
        }
        modern = parse_version(self.version) >= ("redis", (7, 0)) or self.version.startswith("valkey")
        if modern:
            bus = ReservedPort()
            if self.tls is not None:
                settings = {"tls_cluster": "yes", "tls_replication": "yes", **settings}
            node = Node.start(self.version, tls=self.tls, cluster_port=bus.number, **settings)
            node.bus = bus
            return node
        if parse_version(self.version)[1] < (6, 2):
            settings.pop("cluster_allow_replica_migration")
            if parse_version(self.version)[1] < (5, 0):
                settings.pop("cluster_replica_validity_factor")
        for _ in range(100):
            probe = ReservedPort()
            probe.release()
            if probe.number < _HIGHEST_PORT:
                with suppress(RuntimeError):
                    node = Node.start(self.version, **settings)
                    if node.port < _HIGHEST_PORT:
                        return node
                    node.close()
        raise AssertionError("no port with a bus port above it was found")

    def _form(self, masters: int, replicas: int, slots: list[Iterable[int]] | None) -> None:
        self.nodes = [self._node() for _ in range(masters * (1 + replicas))]
        bounds = [SLOTS * number // masters for number in range(masters + 1)]
        parts = slots or [range(bounds[number], bounds[number + 1]) for number in range(masters)]
        for number, (node, part) in enumerate(zip(self.nodes, parts, strict=False)):
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.do("CLUSTER", "ADDSLOTS", *part)
        for node in self.nodes[1:]:
            self._meet(node)
        self._await_known()
        for number, node in enumerate(self.nodes[masters:]):
            node.do("CLUSTER", "REPLICATE", self.nodes[number % masters].id)
        self.await_ok()
        self.await_replicas()
        wait_until(
            lambda: all(self._sees_all(node, replicas) for node in self.nodes),
            60,
            "every node knows who serves what",
        )

    @staticmethod
    def _sees_all(node: Node, replicas: int) -> bool:
        reply = node.do("CLUSTER", "SLOTS")
        known = all(len(one) == 3 + replicas for one in reply)
        return known and sum(int(one[1]) - int(one[0]) + 1 for one in reply) == SLOTS

    def _meet(self, node: Node) -> None:
        first = self.nodes[0]
        bus = [node.bus.number] if node.bus is not None else []
        first.do("CLUSTER", "MEET", "127.0.0.1", node.announced, *bus)

    def _await_known(self) -> None:
        def all_known() -> bool:
            count = len([node for node in self.nodes if node.running])
            for node in self.nodes:
                if node.running:
                    sound = [one for one in node._lines() if "handshake" not in one[2] and one[7] == "connected"]
                    if len(sound) < count:
                        return False
            return True

        wait_until(all_known, 60, "all nodes know each other")


def _set_slot(node: Node, slot: int, state: str, other: str) -> bool:
    """CLUSTER SETSLOT; Valkey 8 on refuses it while one of the node's replicas is not in step."""
    try:
        node.do("CLUSTER", "SETSLOT", slot, state, other)
    except redis.ResponseError as error:
        if not str(error).startswith("NOREPLICAS"):
            raise
        return False
    return True


def _copy(node: Node, copy: Server, seen: set[bytes]) -> None:
    """All keys of a master with their deadlines. AssertionError for one that another master had, too."""
    exact = node.at_least((7, 0))
    with Wire(node) as source, Wire(copy) as target:
        cursor: Any = b"0"
        here: set[bytes] = set()
        while True:
            cursor, keys = source.ask("SCAN", cursor, "COUNT", 1000)
            keys = [key for key in dict.fromkeys(keys) if key not in here]
            twice = seen.intersection(keys)
            assert not twice, f"on two masters: {twice}"
            here.update(keys)
            dumps = source.call([("DUMP", key) for key in keys])
            now = 0 if exact else int(time.time() * 1000)
            ends = source.call([("PEXPIRETIME" if exact else "PTTL", key) for key in keys])
            commands = [
                ("RESTORE", key, now + end if end >= 0 else 0, dump, "REPLACE", "ABSTTL")
                for key, dump, end in zip(keys, dumps, ends, strict=True)
                if dump is not None
            ]
            for reply in target.call(commands):
                if isinstance(reply, hiredis.ReplyError):
                    raise AssertionError(f"the copy refuses {reply}")
            if cursor == b"0":
                break
    seen |= here
