"""From an endpoint that stands for one of several servers to the one that is meant now."""

from __future__ import annotations

from canal.cluster.shards import master_of_shard
from canal.errors import ConfigError
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
    raise ConfigError(f"{endpoint.label}: a Redis Cluster is not yet supported here; give one standalone master")
