"""Puts the console together: the API, the page's files, and what follows the datacenters while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from canal.errors import CanalError
from console.web import openapi
from console.web.answers import ApiError, on_api_error, on_canal_error, on_fault, on_http_error
from console.web.assets import Assets
from console.web.audit import Audit
from console.web.auth import Auth
from console.web.guard import Guard
from console.web.page import page
from console.web.routes import OPERATIONS, PREFIX
from console.web.sites import Sites
from console.web.state import State
from node.config.models import ConsoleConfig

STATIC: Final = Path(__file__).parent / "static"


def make_app(config: ConsoleConfig, *, version: str = "") -> Starlette:
    """The ASGI application. Raises ConfigError when the audit log cannot be written."""
    state = State(Sites(config), Auth(config.tokens), Audit(config.audit_log), version)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(state.sites.run())
        try:
            yield
        finally:
            for work in (*state.background, following):
                work.cancel()
            await asyncio.gather(*state.background, following, return_exceptions=True)

    handlers: dict[Any, Any] = {
        ApiError: on_api_error,
        CanalError: on_canal_error,
        HTTPException: on_http_error,
        Exception: on_fault,
    }
    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Guard, auth=state.auth)],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.state.console = state
    return app


def _routes() -> Sequence[BaseRoute]:
    assets = Assets(STATIC)

    async def index(request: Request) -> Response:
        return await page(request, assets)

    found: list[BaseRoute] = [
        Route(f"{PREFIX}{item.path}", item.handler, methods=[item.method], name=f"{item.method} {item.path}")
        for item in OPERATIONS
    ]
    found.append(Route(f"{PREFIX}/openapi.json", openapi.serve, methods=["GET"]))
    found.append(Route("/", index, methods=["GET"]))
    found.append(Mount("/static", assets, name="static"))
    return found
