"""The links of the demonstration: two tasks that name each other, run by the nodes of their source's datacenter."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from canal.errors import CanalError
from console.demo.coordination import Places
from console.demo.nodes import Service, Side

START_S: Final = 60.0


class DemoLink:
    """One direction. ``status`` is the newest of its node; empty until its worker has told something."""

    def __init__(self, source: Side, target: Side, node: Service) -> None:
        self.source, self.target, self.node = source, target, node
        self.status: dict[str, Any] = {}

    @property
    def task(self) -> str:
        return task_name(self.source.name, self.target.name)

    @property
    def name(self) -> str:
        return f"{self.source.name} → {self.target.name}"

    @property
    def state(self) -> str:
        return str(self.status.get("link_state") or self.status.get("state", "starting"))

    @property
    def caught_up(self) -> bool:
        """True when its worker streams and knows of nothing left to apply."""
        return self.state == "streaming" and self.status.get("lag_bytes") == 0

    async def refresh(self) -> None:
        """Ask its node. A missed answer changes nothing, a worker that died is started again by its node.

        Raises CanalError when the node has ended, or the link has failed for good.
        """
        found = await self.node.ask("/status")
        for shard in found["shards"] if isinstance(found, dict) else []:
            if shard["task"] == self.task:
                self.status = shard
        if self.status.get("state") == "failed":
            raise CanalError(f"link {self.name} failed: {self.status.get('error')}")


def task_name(source: str, target: str) -> str:
    return f"{source}-{target}"


async def create_tasks(sides: list[Side], places: Places) -> None:
    """Create both tasks at the coordinators of their sources, to be running. Raises CanalError."""
    await asyncio.to_thread(_create, sides, places)


def _create(sides: list[Side], places: Places) -> None:
    from console.cli.access import Access
    from console.cli.task_create import fit_in
    from node.config.models import TaskSpec
    from node.spec import write_spec

    with places.all(tuple(side.name for side in sides)) as coordinators:
        for source, target, here, there in zip(sides, sides[::-1], coordinators, coordinators[::-1], strict=True):
            spec = TaskSpec.model_validate(
                {
                    "task": task_name(source.name, target.name),
                    "source": {"datacenter": source.name, "url": source.server.url},
                    "target": {"datacenter": target.name, "url": target.server.url},
                    "two_way": {"peer": task_name(target.name, source.name)},
                }
            )
            spec = fit_in(spec, Access(here, {}, (there,)), say=lambda _: None)
            here.tasks.create(spec.task, write_spec(spec), desired="running", by="demo")


async def wait_streaming(links: list[DemoLink]) -> None:
    """Until every link follows its source. Raises CanalError when one fails or it takes too long."""
    deadline = asyncio.get_running_loop().time() + START_S
    while True:
        for link in links:
            await link.refresh()
        if all(link.state == "streaming" for link in links):
            return
        if asyncio.get_running_loop().time() > deadline:
            states = ", ".join(f"{link.name} is {link.state}: {link.node.child.tail()}" for link in links)
            raise CanalError(f"the links do not stream after {START_S:g} s: {states}")
        await asyncio.sleep(0.1)
