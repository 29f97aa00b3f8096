"""The course of the demonstration: start, write on both sides, stop writing, wait until in step, compare, clean up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from canal.endpoint import parse_url
from canal.errors import CanalError
from console.demo.coordination import Places
from console.demo.links import DemoLink, create_tasks, wait_streaming
from console.demo.nodes import STOP_S, Service, Side, start_console, start_node
from console.demo.servers import Server, find_server, free_ports, require_free, start_server
from console.demo.show import LinkRow, Picture, Screen, SideRow
from console.demo.writer import Writer
from sync.verify import Options, Report, compare

DATACENTERS: Final = ("shanghai", "beijing")
REFRESH_S: Final = 0.25
SETTLE_S: Final = 30.0
ROUNDS: Final = 10  # looks at keys that differ, half a second apart, before they are called different


class Demo:
    """One run. ``seconds`` None: until ``stop`` is called."""

    def __init__(
        self, screen: Screen, seconds: float | None, base_port: int | None, zookeeper: str | None = None
    ) -> None:
        self._screen, self._seconds, self._zookeeper = screen, seconds, zookeeper
        self._ports = _ports(base_port)
        self._stop = asyncio.Event()
        self._began = time.monotonic()
        self._sides: list[Side] = []
        self._links: list[DemoLink] = []
        self._writers: list[Writer] = []
        self._phase = "starting"

    def stop(self) -> None:
        """Stop writing; the rest (settling, comparing) follows."""
        self._stop.set()

    async def run(self) -> bool:
        """True when both sides ended equal. Raises CanalError for what kept the demonstration from running."""
        binary, version = find_server()
        self._screen.say(f"two datacenters on this machine, each with a {version} of its own ({binary})")
        with tempfile.TemporaryDirectory(prefix="redis-canal-demo-") as name:
            async with self._started(binary, Path(name)):
                try:
                    await self._write()
                    await self._settle()
                    return await self._verdict()
                except RedisError as error:
                    raise CanalError(f"a server of the demo went away: {error}") from None

    @contextlib.asynccontextmanager
    async def _started(self, binary: str, directory: Path) -> AsyncIterator[None]:
        """Servers, nodes, tasks and the console, which end with the block."""
        servers: list[Server] = []
        services: list[Service] = []
        places = Places(directory, self._zookeeper)
        await places.check()
        try:
            await self._start_servers(binary, directory, servers)
            await self._start_nodes(places, directory, services)
            await create_tasks(self._sides, places)
            await wait_streaming(self._links)
            await services[-1].wait_answer("/api/v1/health")
            self._screen.say(f"the console, open on it: {services[-1].url}/")
            self._screen.say(f"or: redis-canal task watch -c {directory}/console.yaml --dc {DATACENTERS[0]}")
            yield
        finally:
            await asyncio.gather(*(service.child.stop(STOP_S) for service in services))
            await places.forget()
            await asyncio.gather(*(server.child.stop(STOP_S) for server in servers))

    async def _start_servers(self, binary: str, directory: Path, servers: list[Server]) -> None:
        for name, port in zip(DATACENTERS, self._ports[:2], strict=True):
            place = directory / name
            place.mkdir()
            servers.append(await start_server(binary, name, port, place))
            self._sides.append(Side(name, servers[-1]))

    async def _start_nodes(self, places: Places, directory: Path, services: list[Service]) -> None:
        """A node for each datacenter and the console, each into ``services`` as soon as it runs."""
        for side, other, port in zip(self._sides, self._sides[::-1], self._ports[2:4], strict=True):
            node = await start_node(side, port, places, directory)
            services.append(node)
            self._links.append(DemoLink(side, other, node))
        for node in tuple(services):
            await node.wait_answer("/readiness")
        services.append(await start_console(self._sides, self._ports[4], places, directory))
        for link in self._links:
            self._screen.say(
                f"{link.source.name} ({link.source.server.url}) → {link.target.name}: task {link.task}, "
                f"run by {link.node.what} ({link.node.url}/status)"
            )

    async def _write(self) -> None:
        """Writers on both sides until the time is over or ``stop`` is called."""
        self._phase, self._began = "writing on both sides", time.monotonic()
        self._screen.say("writing different keys of all types on both sides; Ctrl-C stops the writers and compares")
        clients = [side.server.client() for side in self._sides]
        self._writers = [
            Writer(side.name, client, seed)
            for seed, (side, client) in enumerate(zip(self._sides, clients, strict=True))
        ]
        tasks = [asyncio.create_task(writer.run()) for writer in self._writers]
        try:
            while not self._stop.is_set() and not self._over():
                await self._show()
                for task in tasks:
                    if task.done():
                        task.result()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await self._stop.wait()
            for writer in self._writers:
                writer.stop()
            await asyncio.gather(*tasks)
        finally:
            for writer, task in zip(self._writers, tasks, strict=True):
                writer.stop()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in clients:
                await client.aclose()

    def _over(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds

    async def _settle(self) -> None:
        """Until both links say that nothing is left to apply; the comparison has the last word."""
        self._phase = "writers stopped, waiting until both sides are in step"
        deadline = time.monotonic() + SETTLE_S
        calm = 0
        while calm < 2 and time.monotonic() < deadline:
            await self._show()
            calm = calm + 1 if all(link.caught_up for link in self._links) else 0
            await asyncio.sleep(REFRESH_S)

    async def _verdict(self) -> bool:
        self._phase = "comparing"
        await self._show()
        first, second = (parse_url(side.server.url) for side in self._sides)
        report = await compare(first, second, Options(rounds=ROUNDS, pause_s=0.5))
        await self._show()
        self._screen.close()  # so that the verdict is the last thing to be seen
        for line in verdict(report, self._sides, sum(writer.written for writer in self._writers)):
            self._screen.say(line)
        return report.equal and report.keys > 0

    async def _show(self) -> None:
        for link in self._links:
            await link.refresh()
        keys = [await _count_keys(side.server) for side in self._sides]
        written = [writer.written for writer in self._writers] or [0, 0]
        self._screen.show(
            Picture(
                time.monotonic() - self._began,
                self._phase,
                tuple(
                    SideRow(side.name, side.server.url, done, held)
                    for side, done, held in zip(self._sides, written, keys, strict=True)
                ),
                tuple(LinkRow(link.name, link.state, link.status) for link in self._links),
            )
        )


def _ports(base: int | None) -> list[int]:
    """Two for the servers, two for the nodes' HTTP, one for the console. Raises ConfigError when one cannot be used."""
    if base is None:
        return free_ports(5)
    ports = list(range(base, base + 5))
    require_free(ports)
    return ports


async def _count_keys(server: Server) -> int:
    """Keys of all databases, our own included."""
    client = server.client()
    try:
        return sum(int(db["keys"]) for db in (await client.info("keyspace")).values())
    finally:
        await client.aclose()


def verdict(report: Report, sides: list[Side], written: int) -> list[str]:
    """The last lines: equal or not, and what differs."""
    if report.equal and report.keys > 0:
        return [f"EQUAL: {report.keys:,} keys compared by content and deadline after {written:,} writes, no difference"]
    if report.equal:
        return ["NOTHING COMPARED: no keys were written"]
    names = " and ".join(side.name for side in sides)
    lines = [f"DIFFERENT: {len(report.differences):,} of {report.keys:,} keys differ between {names}"]
    return lines + [f"  {difference}" for difference in report.differences[:20]]


async def run_demo(screen: Screen, seconds: float | None, base_port: int | None, zookeeper: str | None = None) -> bool:
    """Run it with signals: the first SIGINT or SIGTERM ends the writing, the second all."""
    demo = Demo(screen, seconds, base_port, zookeeper)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    asked = False

    def on_signal() -> None:
        nonlocal asked
        if asked:
            task.cancel()
        asked = True
        demo.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return await demo.run()
