"""Nodes given to the writer of a cluster: each fenced, with the scripts loaded and a chain begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canal.errors import Unready
from sync.target.cluster.fencing import NodeTag, fence_node, open_node
from sync.target.cluster.node import NodeLink
from sync.target.fence import may_join

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter


async def open_writer(writer: ClusterWriter) -> None:
    """Give the writer its nodes: the scripts loaded, a chain begun on each. Raises Unready when slots move then."""
    conn = writer.conn
    opened: list[tuple[str, NodeTag]] = []
    for node_id, node in list(conn.nodes.items()):
        slots = conn.slots_of(node_id)
        if slots:
            tag = await open_node(node, writer.task, writer.shard, writer.epoch, slots, writer.scripts)
            opened.append((node_id, tag))
    if writer.bulk.least and not all([await may_join(conn.nodes[node_id], tag.key) for node_id, tag in opened]):
        writer.bulk.least = 0
    for node_id, tag in opened:
        index = add_link(writer, node_id, tag)
        for slot in conn.slots_of(node_id):
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
