"""The paths of the API: one table, from which both the router and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from console.web import operate, reads, writes

Handler = Callable[[Request], Awaitable[Response]]
PREFIX: Final = "/api/v1"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``body``: name of the schema of what is sent; ``query``: further parameters."""

    method: str
    path: str
    handler: Handler
    summary: str
    status: int = 200
    body: str = ""
    public: bool = False
    stream: bool = False
    datacenter: bool = False  # takes ?datacenter=


def _task(method: str, path: str, handler: Handler, summary: str, status: int = 200, body: str = "") -> Operation:
    return Operation(method, f"/tasks/{{task}}{path}", handler, summary, status, body, datacenter=True)


OPERATIONS: Final = (
    Operation("GET", "/health", reads.health, "Whether the console answers", public=True),
    Operation("GET", "/session", reads.session, "Who is logged in", public=True),
    Operation("POST", "/session", writes.login, "Log in with a token", body="Login", public=True),
    Operation("DELETE", "/session", writes.logout, "Log out", public=True),
    Operation("GET", "/overview", reads.overview, "Datacenters, tasks and nodes at once"),
    Operation("GET", "/datacenters", reads.datacenters, "All datacenters"),
    Operation("GET", "/tasks", reads.tasks, "All tasks with state, lag and throughput"),
    Operation("POST", "/tasks", writes.create, "Create a task", 201, "NewTask"),
    Operation("POST", "/tasks/preview", writes.preview, "Check a task without creating it", 200, "NewTask"),
    _task("GET", "", reads.task, "A task: shards, positions, specification, events, jobs"),
    _task("PUT", "", writes.update, "Replace a task's specification", 202, "NewTask"),
    _task("DELETE", "", writes.delete, "Stop and forget a task", 202),
    _task("GET", "/status", reads.task_status, "State of a task and its shards"),
    _task("GET", "/history", reads.history, "Lag and throughput of the last hour, as columns"),
    _task("GET", "/logs", reads.logs, "Newest log lines of a task's workers"),
    _task("GET", "/dead-letters", reads.dead_letters, "Newest commands that the target did not take"),
    _task("GET", "/conflicts", reads.conflicts, "Newest keys that several datacenters wrote at once"),
    _task("POST", "/dead-letters", operate.letters, "Acknowledge, fetch or send again dead letters", 202, "Letters"),
    _task("POST", "/promote", operate.promote, "Drain, prove both sides equal, stop", 202, "Turn"),
    _task("POST", "/reverse", operate.reverse, "Promote, then replicate the other way", 202, "Turn"),
    _task("PUT", "/throttle", operate.throttle, "Change the limits of replay", 202, "Throttle"),
    _task("POST", "/resync", writes.resync, "Ask for a new snapshot", 202),
    _task("POST", "/verify", writes.verify, "Ask for a comparison of both sides, or for a repair", 202, "Comparison"),
    _task("GET", "/jobs", reads.jobs, "Newest jobs of a task: resyncs, comparisons, repairs"),
    _task("DELETE", "/jobs/{job}", writes.cancel_job, "Cancel a job", 202),
    _task("PUT", "/{verb}", writes.change, "start, stop, pause or resume a task", 202),
    Operation("GET", "/nodes", reads.nodes, "All nodes with their shards"),
    Operation("PUT", "/nodes/{node}/drain", writes.drain, "Have a node give up its shards", 202, datacenter=True),
    Operation("DELETE", "/nodes/{node}/drain", writes.drain, "Let a node take shards again", 202, datacenter=True),
    Operation("POST", "/connections/test", writes.test_connection, "Try to reach a server", 200, "Side"),
    Operation("GET", "/events", reads.events, "Live changes, as server-sent events", stream=True),
)
