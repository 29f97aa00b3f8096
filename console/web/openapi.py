"""The OpenAPI document, made from the table of routes and the models that check task specifications."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from console.web.answers import document
from console.web.operate import LettersOptions, TurnOptions
from console.web.routes import OPERATIONS, PREFIX, Operation
from console.web.state import of
from console.web.writes import VERBS
from node.config.models import TaskSpec, ThrottleConfig

Json = dict[str, Any]
_ERRORS = {
    400: "not JSON",
    401: "not logged in",
    403: "read-only, or the CSRF token is missing",
    404: "no such task, node or datacenter",
    409: "refused: the message says why",
    413: "body too large",
    415: "not JSON",
    421: "asked under another host name",
    422: "invalid: problems lists all that is wrong",
    429: "too many wrong tokens",
    502: "a server refused the credentials",
    503: "coordinator not reachable",
}


async def serve(request: Request) -> Response:
    """The document itself; it needs no session."""
    return document(openapi(of(request).version))


@cache
def openapi(version: str) -> Json:
    """The document for this version of the program."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(f"{PREFIX}{operation.path}", {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "redis-canal console",
            "version": version or "0",
            "description": "Changes are asked for and answered with 202; nodes make them. Ask for the state to see it.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "redis_canal_session"},
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _operation(operation: Operation) -> Json:
    kind = "text/event-stream" if operation.stream else "application/json"
    schema: Json = {"type": "string"} if operation.stream else {"type": "object"}
    found: Json = {
        "summary": operation.summary,
        "operationId": _name(operation),
        "parameters": _parameters(operation),
        "responses": {
            str(operation.status): {"description": "done", "content": {kind: {"schema": schema}}},
            **{str(status): _error(text) for status, text in _ERRORS.items()},
        },
    }
    if operation.body:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{operation.body}"}}}
        found["requestBody"] = {"required": True, "content": content}
    if operation.public:
        found["security"] = []
    return found


def _name(operation: Operation) -> str:
    words = re.sub(r"[^a-z]+", "_", operation.path.lower()).strip("_")
    return f"{operation.method.lower()}_{words}"


def _parameters(operation: Operation) -> list[Json]:
    found: list[Json] = []
    for name in re.findall(r"{(\w+)}", operation.path):
        schema: Json = {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}
        if name == "verb":
            schema = {"type": "string", "enum": list(VERBS)}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if operation.datacenter:
        text = "where several datacenters have one of that name"
        found.append({"name": "datacenter", "in": "query", "description": text, "schema": {"type": "string"}})
    return found


def _error(text: str) -> Json:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _schemas() -> Json:
    spec = TaskSpec.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = spec.pop("$defs", {})
    problem = {"type": "object", "properties": {"path": {"type": "string"}, "message": {"type": "string"}}}
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "problems": {"type": "array", "items": problem},
        },
    }
    new_task = {
        "type": "object",
        "description": "a specification as spec (an object) or yaml (a text), one of the two",
        "properties": {
            "spec": {"$ref": "#/components/schemas/TaskSpec"},
            "yaml": {"type": "string"},
            "start": {"type": "boolean", "description": "of a new task: run it at once"},
            "version": {"type": "integer", "description": "of a change: refuse it unless the task has this version"},
        },
    }
    comparison = {
        "type": "object",
        "properties": {
            "repair": {"type": "boolean", "description": "give both sides the same afterwards, while writes go on"},
            "pattern": {"type": "string", "description": "glob: only keys that match"},
            "sample": {"type": "integer", "minimum": 1, "description": "only so many keys, chosen at random"},
            "rounds": {"type": "integer", "minimum": 1},
            "pause_s": {"type": "number", "minimum": 0},
            "rate": {"type": "number", "minimum": 0, "description": "keys a second at most; 0: no limit"},
            "means": {"type": "string", "enum": ["auto", "echo", "fetch", "write"]},
        },
    }
    return {
        "Comparison": comparison,
        "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
        "Login": {"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}},
        "NewTask": new_task,
        "Side": {
            "type": "object",
            "required": ["url"],
            "properties": {"url": {"type": "string"}, "credentials": {"type": ["string", "null"]}},
        },
        "TaskSpec": spec,
        "Turn": TurnOptions.model_json_schema(),
        "Letters": LettersOptions.model_json_schema(),
        "Throttle": ThrottleConfig.model_json_schema(),
        **inner,
    }
