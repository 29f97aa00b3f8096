"""Where writes go between servers, and which sets of links would apply a write twice.

A link forwards every write but those whose origin is its own target's datacenter, or one in its ``direct`` list: that
origin reaches the target by a link of its own. So for each origin the links that forward it must form a tree: a server
that it reaches by two links would apply each of its writes twice. Servers are told apart by datacenter and address.

Coordinators see the tasks of their own datacenters only. So each link leaves its route in a reserved hash at its
target, and looks, before it writes anything, at the routes of the links that live at its two servers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from canal.errors import CanalError, Refused
from sync.config import LinkConfig
from sync.tag import INDEX, RESERVED
from sync.target.connection import Connection, connect
from sync.target.fence import client_names

ROUTES: Final = RESERVED + b"routes"
Server = tuple[str, str]
"""(datacenter, address)"""


@dataclass(frozen=True, slots=True)
class Route:
    """One link: from server to server, and the origins that it leaves to others."""

    task: str
    source: Server
    target: Server
    direct: tuple[str, ...] = ()

    def forwards(self, origin: str) -> bool:
        """True when it passes on writes that were made in ``origin``."""
        return origin != self.target[0] and (origin == self.source[0] or origin not in self.direct)


@dataclass(frozen=True, slots=True)
class Doubled:
    """Writes made in ``origin`` reach ``server`` by each of ``tasks``."""

    origin: str
    server: Server
    tasks: tuple[str, ...]

    def __str__(self) -> str:
        names = " and by ".join(self.tasks)
        return f"writes made in {self.origin} would reach {self.server[1]} in {self.server[0]} twice: by {names}"


def doubled(routes: Sequence[Route]) -> list[Doubled]:
    """Each server that the writes of one origin would reach more than once; empty when all is well."""
    problems = []
    for origin in sorted({route.source for route in routes}):
        arrivals: dict[Server, list[str]] = {}
        reached, todo = {origin}, [origin]
        while todo:
            here = todo.pop()
            for route in routes:
                if route.source != here or not route.forwards(origin[0]):
                    continue
                arrivals.setdefault(route.target, []).append(route.task)
                if route.target not in reached:
                    reached.add(route.target)
                    todo.append(route.target)
        problems += [
            Doubled(origin[0], there, tuple(sorted(tasks)))
            for there, tasks in sorted(arrivals.items())
            if len(tasks) > 1
        ]
    return problems


def route_of(config: LinkConfig) -> Route:
    """A link's own."""
    source, target = (config.source_dc, config.source.address), (config.target_dc, config.target.address)
    return Route(config.task, source, target, config.direct)


async def refuse_doubled(config: LinkConfig, target: Connection) -> None:
    """Raise Refused when this link, with those that live at its two servers, would apply writes twice.

    A server where that may not be asked is passed over.
    """
    own = route_of(config)
    routes = {own.task: own}
    for there in await _living(target, own.target):
        routes.setdefault(there.task, there)
    try:
        source = await connect(config.source, 5.0, who="source")
    except CanalError:
        source = None
    if source is not None:
        try:
            for there in await _living(source, own.source):
                routes.setdefault(there.task, there)
        except CanalError:
            pass
        finally:
            source.close()
    for problem in doubled(list(routes.values())):
        via = [routes[name] for name in problem.tasks if routes[name].source[0] != problem.origin]
        mend = f"name {problem.origin} in `direct` of {via[0].task}" if via else "leave one of them out"
        raise Refused(f"task {own.task}: {problem}. Nothing was written. {mend[0].upper()}{mend[1:]}")


async def leave_route(config: LinkConfig, conn: Connection) -> None:
    """Let other links see this one, at its target. Without the right to it, they do not."""
    own = route_of(config)
    record = {"source": list(own.source), "direct": list(own.direct)}
    name = f"{config.task}/{config.shard}".encode()
    text = json.dumps(record, separators=(",", ":")).encode()
    (found,) = await conn.calls([[b"HGET", ROUTES, name]])
    if found != text:
        told = [[b"HSET", ROUTES, name, text], [b"SADD", INDEX, ROUTES]]
        # a cluster has the two keys on different nodes
        await conn.calls(told if conn.several else [[b"MULTI"], *told, [b"EXEC"]])


async def _living(conn: Connection, here: Server) -> list[Route]:
    """The routes of links into this server that are connected to it now."""
    flat, clients = await conn.calls([[b"HGETALL", ROUTES], [b"CLIENT", b"LIST"]])
    if not (isinstance(clients, bytes) and isinstance(flat, list) and all(isinstance(one, bytes) for one in flat)):
        return []  # refused, or no server that knows these commands
    alive = {name.split(":")[1] for name in client_names(clients) if name.startswith("redis-canal:")}
    found = zip(flat[::2], flat[1::2], strict=False)
    routes = [_read(name.decode("utf-8", "replace"), text, here) for name, text in found]
    return [route for name, route in routes if route is not None and name in alive]


def _read(name: str, text: bytes, here: Server) -> tuple[str, Route | None]:
    try:
        value: dict[str, Any] = json.loads(text)
        datacenter, address = (str(word) for word in value["source"])
        direct = tuple(str(word) for word in value["direct"])
    except (ValueError, KeyError, TypeError):
        return name, None  # of another version: not ours to judge
    return name, Route(name.partition("/")[0], (datacenter, address), here, direct)
