"""What the API changes beyond start and stop: promotion, reversal, throttle, dead letters. Asked for like `writes`."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from canal.errors import Refused
from console.turn import How, Turn
from console.web.answers import ApiError, document
from console.web.state import of
from console.web.turns import Turned
from console.web.writes import audit, body_of, by, find_task, read_again
from node.config.loader import explain
from node.config.models import TaskName, ThrottleConfig
from node.coordination.coordinator import Coordinator
from node.jobs import Job, JobQueue
from node.letterjobs import ACTIONS
from node.spec import read_spec, write_spec

LETTERS_S: Final = 300.0
M = TypeVar("M", bound=BaseModel)


class TurnOptions(BaseModel):
    """How to promote or reverse. ``name``: of the task in the other direction."""

    model_config = ConfigDict(extra="forbid")

    pause_writes: bool = False
    force: bool = False
    verify: bool = True
    timeout_seconds: float = Field(default=300.0, ge=1, le=86400)
    name: TaskName | None = None


class LettersOptions(BaseModel):
    """What to do with dead letters of one shard; no ``ids``: with all that wait."""

    model_config = ConfigDict(extra="forbid")

    action: str = Field(json_schema_extra={"enum": list(ACTIONS)})
    shard: str = "0"
    ids: list[str] = Field(default=[], max_length=1000)


async def _options(request: Request, model: type[M]) -> M:
    """The body as ``model`` has it. Raises `ApiError` with all that is wrong."""
    try:
        return model.model_validate(await body_of(request))
    except ValidationError as error:
        problems = [{"path": path, "message": said} for path, said in explain(error, model)]
        raise ApiError(422, "invalid", problems[0]["message"], problems=problems) from None


async def promote(request: Request) -> Response:
    """Drain, prove both sides equal, stop."""
    return await _turn(request, back=False)


async def reverse(request: Request) -> Response:
    """Promote, then replicate from the target to the source."""
    return await _turn(request, back=True)


async def _turn(request: Request, *, back: bool) -> Response:
    state, options = of(request), await _options(request, TurnOptions)
    _, coordinator, record = await find_task(request)
    kind = "reverse" if back else "promote"
    how = How(options.pause_writes, options.force, options.verify, options.timeout_seconds, by(request))
    turned = Turned("reverse" if back else "promote", how.by)

    def prepare() -> tuple[Turn, Coordinator]:
        turn = Turn(coordinator, state.sites.config.credentials, record.task, how, turned.lines.append)
        there = state.sites.home_of(turn.spec.target.datacenter)[1] if back else coordinator
        if back:
            turn.refuse_back(there, options.name)
        return turn, there

    turn, there = await state.sites.call(prepare)

    def work() -> None:
        turn.promote()
        if back:
            turn.replicate_back(there, options.name)

    audit(request, f"{kind} task", record.task, **options.model_dump())
    state.turns.begin(record.uid, turned, work)
    return document({"task": record.task, "turn": turned.document}, 202)


async def throttle(request: Request) -> Response:
    """Other limits of replay, without a new start."""
    limits = await _options(request, ThrottleConfig)
    sites = of(request).sites
    site, coordinator, record = await find_task(request)
    audit(request, "throttle task", record.task, **limits.model_dump())

    def do() -> int:
        spec = read_spec(record).model_copy(update={"throttle": limits})
        return coordinator.tasks.set_spec(record.task, write_spec(spec), by=by(request), version=record.version).version

    version = await sites.call(do)
    await read_again(sites, site)
    return document({"task": record.task, "throttle": limits.model_dump(), "version": version}, 202)


async def letters(request: Request) -> Response:
    """Have the node that holds a shard acknowledge, fetch or send again its dead letters."""
    options = await _options(request, LettersOptions)
    if options.action not in ACTIONS:
        said = f"expected one of {', '.join(ACTIONS)}, got {options.action!r}"
        raise ApiError(422, "invalid", said, problems=[{"path": "action", "message": said}])
    sites = of(request).sites
    _, coordinator, record = await find_task(request)
    audit(request, f"{options.action} dead letters", record.task, shard=options.shard, ids=options.ids)

    def do() -> Job:
        views = {view.id.shard: view for view in coordinator.tasks.shards(record.task)}
        if options.shard not in views:
            raise Refused(f"task {record.task} has no shard {options.shard!r}")
        if views[options.shard].holder is None:
            raise Refused(
                f"no node holds shard {options.shard} of {record.task}: start the task, or use "
                "redis-canal dead-letters on the machine that has its journal"
            )
        more: dict[str, Any] = {"action": options.action, "ids": options.ids}
        queue = JobQueue(coordinator.store)
        return queue.put("letters", record.task, shard=options.shard, by=by(request), timeout_s=LETTERS_S, **more)

    job = await sites.call(do)
    return document({"task": record.task, "job": job.id}, 202)
