"""Who serves which slots: the replies of CLUSTER SLOTS and CLUSTER SHARDS as values. No I/O.

Sources of the formats: Redis documentation of CLUSTER SLOTS (host, port, node id, and metadata from 7.0 on) and CLUSTER
SHARDS (7.0 on). In both a host may be empty or null: the node does not know its own, or is not to say it, and the one
that was asked is meant. ``?`` (7.0 on): host names are preferred, and this node has announced none, or none that the
one asked has heard of; its IP, which stands beside, is where it is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from canal.cluster.slots import SLOTS
from canal.errors import NotRedis

Range = tuple[int, int]
"""First and last slot, both included."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the cluster announces it. ``names``: further hosts of the same node (its IP beside its host name)."""

    id: str
    host: str
    port: int
    names: tuple[str, ...] = ()
    online: bool = True

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Shard:
    """A master with its replicas. ``master`` is None while there is none (failed, nobody promoted yet)."""

    master: Member | None
    replicas: tuple[Member, ...]
    slots: tuple[Range, ...]
    id: str = ""  # shard id, where the server has them (7.2 on) and the reply gives it

    @property
    def members(self) -> tuple[Member, ...]:
        """All its nodes, the master first."""
        return self.replicas if self.master is None else (self.master, *self.replicas)

    @property
    def slot_count(self) -> int:
        """How many slots it serves."""
        return sum(last - first + 1 for first, last in self.slots)


@dataclass(frozen=True)
class Topology:
    """All shards, in the order of their first slots; those without slots last."""

    shards: tuple[Shard, ...]

    @property
    def masters(self) -> tuple[Member, ...]:
        """The masters that serve slots."""
        return tuple(shard.master for shard in self.shards if shard.slots and shard.master is not None)

    @cached_property
    def owners(self) -> list[Member | None]:
        """The master of each slot; None where nobody serves it."""
        out: list[Member | None] = [None] * SLOTS
        for shard in self.shards:
            for first, last in shard.slots:
                out[first : last + 1] = [shard.master] * (last - first + 1)
        return out

    def redirected(self, error: str, *, fresh: bool = False) -> Member | None:
        """The master that ``MOVED slot host:port`` or ``ASK …`` means; None when that cannot be told.

        The host may be empty or ``?``, as in the replies above: then the port tells where it is one master's alone, and
        else, of MOVED, the slot's owner, if this topology is ``fresh``: asked for after the redirection came.
        """
        word, slot, address = error.split(" ")[:3]
        host, _, port = address.rpartition(":")
        found = [one for one in self.masters if str(one.port) == port]
        if host not in ("", "?"):
            return next((one for one in found if host in (one.host, *one.names)), None)
        owner = self.owners[int(slot)] if fresh and word == "MOVED" else None
        return found[0] if len(found) == 1 else owner if owner in found else None

    @property
    def complete(self) -> bool:
        """Every slot has a master."""
        return None not in self.owners

    def shard_of(self, node_id: str) -> Shard | None:
        """The shard that the node belongs to."""
        return next((shard for shard in self.shards if any(one.id == node_id for one in shard.members)), None)


def parse_slots(reply: Any, asked: str) -> Topology:
    """From CLUSTER SLOTS (every version); ``asked``: the host that answered. Raises NotRedis for another shape.

    Replicas and masters that serve no slot do not stand in it; a master that failed still does.
    """
    try:
        found: dict[str, tuple[Member, dict[str, Member], list[Range]]] = {}
        for first, last, *nodes in reply:
            members = [_member(node, asked) for node in nodes]
            master = members[0]
            _, replicas, ranges = found.setdefault(master.id or master.address, (master, {}, []))
            ranges.append((int(first), int(last)))
            replicas.update({one.id or one.address: one for one in members[1:]})
    except (TypeError, ValueError, IndexError, AttributeError):
        raise NotRedis(f"{asked}: expected the reply of CLUSTER SLOTS, got {str(reply)[:80]!r}") from None
    shards = [Shard(master, tuple(replicas.values()), _joined(ranges)) for master, replicas, ranges in found.values()]
    return Topology(_ordered(shards))


def parse_shards(reply: Any, asked: str, *, tls: bool = False) -> Topology:
    """From CLUSTER SHARDS (7.0 on): replicas that are loading and masters without slots stand in it, too.

    ``tls`` chooses between the two ports of a node. Raises NotRedis for another shape.
    """
    try:
        shards = []
        for raw in reply:
            fields = _fields(raw)
            numbers = [int(number) for number in fields["slots"]]
            ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
            nodes = [_fields(node) for node in fields["nodes"]]
            members = [(_text(node.get("role", b"")), _shard_member(node, asked, tls)) for node in nodes]
            masters = [one for role, one in members if role == "master" and one.online]
            replicas = [one for role, one in members if role != "master"]
            shard_id = _text(fields.get("id", b""))
            shards.append(Shard(masters[0] if masters else None, tuple(replicas), _joined(ranges), shard_id))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        raise NotRedis(f"{asked}: expected the reply of CLUSTER SHARDS, got {str(reply)[:80]!r}") from None
    return Topology(_ordered(shards))


def _member(node: Sequence[Any], asked: str) -> Member:
    more = _fields(node[3]) if len(node) > 3 and node[3] else {}
    host = _host(node[0], asked, more.get("ip"))
    names = tuple(_text(value) for value in more.values() if _host(value, ""))
    return Member(_text(node[2]) if len(node) > 2 else "", host, int(node[1]), tuple(n for n in names if n != host))


def _shard_member(node: dict[str, Any], asked: str, tls: bool) -> Member:
    host = _host(node.get("endpoint"), asked, node.get("ip"))
    names = tuple(_text(node[name]) for name in ("ip", "hostname") if _host(node.get(name), ""))
    port = node.get("tls-port") if tls and node.get("tls-port") else node.get("port", node.get("tls-port"))
    online = _text(node.get("health", b"online")) != "fail"
    assert port is not None
    return Member(_text(node["id"]), host, int(port), tuple(dict.fromkeys(n for n in names if n != host)), online)


def _fields(flat: Any) -> dict[str, Any]:
    if isinstance(flat, dict):
        return {_text(name): value for name, value in flat.items()}
    return {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _host(value: Any, asked: str, ip: Any = None) -> str:
    text = "" if value is None else _text(value)
    if text == "?" and ip is not None:
        return _host(ip, asked)
    return asked if text in ("", "?") else text


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, neighbours made one."""
    out: list[Range] = []
    for first, last in sorted(ranges):
        if out and out[-1][1] + 1 == first:
            out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return tuple(out)


def _ordered(shards: list[Shard]) -> tuple[Shard, ...]:
    return tuple(sorted(shards, key=lambda shard: shard.slots[0][0] if shard.slots else SLOTS))
