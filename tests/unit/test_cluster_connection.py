"""Calls to a whole cluster, where a node is lost."""

from __future__ import annotations

from typing import Any

import pytest

from canal.cluster import SLOTS, Topology
from canal.cluster.topology import Member, Shard
from canal.endpoint import parse_url
from canal.errors import Unreachable
from sync.target.cluster.connection import ClusterConnection
from sync.target.connection import Connection


class Lost(Connection):
    """A connection that breaks at the first call."""

    def __init__(self) -> None:
        super().__init__(parse_url("redis://h:1"))

    async def calls(self, commands: list[list[bytes]], timeout: float = 30.0) -> list[Any]:
        raise Unreachable("connection to node h:1 lost")


async def test_a_node_that_is_lost_is_an_error_as_of_a_single_server() -> None:
    """What asks beside others is not wrapped: whoever waits for CanalError goes on with another attempt."""
    half = SLOTS // 2
    shards = (
        Shard(Member("a" * 40, "h", 1), (), ((0, half - 1),)),
        Shard(Member("b" * 40, "h", 2), (), ((half, SLOTS - 1),)),
    )
    conn = ClusterConnection(parse_url("redis+cluster://h:1"), Topology(shards))
    conn.nodes = {"a" * 40: Lost(), "b" * 40: Lost()}
    with pytest.raises(Unreachable, match="lost"):
        await conn.calls([[b"GET", b"a"], [b"GET", b"b"], [b"GET", b"c"]])
    with pytest.raises(Unreachable, match="lost"):
        await conn.call(b"GET", b"a")
