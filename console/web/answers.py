"""Answers of the API: documents, and errors as ``{"error": {"code", "message"}}``."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from canal.errors import AuthError, CanalError, ConfigError, PeerError, Refused, StateError
from node.config.loader import ConfigProblems
from node.coordination.base import Conflict
from node.coordination.tasks import NotFound
from node.jobs import JobOver

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error. ``problems``: all that is wrong with what was sent, each with its path."""

    def __init__(
        self, status: int, code: str, message: str, *, problems: list[dict[str, str]] | None = None, wait_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.problems, self.wait_s = problems, wait_s


def document(value: Any, status: int = 200) -> Response:
    """A JSON document."""
    body = json.dumps(value, allow_nan=False, default=str).encode()
    return Response(body, status, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """The answer that an `ApiError` stands for."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.problems is not None:
        body["problems"] = error.problems
    answer = document({"error": body}, error.status)
    if error.wait_s:
        answer.headers["Retry-After"] = str(error.wait_s)
    return answer


def as_api_error(error: CanalError) -> ApiError:
    """What one of our errors means to whoever asked."""
    text = str(error)
    if isinstance(error, NotFound):
        return ApiError(404, "not_found", text)
    if isinstance(error, ConfigProblems):
        return ApiError(422, "invalid", text, problems=[{"path": "", "message": line} for line in error.problems])
    if isinstance(error, ConfigError):
        return ApiError(422, "invalid", text)
    if isinstance(error, Refused | JobOver | Conflict):
        return ApiError(409, "refused", text)
    if isinstance(error, AuthError):
        return ApiError(502, "not_permitted", text)
    if isinstance(error, PeerError | StateError):
        return ApiError(503, "unreachable", text)
    return ApiError(500, "failed", text)


async def on_api_error(_request: Request, error: Exception) -> Response:
    """Exception handler of `ApiError`."""
    assert isinstance(error, ApiError)
    return error_response(error)


async def on_canal_error(_request: Request, error: Exception) -> Response:
    """Exception handler of `CanalError`."""
    assert isinstance(error, CanalError)
    return error_response(as_api_error(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Exception handler of what the framework raises: no such path, no such method."""
    status = int(getattr(error, "status_code", 500))
    words = {404: ("not_found", f"there is no {request.url.path}"), 405: ("method", "this path knows other methods")}
    code, text = words.get(status, ("failed", str(getattr(error, "detail", "the request failed"))))
    answer = error_response(ApiError(status, code, text))
    for name, value in (getattr(error, "headers", None) or {}).items():
        answer.headers[name] = value
    return answer


async def on_fault(request: Request, error: Exception) -> Response:
    """Exception handler of everything else: a fault of this program."""
    log.error("%s %s: a fault of this program", request.method, request.url.path, exc_info=error)
    return error_response(ApiError(500, "fault", "a fault of the console; its log says more"))
