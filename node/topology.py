"""Topologies of tasks: which origins a task must leave to others, and whether any write would arrive twice.

The rule is that of `sync.routes`; here it is asked of specifications, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.config.models import SideConfig, TaskSpec
from sync import routes
from sync.routes import Route, Server


def server(side: SideConfig) -> Server:
    """A side's server as far as its task tells it apart from others."""
    return side.datacenter, side.endpoint.address


def route_of(spec: TaskSpec) -> Route:
    """A task's route."""
    return Route(spec.task, server(spec.source), server(spec.target), spec.direct)


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
    return [str(problem) for problem in routes.doubled([route_of(spec) for spec in specs])]


def forwards(spec: TaskSpec, origin: str) -> bool:
    """True when the task passes on writes that were made in ``origin``."""
    return route_of(spec).forwards(origin)


def shape(specs: Sequence[TaskSpec]) -> str:
    """What the tasks that are connected with the first one form: one way, two ways, mesh, hub, ring or cascade; empty
    when it has no name. For people.
    """
    pairs = _connected({(spec.source.datacenter, spec.target.datacenter) for spec in specs}, specs[0])
    names = {name for pair in pairs for name in pair}
    outgoing = {name: sum(pair[0] == name for pair in pairs) for name in names}
    incoming = {name: sum(pair[1] == name for pair in pairs) for name in names}
    both = all((target, source) in pairs for source, target in pairs)
    if len(names) == 2:
        return "two ways" if both else "one way"
    if len(pairs) == len(names) * (len(names) - 1):
        return f"a mesh of {len(names)}"
    if both and len(pairs) == 2 * (len(names) - 1):
        centre = max(names, key=lambda name: outgoing[name])
        return f"a hub at {centre}" if outgoing[centre] == len(names) - 1 else "a chain, two ways"
    if all(outgoing[name] == incoming[name] == 1 for name in names):
        return f"a ring of {len(names)}"
    if all(incoming[name] <= 1 for name in names) and len(pairs) == len(names) - 1:
        return "a cascade"
    return ""


def _connected(pairs: set[tuple[str, str]], first: TaskSpec) -> set[tuple[str, str]]:
    reached = {first.source.datacenter, first.target.datacenter}
    while more := {name for pair in pairs if reached & set(pair) for name in pair} - reached:
        reached |= more
    return {pair for pair in pairs if set(pair) <= reached}
