"""From an endpoint that stands for one of several servers to the one that is meant now."""

from __future__ import annotations

from typing import Any

from canal.asking import asking, must_be_master
from canal.cluster.shards import master_of_shard, view_of
from canal.errors import Unready
from canal.sentinel import master_of
from canal.url import Endpoint


async def located(endpoint: Endpoint) -> Endpoint:
    """The server to connect to: the endpoint itself, or the master that its group names now.

    Raises what the group's servers raise; Unready and Unreachable pass.
    """
    if endpoint.group is None:
        return endpoint
    if endpoint.group.kind == "sentinel":
        return await master_of(endpoint)
    if endpoint.group.kind == "shard":
        return await master_of_shard(endpoint)
    masters = (await view_of(endpoint)).topology.masters
    if not masters:
        raise Unready(f"{endpoint.label}: the cluster knows of no slots that are served")
    return endpoint.member(masters[0].host, masters[0].port)  # of a whole cluster one speaks for all: INFO, TIME, ACL


async def source_of(endpoint: Endpoint) -> Endpoint:
    """The server whose stream is to be followed.

    A shard's master is asked itself: one that follows another master by now would give that one's stream, whatever the
    other nodes still say of it. Raises Unready then, and what `located` raises.
    """
    member = await located(endpoint)
    if endpoint.group is not None and endpoint.group.kind == "shard":
        await must_be_master(member, f"{endpoint.label}: the cluster names {member.address}")
    return member


async def answer(endpoint: Endpoint, *words: bytes, timeout_s: float = 10.0) -> Any:
    """The reply to one command, over a connection of its own to the server that is meant now.

    Raises AuthError, PeerError for an error reply, and what `located` and `asking` raise. Nothing of it is left behind
    when whoever asks is cancelled.
    """
    async with asking(await located(endpoint), timeout_s) as asker:
        return await asker.ask(*words, timeout_s=timeout_s)
