"""What the API changes. Every handler asks for it at the coordinator and returns at once; nodes do it.

Each change is written to the audit log before it is made; `guard` has checked role and CSRF token by then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from canal.errors import CanalError, Refused
from console.cli.access import Access
from console.cli.task_create import fit_in
from console.web.answers import ApiError, document
from console.web.auth import Who
from console.web.comparison import read_comparison
from console.web.probe import probe
from console.web.reads import begin_session
from console.web.sites import Site, Sites
from console.web.spec import read_task, to_yaml, warnings
from console.web.state import State, address_of, of
from node.coordination.coordinator import Coordinator
from node.coordination.records import Desired, TaskRecord
from node.coordination.tasks import NotFound
from node.jobs import JobKind, JobQueue, comparing_shard
from node.spec import read_spec, write_spec

log = logging.getLogger(__name__)
Json = dict[str, Any]
VERBS: Final[dict[str, Desired]] = {"start": "running", "resume": "running", "pause": "paused", "stop": "stopped"}
DELETE_S: Final = 60.0


async def login(request: Request) -> Response:
    """Exchange a token for a session."""
    state, address, now = of(request), address_of(request), time.monotonic()
    wait_s = math.ceil(state.tries.wait_s(address, now))
    if wait_s:
        raise ApiError(429, "too_many", f"too many wrong tokens; try again in {wait_s} s", wait_s=wait_s)
    token = (await body_of(request)).get("token")
    who = state.auth.by_token(token) if isinstance(token, str) else None
    if who is None:
        state.tries.wrong(address, now)
        state.audit.write("", address, "login refused", "")
        raise ApiError(401, "wrong_token", "this token is not known")
    state.audit.write(who.name, address, "login", "")
    return begin_session(request, state, who)


async def logout(request: Request) -> Response:
    """End the session."""
    state = of(request)
    who: Who | None = request.state.who
    if who is not None and who.nonce:
        if not state.auth.csrf_ok(who, request.headers.get("x-csrf-token", "")):
            raise ApiError(403, "csrf", "the X-CSRF-Token header is missing or not of this session")
        state.auth.end(who)
    return document({"ended": True})


async def body_of(request: Request) -> Json:
    """The JSON object that was sent. Raises `ApiError`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", "send application/json")
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ApiError(400, "not_json", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise ApiError(400, "not_json", "the body is not a JSON object")
    return found


# ---- tasks ----


async def preview(request: Request) -> Response:
    """What would be created: the YAML, and what a person should know first."""
    spec = read_task(await body_of(request))
    return document({"yaml": to_yaml(spec), "warnings": warnings(spec, of(request).sites)})


async def test_connection(request: Request) -> Response:
    """Try to reach a server with the credentials of console.yaml."""
    body = await body_of(request)
    audit(request, "test connection", str(body.get("url")))
    return document(await probe(body, of(request).sites.config.credentials))


async def create(request: Request) -> Response:
    """Create a task; it runs at once when ``start`` is true."""
    body = await body_of(request)
    spec, sites = read_task(body), of(request).sites
    site, coordinator = sites.home_of(spec.source.datacenter)
    desired: Desired = "running" if body.get("start") is True else "stopped"
    audit(request, "create task", spec.task, datacenter=spec.source.datacenter, desired=desired)
    notes: list[str] = []

    def do() -> TaskRecord:
        if spec.task in coordinator.tasks.all():
            raise Refused(f"task {spec.task} exists already; choose another name")
        fitted = fit_in(spec, _access(sites, coordinator), say=notes.append)
        return coordinator.tasks.create(spec.task, write_spec(fitted), desired=desired, by=by(request))

    record = await sites.call(do)
    await read_again(sites, site)
    return document({"task": record.task, "uid": record.uid, "desired": desired, "notes": notes}, 201)


async def update(request: Request) -> Response:
    """Replace a task's specification; ``version``, when given, must be the one that was looked at."""
    body = await body_of(request)
    spec, sites = read_task(body), of(request).sites
    version = body.get("version")
    if version is not None and not isinstance(version, int):
        raise ApiError(422, "invalid", "version is not a number", problems=[])
    site, coordinator, record = await find_task(request)
    if spec.task != record.task:
        raise ApiError(422, "invalid", f"the specification names the task {spec.task}, not {record.task}", problems=[])
    audit(request, "change task", spec.task)

    def do() -> None:
        if read_spec(record).source.datacenter != spec.source.datacenter:
            raise Refused(f"task {spec.task} has another source datacenter; delete it and create a new one")
        fitted = fit_in(spec, _access(sites, coordinator), say=log.info)
        coordinator.tasks.set_spec(spec.task, write_spec(fitted), by=by(request), version=version)

    await sites.call(do)
    await read_again(sites, site)
    return document({"task": spec.task}, 202)


async def change(request: Request) -> Response:
    """start, stop, pause or resume a task."""
    verb = request.path_params["verb"]
    desired = VERBS.get(verb)
    if desired is None:
        raise ApiError(404, "not_found", f"there is no {verb!r}; a task can {', '.join(VERBS)}")
    sites = of(request).sites
    site, coordinator, record = await find_task(request)
    audit(request, f"{verb} task", record.task)

    def do() -> TaskRecord:
        failed = any(view.state.state == "failed" for view in coordinator.tasks.shards(record.task))
        found = coordinator.tasks.set_desired(record.task, desired, by=by(request))
        if failed and desired == "running":
            found = coordinator.tasks.restart(record.task, by=by(request), what="to be tried again")
        return found

    new = await sites.call(do)
    await read_again(sites, site)
    return document({"task": new.task, "desired": new.desired, "version": new.version}, 202)


async def resync(request: Request) -> Response:
    """Ask for a new snapshot of the whole source."""
    sites = of(request).sites
    site, coordinator, record = await find_task(request)
    if record.desired != "running":
        raise Refused(f"task {record.task} is to be {record.desired}; start it first, a resync needs its worker")
    audit(request, "resync task", record.task)

    def do() -> list[str]:
        queue = JobQueue(coordinator.store)
        shards = coordinator.tasks.shard_ids(record.task)
        jobs = [queue.put("resync", record.task, shard=s.shard, by=by(request), timeout_s=86400.0) for s in shards]
        coordinator.tasks.record_event(record.task, "full resync asked for", by=by(request))
        return [job.id for job in jobs]

    jobs = await sites.call(do)
    await read_again(sites, site)
    return document({"task": record.task, "jobs": jobs}, 202)


async def verify(request: Request) -> Response:
    """Ask for a comparison of both sides, and with ``repair`` true for the repair of what differs."""
    body, sites = await body_of(request), of(request).sites
    repair, options = read_comparison(body)
    site, coordinator, record = await find_task(request)
    if record.desired == "stopped":
        raise Refused(f"task {record.task} is to be stopped; start it first, a node that runs it does the comparison")
    what = "repair" if repair else "comparison"
    audit(request, f"{'repair' if repair else 'verify'} task", record.task, **options)

    def do() -> list[str]:
        queue = JobQueue(coordinator.store)
        kind: JobKind = "repair" if repair else "verify"
        shard = comparing_shard(record.task, coordinator.tasks.shard_ids(record.task))
        job = queue.put(kind, record.task, shard=shard, by=by(request), timeout_s=86400.0, **options)
        coordinator.tasks.record_event(record.task, f"{what} asked for", by=by(request))
        return [job.id]

    jobs = await sites.call(do)
    await read_again(sites, site)
    return document({"task": record.task, "jobs": jobs}, 202)


async def cancel_job(request: Request) -> Response:
    """Cancel a job of a task: a queued one at once, a running one as soon as its node has ended it."""
    sites = of(request).sites
    site, coordinator, record = await find_task(request)
    name = request.path_params["job"]
    audit(request, "cancel job", name, task=record.task)

    def do() -> str:
        queue = JobQueue(coordinator.store)
        if queue.get(name).task != record.task:
            raise NotFound(f"task {record.task} has no job {name!r}")
        return queue.cancel(name).state

    state = await sites.call(do)
    await read_again(sites, site)
    return document({"job": name, "state": state}, 202)


async def delete(request: Request) -> Response:
    """Stop a task and forget it as soon as no node runs it any more."""
    state = of(request)
    site, coordinator, record = await find_task(request)
    audit(request, "delete task", record.task)
    await state.sites.call(coordinator.tasks.set_desired, record.task, "stopped", by=by(request))
    work = asyncio.create_task(_delete_when_stopped(state, site, coordinator, record))
    state.background.add(work)
    work.add_done_callback(state.background.discard)
    return document({"task": record.task, "desired": "deleted"}, 202)


async def _delete_when_stopped(state: State, site: Site, coordinator: Coordinator, record: TaskRecord) -> None:
    deadline = time.monotonic() + DELETE_S
    while True:
        try:
            now = await state.sites.call(coordinator.tasks.get, record.task)
            if now.uid == record.uid and now.desired == "stopped":
                await state.sites.call(coordinator.tasks.delete, record.task)
            break
        except NotFound:
            break
        except CanalError as error:
            if time.monotonic() > deadline:
                log.warning("task %s could not be deleted: %s", record.task, error)
                break
            await asyncio.sleep(0.2)
    await read_again(state.sites, site)


# ---- nodes ----


async def drain(request: Request) -> Response:
    """Have a node give up its shards (PUT), or let it take some again (DELETE)."""
    name, sites = request.path_params["node"], of(request).sites
    on = request.method == "PUT"
    found = [key for key, node in sites.nodes.items() if node["node"] == name]
    wanted = request.query_params.get("datacenter")
    if wanted is None and len(found) == 1:
        wanted = found[0].partition("/")[0]
    if wanted is None:
        raise (
            NotFound(f"there is no node {name!r}")
            if not found
            else Refused(f"several datacenters have a node {name!r}; add ?datacenter=NAME")
        )
    site, coordinator = sites.home_of(wanted)
    audit(request, "drain node" if on else "undo drain of node", name, datacenter=wanted)
    await sites.call(coordinator.nodes.drain, name, on)
    await read_again(sites, site)
    return document({"node": name, "draining": on}, 202)


# ---- what they share ----


def by(request: Request) -> str:
    """Who asks, for the history of a task."""
    who: Who = request.state.who
    return f"{who.name} (console)"


def audit(request: Request, action: str, subject: str, **more: Any) -> None:
    """Write down who is about to do what."""
    who: Who = request.state.who
    of(request).audit.write(who.name, address_of(request), action, subject, **more)


def _access(sites: Sites, coordinator: Coordinator) -> Access:
    others = [s.coordinator for s in sites.sites if s.coordinator is not None and s.coordinator is not coordinator]
    return Access(coordinator, {}, tuple(others))


async def find_task(request: Request) -> tuple[Site, Coordinator, TaskRecord]:
    """The task of the path. Raises `NotFound`, `Refused` where its name is not enough."""
    sites = of(request).sites
    return await sites.call(sites.find_task, request.path_params["task"], request.query_params.get("datacenter"))


async def read_again(sites: Sites, site: Site) -> None:
    """So that whoever asked sees what came of it in the next answer."""
    await sites.read(site)
    sites.publish()
