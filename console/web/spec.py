"""Task specifications as people send them: YAML or JSON in, checked by the models of the command line, YAML out."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from canal.errors import CanalError
from console.web.answers import ApiError
from console.web.sites import Sites
from node.config.loader import ConfigProblems, explain, parse
from node.config.models import TaskSpec
from node.spec import write_spec

Json = dict[str, Any]


def read_task(body: Json) -> TaskSpec:
    """The specification under ``spec`` (an object) or ``yaml`` (a text).

    Raises `ApiError` 422 with all that is wrong, each with its path (for YAML: line and column in the message).
    """
    text, spec = body.get("yaml"), body.get("spec")
    if (text is None) == (spec is None):
        raise ApiError(422, "invalid", "give either spec (an object) or yaml (a text)", problems=[])
    try:
        if text is not None:
            if not isinstance(text, str):
                raise ApiError(422, "invalid", "yaml is not a text", problems=[])
            return parse(TaskSpec, text, "task.yaml", {})
        return TaskSpec.model_validate(spec)
    except ConfigProblems as error:
        raise _invalid([{"path": "", "message": line} for line in error.problems]) from None
    except ValidationError as error:
        raise _invalid([{"path": path, "message": said} for path, said in explain(error, TaskSpec)]) from None
    except RecursionError:
        raise ApiError(422, "invalid", "this is nested too deeply", problems=[]) from None


def _invalid(problems: list[dict[str, str]]) -> ApiError:
    count = len(problems)
    return ApiError(422, "invalid", f"{count} {'thing is' if count == 1 else 'things are'} wrong", problems=problems)


def to_yaml(spec: TaskSpec | Json) -> str:
    """A specification as task.yaml would have it: only what differs from the defaults."""
    value = write_spec(spec) if isinstance(spec, TaskSpec) else spec
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)


def warnings(spec: TaskSpec, sites: Sites) -> list[str]:
    """What a person should know before the task is created; nothing of it forbids it."""
    found = []
    known = sites.config.datacenters
    if spec.target.datacenter not in known:
        found.append(
            f"the target's datacenter {spec.target.datacenter} is not in console.yaml: it cannot be looked at here"
        )
    try:
        site, _ = sites.home_of(spec.source.datacenter)
        if site.place.facts is not None and not site.place.facts.nodes:
            found.append(f"no node is alive at {spec.source.datacenter}: the task waits for one")
    except CanalError as error:
        found.append(str(error))
    if spec.two_way is None and spec.snapshot.stale_keys is None:
        found.append("snapshot.stale_keys is not given: the task stops at a target that already holds data")
    if spec.two_way is not None and spec.two_way.peer not in {task["task"] for task in sites.tasks.values()}:
        found.append(f"the task of the other direction, {spec.two_way.peer}, does not exist yet")
    return found
