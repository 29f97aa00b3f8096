"""What is looked at before a task is created or changed: its credentials, and the tasks that it joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from canal.errors import CanalError, ConfigError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from console.cli.access import Access
    from node.config.models import SideConfig, TaskSpec


def check_credentials(spec: TaskSpec, access: Access) -> None:
    """Raise ConfigError for a credential that the file in hand does not know; console.yaml need not know any."""
    if not access.credentials:
        return
    for side, config in (("source", spec.source), ("target", spec.target)):
        if config.credentials is not None and config.credentials not in access.credentials:
            listed = ", ".join(sorted(access.credentials))
            raise ConfigError(
                f"{side}: credential {config.credentials!r} is not known (known: {listed}); add it under credentials:"
                " in every node.yaml first"
            )


def _say(text: str) -> None:
    click.echo(text, err=True)


def fit_in(spec: TaskSpec, access: Access, *, say: Callable[[str], object] = _say) -> TaskSpec:
    """The task with its ``direct`` worked out among all tasks that can be seen; mends that of the others.

    ``say`` is told of each task that was mended. Raises Refused when writes would circulate or arrive twice.
    """
    from node.spec import read_spec, write_spec
    from node.topology import direct_for, doubled, shape

    coordinators = (access.coordinator, *access.others)
    known = [
        (c, read_spec(record))
        for c in coordinators
        for record in c.tasks.all().values()
        if record.task != spec.task or c is not access.coordinator  # the task itself, as it is now
    ]
    others = [other for _, other in known]
    fitted = spec.model_copy(update={"direct": tuple(sorted({*spec.direct, *direct_for(spec, others)}))})
    mended = [
        other.model_copy(update={"direct": tuple(sorted({*other.direct, *direct_for(other, [fitted])}))})
        for other in others
    ]
    problems = doubled([fitted, *mended])
    if problems:
        raise Refused(f"task {spec.task}: {problems[0]}; leave one of them out")
    if named := shape([fitted, *mended]):
        say(f"task {spec.task}: with the tasks known here this is {named}")
    if not access.others and fitted.target.datacenter not in {other.source.datacenter for other in others}:
        say(
            f"task {spec.task}: only the tasks of one coordinator were looked at; where others write to "
            f"{fitted.target.datacenter} too, create tasks with -c console.yaml, or name them in `direct`"
        )
    for (coordinator, other), changed in zip(known, mended, strict=True):
        if changed != other:
            coordinator.tasks.set_spec(other.task, write_spec(changed), by=f"task create {spec.task}")
            say(f"task {other.task}: writes made in {spec.source.datacenter} now reach its target by {spec.task}")
    return fitted


def look_at_servers(spec: TaskSpec, access: Access, *, accept_evictions: bool) -> None:
    """Ask both servers what evictions would do to the task; what cannot be reached from here is only said.

    Evictions are plain DELs in the stream: in a two-way task they would delete at the other side what is evicted here.
    Raises Refused for a two-way task over a server that evicts, unless that is accepted.
    """
    for side, config in (("source", spec.source), ("target", spec.target)):
        try:
            policy = _eviction_policy(side, config, access)
        except CanalError as error:
            _say(f"{side} {config.url} was not looked at from here: {error}")
            continue
        if policy in ("", "noeviction"):
            continue
        if spec.two_way is not None and not accept_evictions:
            raise Refused(
                f"{side} {config.url} has maxmemory-policy {policy}: what it evicts would be deleted on the other side"
                " too; set noeviction, or give --accept-evictions"
            )
        if spec.two_way is not None or (side == "target" and policy.startswith("allkeys-")):
            _say(f"warning: {side} {config.url} has maxmemory-policy {policy} and may evict what is needed")


def _eviction_policy(side: str, config: SideConfig, access: Access) -> str:
    """The server's maxmemory-policy, '' where it does not say or can never evict (no maxmemory)."""
    import asyncio

    from canal.control import control
    from canal.errors import Unreachable
    from node.config.secrets import resolve

    endpoint = resolve(side, config, access.credentials)

    async def ask() -> dict[str, Any]:
        async with control(endpoint) as client:
            found: dict[str, Any] = await client.info("memory")
            return found

    try:
        memory = asyncio.run(asyncio.wait_for(ask(), 5))
    except CanalError:
        raise
    except Exception as error:
        raise Unreachable(str(error) or type(error).__name__) from None
    return str(memory.get("maxmemory_policy", "")) if memory.get("maxmemory", 0) else ""
