"""A link from a whole source cluster: one `Link` for each of its shards, as many as it has at any time.

A master that joins gets a link of its own. One that leaves the cluster ends its link after everything that came of it
is applied and its slots are free for others. Failovers and slots that move concern the links themselves
(`canal.cluster`, `sync.slots`). Which shards there are, and which nodes belong to them, stands in ``cluster.json`` of
the state directory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from canal import formats
from canal.cluster.registry import Registry
from canal.cluster.shards import shard_endpoint, view_of
from canal.errors import CanalError, ConfigError, StateError
from canal.journal.lock import StateLock
from sync.config import LinkConfig
from sync.link import Link
from sync.linkstate import LinkState
from sync.status import LinkStatus
from sync.throttle import ThrottleOptions

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_GONE_LOOKS: Final = 5
_NAME: Final = "cluster.json"


def of_cluster(config: LinkConfig) -> bool:
    """True when the source is a whole cluster, so that it takes a `ClusterLink`."""
    return config.source.group is not None and config.source.group.kind == "cluster"


class ClusterLink:
    """As `sync.link.Link`, for all shards. ``status`` sums up; ``statuses`` are the shards' own."""

    def __init__(self, config: LinkConfig, status: LinkStatus | None = None) -> None:
        self.config = config
        self.status = status or LinkStatus(config.task, "all", config.source_dc, config.target_dc)
        self.links: dict[str, Link] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._registry = Registry()
        self._stop_s: float | None = None
        self._paused = False
        self._throttle = config.throttle
        self._wake = asyncio.Event()

    @property
    def statuses(self) -> tuple[LinkStatus, ...]:
        """Those of the shards, by name."""
        return tuple(link.status for _, link in sorted(self.links.items()))

    # --- outside ---

    async def run(self) -> None:
        """Keep the target in step with all shards. Raises the first `CanalError` of any; returns after `stop`."""
        status = self.status
        self.config.state_dir.mkdir(parents=True, exist_ok=True)
        lock = StateLock(self.config.state_dir)
        try:
            lock.acquire()
            await self._run()
            status.state = "stopped"
        except CanalError as error:
            status.failed(error)
            status.state, status.detail = "failed", str(error)
            raise
        finally:
            lock.release()

    def stop(self, deadline_s: float = 10.0) -> None:
        """As `Link.stop`."""
        self._stop_s = deadline_s
        for link in self.links.values():
            link.stop(deadline_s)
        self._wake.set()

    def pause(self) -> None:
        """As `Link.pause`."""
        self._paused = self.status.paused = True
        for link in self.links.values():
            link.pause()

    def resume(self) -> None:
        """As `Link.resume`."""
        self._paused = self.status.paused = False
        for link in self.links.values():
            link.resume()

    def throttle(self, options: ThrottleOptions) -> None:
        """As `Link.throttle`; the limits are each shard's."""
        self._throttle = options
        for link in self.links.values():
            link.throttle(options)

    # --- inside ---

    async def _run(self) -> None:
        state = LinkState.load(self.config.state_dir)
        state.uid = self.config.uid or state.uid
        state.save(self.config.state_dir)
        self._registry = _load(self.config.state_dir)
        summing = asyncio.create_task(self._sum_up(), name="sum")
        looking = asyncio.create_task(self._follow(state), name="cluster")
        try:
            while self._stop_s is None or self._running:
                self._wake.clear()
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({looking, waking, *self._running.values()}, return_when="FIRST_COMPLETED")
                waking.cancel()
                if looking.done():
                    looking.result()
                self._look_at_ends()
        finally:
            for task in (summing, looking, *self._running.values()):
                task.cancel()
            await asyncio.gather(summing, looking, *self._running.values(), return_exceptions=True)
            self._sum()

    def _look_at_ends(self) -> None:
        """Links that have ended: with an error, which ends all; after `stop`; or because their shard is no more."""
        for name, task in list(self._running.items()):
            if not task.done():
                continue
            del self._running[name]
            task.result()
            if self._stop_s is None:
                log.info(
                    "%s: shard %s has left the cluster, and all that came of it is applied", self.config.task, name
                )
                del self.links[name]
                self._registry.drop(name)
                _save(self.config.state_dir, self._registry)

    async def _follow(self, state: LinkState) -> None:
        """Look at the cluster until cancelled. Raises at first contact what a person has to mend."""
        nodes: set[tuple[str, int]] = set()
        trouble = ""
        while True:
            try:
                view = await view_of(self.config.source, nodes)
                trouble = ""
            except CanalError as error:
                if not state.worked and not self.links:
                    raise
                if str(error) != trouble:
                    log.warning("the cluster cannot be looked at: %s", error)
                trouble = str(error)
                self._begin_all(state)
                await asyncio.sleep(_LOOK_S)
                continue
            nodes = {(one.host, one.port) for shard in view.topology.shards for one in shard.members}
            if view.ok or not self._registry.shards:
                if self._registry.look(view.topology):
                    _save(self.config.state_dir, self._registry)
                if not self._registry.shards:
                    raise ConfigError(f"{self.config.source.label}: this cluster has no masters yet; create it first")
                self._begin_all(state)
                self._retire_gone()
                if not state.worked and any(link.status.state == "streaming" for link in self.links.values()):
                    state.worked = True
                    state.save(self.config.state_dir)
            await asyncio.sleep(_LOOK_S)

    def _begin_all(self, state: LinkState) -> None:
        """A link for every shard that has none."""
        if self._stop_s is not None:
            return
        for name, record in self._registry.shards.items():
            if name in self.links:
                continue
            config = replace(
                self.config,
                source=shard_endpoint(self.config.source, name, record.members),
                shard=name,
                state_dir=self.config.state_dir / name,
                uid=state.uid,
                throttle=self._throttle,
            )
            config.state_dir.mkdir(parents=True, exist_ok=True)
            link = self.links[name] = Link(config)
            if self._paused:
                link.pause()
            log.info("%s: following shard %s of the cluster", self.config.task, name)
            self._running[name] = asyncio.create_task(link.run(), name=f"shard {name}")
            self._wake.set()

    def _retire_gone(self) -> None:
        for name in self._registry.gone(_GONE_LOOKS):
            link = self.links.get(name)
            if link is not None:
                link.retire()

    # --- status ---

    async def _sum_up(self) -> None:
        while True:
            self._sum()
            await asyncio.sleep(0.1)

    def _sum(self) -> None:
        """The figures of all shards in one: counters added, the worst state and lag."""
        parts, whole = self.statuses, self.status
        if not parts:
            return
        for name in _ADDED:
            setattr(whole, name, sum(getattr(part, name) for part in parts))
        for name in ("commands_filtered", "full_resync_reasons"):
            summed: dict[str, int] = {}
            for part in parts:
                for reason, count in getattr(part, name).items():
                    summed[reason] = summed.get(reason, 0) + count
            setattr(whole, name, summed)
        whole.latency_buckets = [sum(counts) for counts in zip(*(part.latency_buckets for part in parts), strict=True)]
        for name in ("keys_done", "bytes_done", "bytes_received", "bytes_total", "keys_total", "stale_deleted"):
            setattr(whole.snapshot, name, sum(getattr(part.snapshot, name) for part in parts))
        whole.snapshot.started = min((part.snapshot.started for part in parts if part.snapshot.started), default=0.0)
        finished = [part.snapshot.finished for part in parts]
        whole.snapshot.finished = max(finished) if all(finished) else 0.0
        if whole.state not in ("failed", "stopped"):
            order = ("failed", "connecting", "snapshot", "streaming", "stopped")
            whole.state = min((part.state for part in parts), key=order.index)
        whole.source_connected = all(part.source_connected for part in parts)
        whole.target_connected = all(part.target_connected for part in parts)
        whole.applied_received_ms = min(part.applied_received_ms for part in parts)
        whole.received_ms = max(part.received_ms for part in parts)
        whole.last_applied = max(part.last_applied for part in parts)
        whole.last_heard = min(part.last_heard for part in parts)
        whole.epoch = max(part.epoch for part in parts)
        whole.writer = parts[0].writer
        whole.detail = next((f"{part.shard}: {part.detail}" for part in parts if part.detail), "")
        whole.last_error = next((part.last_error for part in parts if part.last_error), whole.last_error)
        whole.journal_full = next((part.journal_full for part in parts if part.journal_full), None)
        whole.slots = f"{len(parts)} shards"
        whole.home, whole.homes_fingerprint = parts[0].home, parts[0].homes_fingerprint
        whole.echoes_suspended = next((part.echoes_suspended for part in parts if part.echoes_suspended), "")
        whole.reunion = next((part.reunion for part in parts if part.reunion), "")


_ADDED: Final = tuple(
    one.name
    for one in fields(LinkStatus)
    if one.type in ("int", "float")
    and one.name
    not in {
        *("epoch", "received_ms", "applied_received_ms", "last_applied", "last_heard", "started", "backlog_at"),
        "journal_start",
    }
)


def _load(directory: Path) -> Registry:
    path = directory / _NAME
    try:
        found = json.loads(path.read_text())
        formats.check(str(path), int(found["format"]))
        return Registry.of({str(name): frozenset(map(str, ids)) for name, ids in found["shards"].items()})
    except FileNotFoundError:
        return Registry()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StateError(f"{path} cannot be read: {error}. Restore it, or start with a new --state-dir") from None


def _save(directory: Path, registry: Registry) -> None:
    fresh = directory / f"{_NAME}.new"
    value = {
        "format": formats.written(),
        "shards": {name: sorted(one.members) for name, one in registry.shards.items()},
    }
    try:
        with fresh.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(directory / _NAME)
    except OSError as error:
        raise StateError(f"{directory / _NAME} cannot be written: {error.strerror or error}") from None
