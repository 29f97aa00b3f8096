"""Nodes given to the writer of a cluster: each fenced, with the scripts loaded and a chain begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canal.errors import Unready
from sync.target.cluster.connection import side_by_side
from sync.target.cluster.fencing import NodeTag, fence_node, open_node
from sync.target.cluster.node import NodeLink
from sync.target.fence import may_join

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter


async def open_writer(writer: ClusterWriter) -> None:
    """Give the writer its nodes: the scripts loaded, a chain begun on each. Raises Unready when slots move then."""
    conn = writer.conn
    nodes = {node_id: slots for node_id in list(conn.nodes) if (slots := conn.slots_of(node_id))}
    tags = await side_by_side(
        open_node(conn.nodes[node_id], writer.task, writer.shard, writer.epoch, slots, writer.scripts)
        for node_id, slots in nodes.items()
    )
    if writer.bulk.least:
        joins = await side_by_side(
            may_join(conn.nodes[node_id], tag.key) for node_id, tag in zip(nodes, tags, strict=True)
        )
        writer.bulk.least *= all(joins)
    for (node_id, slots), tag in zip(nodes.items(), tags, strict=True):
        index = add_link(writer, node_id, tag)
        for slot in slots:
            writer.lanes.owners[slot] = index


def add_link(writer: ClusterWriter, node_id: str, tag: NodeTag) -> int:
    """A node more; the index of its lane."""
    writer.links.append(NodeLink(node_id, writer.conn.nodes[node_id], tag, writer.fail, writer.wake))
    return len(writer.links)


async def new_node(writer: ClusterWriter, node_id: str) -> int:
    """Fence a node that was not there at the start, and use it; its index among the links."""
    node = await writer.conn.node(node_id)
    await fence_node(node, writer.task, writer.shard, writer.epoch)
    slots = writer.conn.slots_of(node_id)
    if not slots:
        await writer.conn.refresh()
        slots = writer.conn.slots_of(node_id)
    if not slots:
        raise Unready(f"node {node_id} serves no slot yet")
    tag = await open_node(node, writer.task, writer.shard, writer.epoch, slots, writer.scripts)
    return add_link(writer, node_id, tag) - 1
