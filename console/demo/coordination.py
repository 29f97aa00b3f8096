"""Where the demonstration's two datacenters keep their tasks: a SQLite file each, or a tree each in a ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from canal.errors import CanalError
from node.config.models import Coordination
from node.connect import open_coordinator
from node.coordination.coordinator import Coordinator

CHROOT: Final = "/redis-canal-demo"
LEASE_S: Final = 10.0


class Places:
    """The coordinators of one run. ``zookeeper``: hosts of an ensemble, where each run has a tree of its own."""

    def __init__(self, directory: Path, zookeeper: str | None) -> None:
        self._directory, self._hosts = directory, zookeeper
        self._run = secrets.token_hex(4)

    def section(self, datacenter: str) -> dict[str, Any]:
        """The ``coordination:`` section of a configuration file."""
        if self._hosts is None:
            return {"embedded": {"path": str(self._directory / f"{datacenter}.db")}}
        return {"zookeeper": {"hosts": self._hosts, "chroot": f"{CHROOT}/{self._run}/{datacenter}"}}

    def open(self, datacenter: str) -> Coordinator:
        """Raises `Unreachable` when its servers do not answer; blocking."""
        made = open_coordinator(Coordination.model_validate(self.section(datacenter)), {}, LEASE_S)
        try:
            made.store.start()
        except BaseException:
            made.store.close()
            raise
        return made

    async def check(self) -> None:
        """Raises CanalError before anything is started when the ensemble cannot be used."""
        if self._hosts is not None:
            await asyncio.to_thread(self._in_ensemble, lambda _: None)

    async def forget(self) -> None:
        """Remove what this run has left in the ensemble; the files of the other kind go with their directory."""
        if self._hosts is not None:
            with contextlib.suppress(CanalError):
                await asyncio.to_thread(self._in_ensemble, lambda coordinator: coordinator.store.remove_tree(self._run))

    def _in_ensemble(self, do: Callable[[Coordinator], None]) -> None:
        section = {"zookeeper": {"hosts": self._hosts, "chroot": CHROOT}}
        with open_coordinator(Coordination.model_validate(section), {}, LEASE_S) as coordinator:
            do(coordinator)

    @contextlib.contextmanager
    def all(self, datacenters: tuple[str, ...]) -> Iterator[list[Coordinator]]:
        """The coordinators of ``datacenters``, closed with the block."""
        with contextlib.ExitStack() as stack:
            found = []
            for name in datacenters:
                found.append(self.open(name))
                stack.callback(found[-1].store.close)
            yield found
