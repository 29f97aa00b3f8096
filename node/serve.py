"""What a node tells about itself over HTTP: metrics and status of its shards, its log lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.config.secrets import serving
from node.conflicts import conflict_documents
from node.coordination.plan import ShardId
from node.http import HttpServer, Response, Route, document, standard_routes
from node.letters import letter_documents
from node.metrics import NodeFigures
from node.spec import shard_dir
from node.usage import usage
from sync.status import LinkStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from node.daemon import Daemon
    from node.shard import Shard


Held = list[tuple[ShardId, Path]]


def _without_worker(shard: Shard) -> LinkStatus:
    spec = shard.record.spec
    source, target = (str(spec.get(side, {}).get("datacenter", "")) for side in ("source", "target"))
    status = LinkStatus(shard.id.task, shard.id.shard, source, target, paused=shard.record.desired == "paused")
    if shard.failed:
        status.state, status.last_error = "failed", shard.failed
    return status


class NodeHttp:
    """The HTTP server of a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        host, _, port = daemon.config.http.listen.rpartition(":")
        routes = standard_routes(
            self._statuses, self._document, self._not_ready, version=daemon.version, node=self._figures
        )
        self._server = HttpServer(
            host.strip("[]"), int(port), {**routes, **self._more()}, serving(daemon.config.http.tls)
        )

    def _more(self) -> dict[str, Route]:
        return {
            "/logs": lambda: document(self._logs()),
            "/dead-letters": partial(self._files, letter_documents),
            "/conflicts": partial(self._files, conflict_documents),
        }

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be had."""
        await self._server.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    def _statuses(self) -> Iterable[LinkStatus]:
        """Of every shard that is held; one whose worker could not start has nothing but its state."""
        return [shard.status or _without_worker(shard) for shard in self._daemon.shards.values()]

    def _figures(self) -> NodeFigures:
        daemon = self._daemon
        facts = daemon.facts
        held = {} if facts is None else facts.holders
        return NodeFigures(
            node=daemon.config.node,
            datacenter=daemon.config.datacenter,
            coordinated=daemon.coordinator.store.connection == "connected",
            shards=len(daemon.shards),
            failed=sum(1 for shard in daemon.shards.values() if shard.failed),
            max_shards=daemon.config.max_shards,
            unassigned=0 if facts is None else sum(1 for shard in facts.wanted if held.get(shard) is None),
        )

    def _not_ready(self) -> str | None:
        """A node is ready when it is registered; a shard that failed is no reason to restart the others."""
        return self._daemon.trouble or None

    def _document(self) -> dict[str, Any]:
        daemon = self._daemon
        facts = daemon.facts
        return {
            "node": daemon.config.node,
            "datacenter": daemon.config.datacenter,
            "version": daemon.version,
            "coordination": {
                "place": daemon.coordinator.store.place,
                "connection": daemon.coordinator.store.connection,
            },
            "trouble": daemon.trouble,
            "usage": None if (used := usage()) is None else asdict(used),
            "draining": facts is not None and daemon.config.node in facts.draining,
            "shards": [self._shard(shard) for shard in daemon.shards.values()],
        }

    def _shard(self, shard: Any) -> dict[str, Any]:
        state = shard.known.state
        live = shard.status.as_dict() if shard.status is not None else {}
        return {
            **live,
            "task": shard.id.task,
            "shard": shard.id.shard,
            "state": state.state,
            "link_state": live.get("state", ""),
            "phase": state.phase,
            "run": state.run,
            "epoch": shard.lease.epoch,
            "restarts": state.restarts,
            "error": shard.failed or state.error,
        }

    def _logs(self) -> list[dict[str, Any]]:
        lines = self._daemon.lines
        return [{"task": s.task, "shard": s.shard, **line} for s, kept in lines.items() for line in kept]

    async def _files(self, read: Callable[[Held], list[dict[str, Any]]]) -> Response:
        """What ``read`` finds in the state directories of the shards held here. In a thread: the files may be long."""
        root = self._daemon.config.state_dir
        held = [(shard.id, shard_dir(root, shard.record.uid, shard.id)) for shard in self._daemon.shards.values()]
        return document(await asyncio.to_thread(read, held))
