"""Where writes go between datacenters: which origins a task must leave to others, and whether any would circulate.

A task forwards every write but those whose origin is its own target's datacenter, or one in its ``direct`` list: that
origin reaches the target by a task of its own. So for each origin the tasks that forward it must form a tree: a server
that it reaches by two tasks would apply each of its writes twice. Servers are told apart by datacenter and address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.config.models import SideConfig, TaskSpec

Server = tuple[str, str]


def server(side: SideConfig) -> Server:
    """A side's server as far as its task tells it apart from others."""
    return side.datacenter, side.endpoint.address


def direct_for(spec: TaskSpec, others: Iterable[TaskSpec]) -> tuple[str, ...]:
    """The datacenters, besides the task's own two, that have a task of their own to the same target server."""
    own = {spec.source.datacenter, spec.target.datacenter}
    found = {
        other.source.datacenter
        for other in others
        if other.task != spec.task and server(other.target) == server(spec.target)
    }
    return tuple(sorted(found - own))


def doubled(specs: Sequence[TaskSpec]) -> list[str]:
    """One line for each server that the writes of one origin would reach more than once; empty when all is well."""
    problems = []
    for origin in sorted({server(spec.source) for spec in specs}):
        arrivals: dict[Server, list[str]] = {}
        reached, todo = {origin}, [origin]
        while todo:
            here = todo.pop()
            for spec in specs:
                if server(spec.source) != here or not forwards(spec, origin[0]):
                    continue
                there = server(spec.target)
                arrivals.setdefault(there, []).append(spec.task)
                if there not in reached:
                    reached.add(there)
                    todo.append(there)
        for there, tasks in sorted(arrivals.items()):
            if len(tasks) > 1:
                names = " and by ".join(sorted(tasks))
                problems.append(f"writes made in {origin[0]} would reach {there[1]} in {there[0]} twice: by {names}")
    return problems


def forwards(spec: TaskSpec, origin: str) -> bool:
    """True when the task passes on writes that were made in ``origin``."""
    return origin != spec.target.datacenter and (origin == spec.source.datacenter or origin not in spec.direct)
