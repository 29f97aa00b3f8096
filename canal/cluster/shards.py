"""One shard of a cluster: which node is its master now, and which slots it has, through failovers and moved slots.

A shard is known by the ids of its nodes. Its master is the one of them that the cluster calls a master; whoever follows
that master at the last look belongs to the shard, so that the next failover is recognised too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from canal.asking import asking
from canal.cluster.topology import Shard, Topology, parse_shards, parse_slots
from canal.errors import AuthError, CanalError, ConfigError, NotRedis, PeerError, TlsError, Unreachable, Unready
from canal.url import Endpoint

log = logging.getLogger(__name__)

_ANSWER_S: Final = 3.0
LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as one of its nodes sees it."""

    topology: Topology
    ok: bool  # it calls the cluster's state ok: it is with the majority, and every slot is served
    at: float  # time.monotonic() when it was asked


@dataclass(slots=True)
class Known:
    """What is remembered of a shard in this process."""

    members: set[str]
    master: Endpoint | None = None
    slots: frozenset[int] = frozenset()  # at the last look; those of a shard without a master stay
    looked: float = 0.0  # time.monotonic()
    seen: float = 0.0  # when any member was last known to the cluster
    nodes: set[tuple[str, int]] = field(default_factory=set)  # announced addresses of the whole cluster


_known: dict[tuple[tuple[tuple[str, int], ...], str], Known] = {}


def shard_endpoint(cluster: Endpoint, name: str, members: Iterable[str]) -> Endpoint:
    """The endpoint of one shard of a ``redis+cluster`` endpoint."""
    assert cluster.group is not None
    group = replace(cluster.group, kind="shard", name=name, members=tuple(sorted(members)))
    return replace(cluster, group=group)


def known(endpoint: Endpoint) -> Known:
    """What this process remembers of the shard."""
    group = endpoint.group
    assert group is not None and group.kind == "shard"
    return _known.setdefault((group.seeds, group.name), Known(set(group.members)))


async def view_of(endpoint: Endpoint, nodes: Iterable[tuple[str, int]] = ()) -> View:
    """The cluster as the first node sees it that calls its state ok; else as the first that answers does.

    ``nodes``: announced addresses to be asked besides the seeds. Raises Unreachable, ConfigError when a seed is no node
    of a cluster, AuthError, TlsError.
    """
    group = endpoint.group
    assert group is not None
    places = [endpoint.seed(host, port) for host, port in group.seeds]
    places += [place for place in (endpoint.member(*node) for node in sorted(nodes)) if place not in places]
    errors: list[CanalError] = []
    second: View | None = None
    for place in places:
        try:
            view = await _ask(place)
        except CanalError as error:
            errors.append(error)
            continue
        if view.ok:
            return view
        second = second or view
    if second is not None:
        return second
    for one in errors:
        if isinstance(one, AuthError | TlsError | ConfigError):
            raise one
    raise errors[0] if len(errors) == 1 else Unreachable(f"{endpoint.label}: no node can be asked: {errors[0]}")


async def _ask(node: Endpoint) -> View:
    async with asking(node, _ANSWER_S) as asker:
        now = time.monotonic()
        try:
            info = await asker.ask(b"CLUSTER", b"INFO", timeout_s=_ANSWER_S)
        except PeerError as error:
            if "cluster support disabled" in str(error):
                raise ConfigError(
                    f"{node.label} is no node of a Redis Cluster (cluster-enabled no): give it as redis:// instead"
                ) from None
            raise
        if not isinstance(info, bytes):
            raise NotRedis(f"{node.label}: expected the reply of CLUSTER INFO, got {str(info)[:80]!r}")
        try:
            reply = await asker.ask(b"CLUSTER", b"SHARDS", timeout_s=_ANSWER_S)
            topology = parse_shards(reply, node.host, tls=node.tls is not None)
        except AuthError:
            raise
        except PeerError:  # before 7.0
            topology = parse_slots(await asker.ask(b"CLUSTER", b"SLOTS", timeout_s=_ANSWER_S), node.host)
        return View(topology, b"cluster_state:ok" in info, now)


def slots_of(shard: Shard) -> frozenset[int]:
    """All its slots."""
    return frozenset(slot for first, last in shard.slots for slot in range(first, last + 1))


def take_up(endpoint: Endpoint, view: View) -> Known:
    """Remember what a view says of the shard. A view of a cluster that is not ok moves nothing."""
    found = known(endpoint)
    if view.at < found.looked:
        return found
    found.looked = view.at
    for shard in view.topology.shards:
        found.nodes.update((one.host, one.port) for one in shard.members)
    mine = [shard for shard in view.topology.shards if any(one.id in found.members for one in shard.members)]
    if mine:
        found.seen = time.monotonic()
    led = [shard for shard in mine if shard.master is not None and shard.master.id in found.members]
    if mine and not led and view.ok and all(shard.master is not None for shard in mine):
        found.master = None  # its nodes follow another shard's master: their stream is that one's
    if not led or (not view.ok and found.master is not None):
        return found
    shard = max(led, key=lambda one: one.slot_count)
    assert shard.master is not None
    found.master = endpoint.member(shard.master.host, shard.master.port)
    found.slots = slots_of(shard)
    found.members = {one.id for one in shard.members} | {shard.master.id}
    return found


async def master_of_shard(endpoint: Endpoint) -> Endpoint:
    """The shard's master now. Raises Unready (retry) while it has none."""
    found = known(endpoint)
    if found.master is None or time.monotonic() - found.looked > LOOK_S:
        found = take_up(endpoint, await view_of(endpoint, found.nodes))
    if found.master is None:
        raise Unready(f"{endpoint.label}: the cluster knows no master of this shard (nodes {', '.join(found.members)})")
    return found.master


class ShardWatch:
    """Looks at the cluster now and then; ``moved`` is called with the shard's new master."""

    def __init__(self, endpoint: Endpoint, moved: Callable[[Endpoint], None]) -> None:
        self._endpoint = endpoint
        self._moved = moved
        self._current: Endpoint | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                found = take_up(self._endpoint, await view_of(self._endpoint, known(self._endpoint).nodes))
                self._trouble = ""
            except CanalError as error:
                if str(error) != self._trouble:
                    log.warning("the cluster cannot be looked at: %s", error)
                self._trouble = str(error)
                await asyncio.sleep(LOOK_S)
                continue
            if found.master is not None and found.master != self._current:
                if self._current is not None:
                    log.warning("%s: the master is %s now", self._endpoint.label, found.master.address)
                    self._moved(found.master)
                self._current = found.master
            await asyncio.sleep(LOOK_S)
