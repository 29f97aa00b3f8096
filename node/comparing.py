"""Comparisons and repairs as jobs: the node's part. The work is done by a process of its own (`node.comparer`)."""

from __future__ import annotations

import asyncio
import base64
import pickle
from typing import Any, Final, Protocol

from canal.errors import CanalError
from node import frames
from node.config.models import NodeConfig
from node.coordination.plan import ShardId
from node.forkserver import Child, ForkServer
from node.jobs import Job, JobQueue
from node.shard import Shard
from node.spec import read_spec

LOOK_S: Final = 0.5


class Host(Protocol):
    """What a comparison needs of its node."""

    config: NodeConfig
    shards: dict[ShardId, Shard]
    workers: ForkServer

    async def call(self, function: Any, *args: Any) -> Any:
        """Run a blocking call to the coordinator in a thread."""


async def compare_job(host: Host, queue: JobQueue, job: Job, shard: Shard) -> None:
    """Do a job that this node has taken. Raises `JobOver` when somebody else has ended it."""
    node = host.config.node
    try:
        message = _message(job, shard)
        child = await host.workers.spawn()
    except (CanalError, OSError) as problem:
        words = str(problem)
        await host.call(lambda: queue.finish(job.id, node, "failed", error=words))
        return
    heard: dict[str, Any] = {"progress": "starting"}
    try:
        child.writer.write(frames.encode(message))
        listening = asyncio.create_task(_listen(child, heard))
        try:
            while not listening.done():
                await asyncio.wait({listening}, timeout=LOOK_S)
                if listening.done():
                    break
                if host.shards.get(shard.id) is not shard or shard.leaving:
                    await host.call(queue.give_back, job.id, node)
                    return
                saved = heard.pop("saved", None)
                if (await host.call(queue.report, job.id, node, heard["progress"], saved)).cancel:
                    await host.call(queue.finish, job.id, node, "cancelled")
                    return
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        child.kill()
        child.writer.close()
    if "report" in heard:
        await host.call(queue.report, job.id, node, heard["progress"])
        await host.call(lambda: queue.finish(job.id, node, "succeeded", result=heard["report"]))
    else:
        why = heard.get("error") or "the process that compared was killed"
        await host.call(lambda: queue.finish(job.id, node, "failed", error=why))


async def _listen(child: Child, heard: dict[str, Any]) -> None:
    """Take what the process says, until it ends."""
    while (message := await frames.read(child.reader)) is not None:
        heard.update(message)
        if "report" in message or "error" in message:
            return


def _message(job: Job, shard: Shard) -> dict[str, Any]:
    config = shard.link_config()
    spec = read_spec(shard.record)
    packed = base64.b64encode(pickle.dumps((config, spec))).decode()
    return {"compare": {"packed": packed, "kind": job.kind, "options": job.options, "saved": job.saved}}
