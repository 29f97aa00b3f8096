"""The job ``letters``: dead letters are dealt with where they lie, at the node that holds the shard."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

from canal.commands import written_in
from canal.errors import ConfigError, Refused
from node.coordination.tasks import NotFound
from node.jobs import Job
from sync.config import LinkConfig
from sync.letters import Letter, Settled, ask_refetch, read_letters, settle
from sync.reapply import reapply
from sync.refetch import Place
from sync.transform import Transform

ACTIONS: Final = ("acknowledge", "refetch", "retry")
_SETTLED: Final[dict[str, Settled]] = dict(zip(ACTIONS, ("acknowledged", "refetch asked for", "retried"), strict=True))
assert set(_SETTLED.values()) == set(get_args(Settled))


async def deal_with(job: Job, link: LinkConfig, *, at_work: bool) -> dict[str, Any]:
    """Do what ``job`` asks with the letters that it names (none: all that wait); what came of it.

    ``at_work``: the shard's worker runs. Raises `NotFound` for a letter that does not wait, `Refused` for a retry
    beside a worker, `ConfigError` for a letter whose keys are not known.
    """
    action = str(job.options.get("action"))
    if action not in ACTIONS:
        raise ConfigError(f"job {job.id}: {action!r} is nothing that can be done with letters: expected {ACTIONS}")
    directory = link.state_dir
    letters = await asyncio.to_thread(_chosen, directory, [str(name) for name in job.options.get("ids", [])])
    if action == "retry":
        if at_work:
            raise Refused(
                f"task {job.task} is at work, so its letters cannot be sent beside it: fetch their keys instead, "
                "which is always safe"
            )
        return {"letters": await reapply(link.target, directory, letters, job.by)}
    if action == "refetch":
        await asyncio.to_thread(ask_refetch, directory, _places(letters, link))
    await asyncio.to_thread(settle, directory, [letter.id for letter in letters], _SETTLED[action], job.by)
    return {"letters": len(letters)}


def _chosen(directory: Path, ids: list[str]) -> list[Letter]:
    waiting = {letter.id: letter for letter in read_letters(directory) if letter.settled is None}
    for name in ids:
        if name not in waiting:
            raise NotFound(f"no dead letter {name} waits there: it may have been dealt with meanwhile")
    return [letter for letter in waiting.values() if not ids or letter.id in ids]


def _places(letters: list[Letter], link: LinkConfig) -> dict[Place, None]:
    """The keys that the letters' commands write, as the source names them."""
    transform = Transform(replace(link.transform, hook=""))
    places: dict[Place, None] = {}
    for letter in letters:
        found = [transform.invert(db, key) for db, key in written_in(letter.db, list(letter.argv))]
        known = [place for place in found if place is not None]
        if not known or len(known) < len(found) or link.transform.hook:
            raise ConfigError(
                f"letter {letter.id}: which keys of the source it concerns is not known; name them on its node "
                "(redis-canal dead-letters refetch --key)"
            )
        places.update(dict.fromkeys(known))
    return places
