"""What the API shows: session, datacenters, tasks, nodes, history, logs, dead letters, live events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from canal.errors import Unreachable
from console.web.answers import ApiError, document
from console.web.auth import COOKIE, SESSION_S, Who
from console.web.fetch import fetch_json
from console.web.hub import MAX_WATCHERS
from console.web.sites import Site
from console.web.spec import to_yaml
from console.web.state import State, of
from console.web.view import Json, events_document
from node.coordination.coordinator import Coordinator
from node.jobs import JobQueue

LETTERS: Final = 100
LINES: Final = 200


async def health(request: Request) -> Response:
    """Says that the console answers, and nothing else: it needs no session."""
    return document({"ok": True})


async def session(request: Request) -> Response:
    """Who is logged in (an empty name: nobody); without tokens in console.yaml a session is begun here."""
    state = of(request)
    who: Who | None = request.state.who
    if who is None:
        return document({"name": "", "role": "", "csrf": None, "open": False})
    if state.auth.open and not who.nonce:
        return begin_session(request, state, who)
    return document(session_document(state, who))


def begin_session(request: Request, state: State, who: Who) -> Response:
    """The answer that logs ``who`` in."""
    cookie, who = state.auth.session(who)
    answer = document(session_document(state, who))
    give_cookie(request, answer, cookie)
    return answer


def give_cookie(request: Request, answer: Response, cookie: str) -> None:
    """Have the browser keep the session ``cookie``."""
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(SESSION_S),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def session_document(state: State, who: Who) -> Json:
    """What a page knows about its session."""
    csrf = state.auth.csrf(who) if who.nonce else None
    return {"name": who.name, "role": who.role, "csrf": csrf, "open": state.auth.open, "version": state.version}


async def overview(request: Request) -> Response:
    """Everything of the overview at once; tasks with ten minutes of throughput as ``spark``."""
    sites = of(request).sites
    now, nodes = time.time(), sites.nodes
    tasks = [{**task, "spark": sites.history.ring(uid).spark(now)} for uid, task in sites.tasks.items()]
    datacenters = sites.datacenters(sites.tasks, nodes)
    return document({"datacenters": list(datacenters.values()), "tasks": tasks, "nodes": list(nodes.values())})


async def datacenters(request: Request) -> Response:
    sites = of(request).sites
    return document({"datacenters": list(sites.datacenters(sites.tasks, sites.nodes).values())})


async def tasks(request: Request) -> Response:
    return document({"tasks": list(of(request).sites.tasks.values())})


async def nodes(request: Request) -> Response:
    return document({"nodes": list(of(request).sites.nodes.values())})


async def task(request: Request) -> Response:
    """A task with everything but its figures over time."""
    sites = of(request).sites
    site, coordinator, record = await _task(request)
    views, events, jobs = await sites.call(_more, coordinator, record.task)
    found = sites.detail(site, record, views)
    found.update(spec=record.spec, yaml=to_yaml(record.spec), events=events_document(events), jobs=jobs)
    found["turn"] = of(request).turns.of(record.uid)
    return document(found)


async def jobs(request: Request) -> Response:
    """The newest jobs of a task."""
    sites = of(request).sites
    _, coordinator, record = await _task(request)
    return document({"jobs": await sites.call(_jobs, coordinator, record.task)})


async def task_status(request: Request) -> Response:
    """The state of a task and its shards, as short as a script wants it."""
    sites = of(request).sites
    site, coordinator, record = await _task(request)
    found = sites.detail(site, record, await sites.call(coordinator.tasks.shards, record.task))
    names = ("task", "desired", "state", "phase", "error", "lag_seconds", "lag_bytes", "version")
    return document({**{name: found[name] for name in names}, "shards": found["shard_list"]})


async def history(request: Request) -> Response:
    """The last hour of a task, as columns."""
    sites = of(request).sites
    _, _, record = await _task(request)
    return document(sites.history.ring(record.uid).document(time.time()))


async def logs(request: Request) -> Response:
    """The newest log lines of a task's workers; ``trouble`` names nodes that could not be asked."""
    lines, trouble = await _of_nodes(request, "/logs")
    lines.sort(key=lambda line: float(line.get("at") or 0))
    return document({"lines": lines[-LINES:], "trouble": trouble})


async def dead_letters(request: Request) -> Response:
    """The newest dead letters of a task, without their values."""
    letters, trouble = await _of_nodes(request, "/dead-letters")
    letters.sort(key=lambda letter: float(letter.get("at") or 0), reverse=True)
    return document({"dead_letters": letters[:LETTERS], "trouble": trouble})


async def conflicts(request: Request) -> Response:
    """The newest conflicts of a two-way task: keys that several datacenters wrote at once."""
    found, trouble = await _of_nodes(request, "/conflicts")
    found.sort(key=lambda one: float(one.get("at") or 0), reverse=True)
    return document({"conflicts": found[:LETTERS], "trouble": trouble})


async def _of_nodes(request: Request, path: str) -> tuple[list[Json], list[str]]:
    """What all living nodes of a task's datacenter tell about it at ``path``."""
    sites = of(request).sites
    site, _, record = await _task(request)
    living = site.place.facts.nodes if site.place.facts else {}

    async def ask(name: str, address: str) -> list[Json] | str:
        try:
            found: Any = await sites.call(fetch_json, site.addresses.get(name) or address, path, tls=sites.tls)
        except Unreachable as error:
            return f"{name}: {error}"
        return [{**item, "node": name} for item in found if item.get("task") == record.task]

    answers = await asyncio.gather(*(ask(name, node.http) for name, node in living.items()))
    items = [item for answer in answers if isinstance(answer, list) for item in answer]
    return items, [answer for answer in answers if isinstance(answer, str)]


async def events(request: Request) -> Response:
    """Server-sent events: ``all`` with every datacenter, task and node, then ``changes``."""
    state, who = of(request), request.state.who
    if state.sites.hub.watchers >= MAX_WATCHERS:
        raise ApiError(503, "busy", f"{MAX_WATCHERS} pages are watching already; close one")
    cookie = request.cookies.get(COOKIE, "")

    async def stream() -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        async for item in state.sites.hub.watch():
            if who.nonce and state.auth.by_cookie(cookie) is None:
                return  # logged out meanwhile, or the session has run out
            yield item

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _task(request: Request) -> tuple[Site, Coordinator, Any]:
    sites = of(request).sites
    name = request.path_params["task"]
    return await sites.call(sites.find_task, name, request.query_params.get("datacenter"))


def _more(coordinator: Coordinator, task: str) -> tuple[Any, Any, list[Json]]:
    return coordinator.tasks.shards(task), coordinator.tasks.events(task), _jobs(coordinator, task)


def _jobs(coordinator: Coordinator, task: str) -> list[Json]:
    """Newest first; where a comparison would go on is nobody's business but the nodes'."""
    found = [asdict(replace(job, saved={})) for job in JobQueue(coordinator.store).all() if job.task == task]
    return found[::-1][:20]
