"""Ask a cluster's nodes for its topology."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from canal.asking import asking
from canal.cluster.topology import Member, Topology, parse_shards, parse_slots
from canal.errors import AuthError, CanalError, ConfigError, PeerError, TlsError, Unreachable, Unready
from canal.url import Endpoint

log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0


async def discover(endpoint: Endpoint, known: Iterable[Member] = (), *, shards: bool = False) -> Topology:
    """The topology of a ``redis+cluster`` endpoint: of the first of its seeds, or of the ``known`` nodes, that answers.

    ``shards`` asks with CLUSTER SHARDS where the server has it, which also names masters without slots. Raises
    Unreachable when nobody answers, ConfigError when a seed is no node of a cluster, AuthError and TlsError as told.
    """
    group = endpoint.group
    assert group is not None and group.kind == "cluster"
    seeds = [endpoint.seed(host, port) for host, port in group.seeds]
    nodes = [node for node in (endpoint.member(one.host, one.port) for one in known) if node not in seeds]
    errors: list[CanalError] = []
    for node in [*seeds, *nodes]:
        try:
            return await ask(node, shards=shards)
        except CanalError as error:
            log.debug("%s", error)
            errors.append(error)
    for found in errors:
        if isinstance(found, AuthError | TlsError | ConfigError):
            raise found
    raise errors[0] if len(errors) == 1 else Unreachable(f"{endpoint.label}: no node can be asked: {errors[0]}")


async def ask(node: Endpoint, *, shards: bool = False) -> Topology:
    """The topology as one node sees it. Raises what its connection raises, Unready while it knows of no slots."""
    try:
        async with asking(node, _ANSWER_S) as asker:
            topology = None
            if shards:
                try:
                    reply = await asker.ask(b"CLUSTER", b"SHARDS", timeout_s=_ANSWER_S)
                    topology = parse_shards(reply, node.host, tls=node.tls is not None)
                except PeerError as error:
                    if "unknown subcommand" not in str(error).lower():
                        raise
            if topology is None:
                reply = await asker.ask(b"CLUSTER", b"SLOTS", timeout_s=_ANSWER_S)
                topology = parse_slots(reply, node.host)
    except PeerError as error:
        if "cluster support disabled" in str(error):
            raise ConfigError(
                f"{node.label} is no node of a Redis Cluster (cluster-enabled no): give it as redis:// instead"
            ) from None
        raise
    if not topology.masters:
        raise Unready(f"{node.label} knows of no slots that are served: is its cluster up?")
    return topology
