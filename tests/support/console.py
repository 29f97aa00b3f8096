"""The console in a test's own event loop, over a coordinator file: no sockets, no browser.

async with console(tmp_path) as web:
    answer = await web.get("/api/v1/tasks")
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from console.web.app import make_app
from console.web.state import State
from node.config.models import ConsoleConfig
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.coordination.records import NodeRecord
from tests.support.process import eventually

ADMIN, READER = "admin-token", "reader-token"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = [
    {"name": "ann", "role": "admin", "sha256": digest(ADMIN)},
    {"name": "rob", "role": "read-only", "sha256": digest(READER)},
]


def console_config(directory: Path, *, tokens: bool = True, **more: Any) -> ConsoleConfig:
    """Two datacenters over one file, as on one machine."""
    coordination = {"embedded": {"path": str(directory / "coordination.db")}}
    return ConsoleConfig.model_validate(
        {
            "datacenters": {"sh": {"coordination": coordination}, "bj": {"coordination": coordination}},
            "tokens": TOKENS if tokens else [],
            "audit_log": str(directory / "audit.log"),
            **more,
        }
    )


def coordinator(directory: Path) -> Coordinator:
    """Another user of the same file, with one node (that answers no HTTP) registered."""
    made = Coordinator(EmbeddedStore(directory / "coordination.db"))
    made.store.start()
    made.nodes.register(NodeRecord("n1", datacenter="sh", host="elsewhere", pid=1, max_shards=4))
    return made


SPEC: dict[str, Any] = {
    "task": "sh-bj",
    "source": {"datacenter": "sh", "url": "redis://127.0.0.1:1"},
    "target": {"datacenter": "bj", "url": "redis://127.0.0.1:2"},
}


class Web(httpx.AsyncClient):
    """A browser's view of the console."""

    state: State
    csrf: str = ""

    async def ready(self) -> None:
        """Wait until every coordinator has been read."""
        sites = self.state.sites.sites
        await eventually(lambda: all(not site.place.trouble for site in sites), 5, "coordinators are read")

    async def login(self, token: str = ADMIN) -> httpx.Response:
        answer = await self.post("/api/v1/session", json={"token": token})
        if answer.status_code == 200:
            self.csrf = answer.json()["csrf"]
            self.headers["X-CSRF-Token"] = self.csrf
        return answer


@asynccontextmanager
async def console(directory: Path, *, login: str | None = ADMIN, **more: Any) -> AsyncIterator[Web]:
    """A running console over ``directory``; logged in unless ``login`` is None."""
    app = make_app(console_config(directory, **more), version="1.2.3")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), Web(transport=transport, base_url="http://127.0.0.1:9480") as web:
        web.state = app.state.console
        if login is not None:
            assert (await web.login(login)).status_code == 200
        yield web
