"""Does the jobs of the shards that a node holds: takes them, watches over them, says how they ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from canal.errors import CanalError
from node.comparing import compare_job
from node.config.models import NodeConfig
from node.coordination.plan import ShardId
from node.forkserver import ForkServer
from node.jobs import Job, JobOver, JobQueue
from node.letterjobs import deal_with
from node.shard import Shard

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S = 0.5


class Host(Protocol):
    """What jobs need of their node."""

    config: NodeConfig
    shards: dict[ShardId, Shard]
    workers: ForkServer

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call to the coordinator in a thread."""


class JobRunner:
    """``look`` again whenever something may have changed."""

    def __init__(self, host: Host, queue: JobQueue) -> None:
        self._host = host
        self._queue = queue
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Take the queued jobs of shards that run here; end those whose time is up, anywhere."""
        jobs = await self._host.call(self._queue.all)
        if any(not job.over for job in jobs):
            await self._host.call(self._queue.sweep)
        for job in jobs:
            shard = self._host.shards.get(ShardId(job.task, job.shard))
            if job.state == "queued" and shard is not None and not shard.leaving:
                taken = await self._host.call(self._queue.take, job.id, self._host.config.node)
                if taken is not None:
                    work = {"resync": self._resync, "letters": self._letters}.get(job.kind, self._compare)
                    self._tasks[job.id] = asyncio.create_task(work(taken, shard))
        self._tasks = {name: task for name, task in self._tasks.items() if not task.done()}

    async def close(self) -> None:
        """Let go of what runs; its locks end with the session, and another node may take it up."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _letters(self, job: Job, shard: Shard) -> None:
        """Dead letters, dealt with in this machine's state directory."""
        finish = partial(self._queue.finish, job.id, self._host.config.node)
        try:
            try:
                done = await deal_with(job, shard.link_config(), at_work=shard.at_work)
            except CanalError as error:
                await self._host.call(partial(finish, "failed", error=str(error)))
            else:
                await self._host.call(partial(finish, "succeeded", result=done))
        except CanalError as error:
            log.warning("job %s: %s", job.id, error)

    async def _resync(self, job: Job, shard: Shard) -> None:
        """One resync: a new snapshot, until it streams again, is cancelled, or cannot be."""
        log.info("%s: full resync asked for by %s (job %s)", shard.id, job.by or "somebody", job.id)
        run = shard.known.state.run
        shard.restart(resync=True, confirmed=bool(job.options.get("confirm")))
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                if await self._ended(job, shard, run):
                    return
        except JobOver as error:
            log.info("%s", error)
        except CanalError as error:
            log.warning("job %s: %s", job.id, error)

    async def _compare(self, job: Job, shard: Shard) -> None:
        """One comparison, or repair, in a process of its own."""
        log.info("%s: %s asked for by %s (job %s)", shard.id, job.kind, job.by or "somebody", job.id)
        try:
            await compare_job(self._host, self._queue, job, shard)
        except JobOver as error:
            log.info("%s", error)
        except CanalError as error:
            log.warning("job %s: %s", job.id, error)

    async def _ended(self, job: Job, shard: Shard, run: int) -> bool:
        """Report how far the resync is; true when the job has been ended."""
        node, status = self._host.config.node, shard.status
        finish = partial(self._queue.finish, job.id, node)
        if self._host.shards.get(shard.id) is not shard or shard.leaving:
            await self._host.call(partial(finish, "failed", error=f"node {node} gave the shard up meanwhile"))
        elif shard.failed:
            await self._host.call(partial(finish, "failed", error=shard.failed))
        elif status and status.full_resyncs and status.state == "streaming" and shard.known.state.run > run:
            result = {"keys": status.snapshot.keys_done, "stale_deleted": status.snapshot.stale_deleted}
            await self._host.call(partial(finish, "succeeded", result=result))
        else:
            words = f"{status.state}, {status.snapshot.keys_done} keys" if status else "starting"
            if not (await self._host.call(self._queue.report, job.id, node, words)).cancel:
                return False
            await self._host.call(finish, "cancelled")
        return True
