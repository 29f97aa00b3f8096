"""Batches by scripts: what a node gets of one goes in one call, and each call names the one before it on that node.

A node that has left that chain refuses whatever was sent behind, so nothing is overtaken; once all its replies are
there, what it refused is sent again, less what belongs to slots that have moved or are moving: these wait (`moving`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from canal.errors import CanalError, Unready
from sync.target.cluster.fencing import open_node
from sync.target.cluster.lanes import of_slot, without
from sync.target.cluster.moving import Waiting
from sync.target.cluster.node import NodeLink, Part
from sync.target.cluster.script import KEPT, MAX_ARGUMENTS, call
from sync.target.errors import classify, is_transient

if TYPE_CHECKING:
    from sync.target.cluster.writer import ClusterWriter


class Calls:
    """Sends parts of batches for a writer. ``bytes``: of calls whose replies are awaited."""

    def __init__(self, writer: ClusterWriter) -> None:
        self.bytes = 0
        self._writer = writer

    def send(self, link: NodeLink, part: Part) -> None:
        """Send a part, or keep it while its node has to be put in order first."""
        writer = self._writer
        if link.held:
            link.refused.append(part)
            return
        if writer.gated or part.lane.longest > MAX_ARGUMENTS:
            self.send_transactions(link, part)
            return
        batch = part.flight.batch
        chain = link.next_chain()
        part.chain = chain[1]
        data = call(
            writer.scripts,
            part.lane,
            writer.tag_words(batch, link.tag.key, chain[1]),
            key=link.tag.key,
            chain=chain,
            epoch=writer.epoch,
            prefix=writer.prefix,
            replid=writer.replid_at(batch.end),
            end=batch.end,
            low=writer.low,
            begin=part.flight.begin,
            records=not batch.snapshot,
            witnesses=part.witnesses,
        )
        part.size = len(data)
        self.bytes += part.size
        link.parts.append(part)
        link.send(data, 1, lambda replies: self._answered(link, replies[0]))

    def send_transactions(self, link: NodeLink, part: Part) -> None:
        """The other way of sending: MULTI, the slot's record as tag, its commands, EXEC, for each slot."""
        writer, lane = self._writer, part.lane
        for slot in dict.fromkeys(lane.slots):
            part.flight.pending += 1
            writer.moving.transact(link, Waiting(part.flight, slot, of_slot(lane, slot, 0)), 1 << 30)
        writer.settle(part.flight)

    # replies

    def _answered(self, link: NodeLink, reply: Any) -> None:
        writer, part = self._writer, link.parts.popleft()
        self.bytes -= part.size
        if writer.error is not None:
            return
        if isinstance(reply, list):
            if reply:
                self._partly(link, part, reply)
            writer.settle(part.flight)
        else:
            text = str(reply)
            if link.held and text.startswith("MOVED_ON"):
                link.refused.append(part)
            elif "attempted to" in text or text.startswith(("MOVED ", "ASK ")):
                link.held = True  # the slot of its tag has left the node
                link.tag.chain = b""
                link.refused.append(part)
            else:
                writer.fail(self._verdict(text))
                return
        writer.bulk.release(link)
        if link.held and not link.parts:  # questions about slots that are moving may still be on their way
            writer.spawn(self._again(link))

    def _partly(self, link: NodeLink, part: Part, reply: list[Any]) -> None:
        """Some commands failed, or some slots are not wholly here."""
        writer = self._writer
        blocked: set[int] = set()
        for index, raw in zip(reply[::2], reply[1::2], strict=True):
            text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
            slot = part.lane.slots[index]
            if text == KEPT:
                part.flight.kept.append(part.lane.numbers[index])
            elif text.startswith("!"):
                blocked.add(slot)
                writer.wait(part.flight, slot, of_slot(part.lane, slot, index))
            elif is_transient(text):
                writer.fail(Unready(f"target: a command was refused: {text}"))
                return
            else:
                part.flight.fail(part.lane.numbers[index], text)
        if blocked:
            link.held = True
            link.tag.chain = part.chain + b"!"  # whatever was sent behind it is refused

    def _verdict(self, text: str) -> CanalError:
        if text.startswith("MOVED_ON"):
            return Unready(f"target: {text}: another writer was there, starting again from the records")
        if is_transient(text):
            return Unready(f"target refused a batch: {text}")
        return classify(text, "applying a batch by script")

    async def _again(self, link: NodeLink) -> None:
        """All replies of a node that left the chain are there: send what it refused, less the slots that wait."""
        writer = self._writer
        if not link.tag.chain:
            await writer.conn.refresh()
            slots = writer.conn.slots_of(link.id)
            if not slots:
                for part in link.refused:
                    for slot in dict.fromkeys(part.lane.slots):
                        writer.wait(part.flight, slot, of_slot(part.lane, slot, 0))
                    writer.settle(part.flight)
                link.refused = []
                link.held = False
                writer.bulk.release(link)
                return
            side = await writer.moving.side()
            link.tag = await open_node(
                await side.node(link.id), writer.task, writer.shard, writer.epoch, slots, writer.scripts
            )
        index = writer.links.index(link) + 1
        refused, link.refused = link.refused, []
        link.held = False
        for part in refused:
            gone = {slot for slot in part.lane.slots if writer.lanes.owners[slot] != index}
            for slot in gone:
                writer.wait(part.flight, slot, of_slot(part.lane, slot, 0))
            part.lane = without(part.lane, gone) if gone else part.lane
            if part.lane.slots:
                self.send(link, part)
            else:
                writer.settle(part.flight)
        writer.bulk.release(link)
        writer.wake()
