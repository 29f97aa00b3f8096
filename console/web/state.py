"""What every handler of one console shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.requests import Request

from console.web.audit import Audit
from console.web.auth import Auth, Tries
from console.web.sites import Sites
from console.web.turns import Turns


@dataclass(slots=True)
class State:
    """One running console."""

    sites: Sites
    auth: Auth
    audit: Audit
    version: str = ""
    tries: Tries = field(default_factory=Tries)
    turns: Turns = field(default_factory=Turns)
    background: set[asyncio.Task[Any]] = field(default_factory=set)


def of(request: Request) -> State:
    """The console that a request came to."""
    return cast(State, request.app.state.console)


def address_of(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client is not None else ""
