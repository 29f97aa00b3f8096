"""Both coordinators behind one face: several clients of the same place, and the ways in which a client can fail.

a, b = place.open(), place.open()
place.vanish(a)             # as kill -9: nothing is given back, the session runs out by itself
place.freeze(b)             # as SIGSTOP, or a cut network: silent, but alive
place.thaw(b)
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.coordination.base import Event, Store
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.coordination.records import NodeRecord
from node.coordination.zookeeper import ZooKeeperOptions, ZooKeeperStore
from tests.support.process import PATIENCE_S
from tests.support.proxy import Proxy

TIMEOUT_S = 3.0  # the most that the test servers grant is 4 s; less is too little on a busy machine


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true value of ``condition``; asks again every 10 ms."""
    timeout_s = max(timeout_s, PATIENCE_S)
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


def node_record(name: str, **more: Any) -> NodeRecord:
    return NodeRecord(name, datacenter="sh", host="elsewhere", pid=1, **more)


class Heard:
    """Collects a store's events."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.events: list[Event] = []
        coordinator.store.subscribe(self.events.append)

    def wait(self, event: Event, timeout_s: float = 20.0) -> None:
        wait_for(lambda: event in self.events, f"{event} is told", timeout_s)


class Place(ABC):
    """One coordinator (a file, or a chroot of a server) that any number of clients open."""

    def __init__(self) -> None:
        self._opened: list[Store] = []

    def store(self) -> Store:
        """A client that is not started yet; closed with the test."""
        store = self._make()
        self._opened.append(store)
        return store

    def open(self) -> Coordinator:
        store = self.store()
        store.start()
        return Coordinator(store)

    def close(self) -> None:
        for store in self._opened:
            store.close()

    @abstractmethod
    def _make(self) -> Store: ...

    @abstractmethod
    def vanish(self, coordinator: Coordinator) -> None: ...

    @abstractmethod
    def freeze(self, coordinator: Coordinator) -> None: ...

    @abstractmethod
    def thaw(self, coordinator: Coordinator) -> None: ...


class EmbeddedPlace(Place):
    """A SQLite file."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "coordination.db"
        self._frozen: dict[int, tuple[threading.Event, threading.Thread]] = {}

    def _make(self) -> Store:
        return EmbeddedStore(self.path, timeout_s=TIMEOUT_S)

    def vanish(self, coordinator: Coordinator) -> None:
        store = coordinator.store
        assert isinstance(store, EmbeddedStore)
        store._halt()
        store._disconnect()
        self._opened.remove(store)

    def freeze(self, coordinator: Coordinator) -> None:
        """Hold the store's lock in another thread: none of its threads gets anything done, as in a stopped process."""
        store, thaw, held = coordinator.store, threading.Event(), threading.Event()
        assert isinstance(store, EmbeddedStore)

        def hold() -> None:
            with store._lock:
                held.set()
                thaw.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        self._frozen[id(coordinator)] = (thaw, thread)

    def thaw(self, coordinator: Coordinator) -> None:
        thaw, thread = self._frozen.pop(id(coordinator))
        thaw.set()
        thread.join()

    def close(self) -> None:
        for thaw, thread in self._frozen.values():
            thaw.set()
            thread.join()
        super().close()


class ZooKeeperPlace(Place):
    """A chroot of a ZooKeeper server; every client has a proxy of its own that can be cut."""

    def __init__(self, address: tuple[str, int], chroot: str) -> None:
        super().__init__()
        self._address, self._chroot = address, chroot
        self._proxies: dict[int, Proxy] = {}

    def _make(self) -> Store:
        proxy = Proxy(self._address).__enter__()
        store = ZooKeeperStore(ZooKeeperOptions(f"127.0.0.1:{proxy.port}", chroot=self._chroot, timeout_s=TIMEOUT_S))
        self._proxies[id(store)] = proxy
        return store

    def proxy(self, coordinator: Coordinator) -> Proxy:
        return self._proxies[id(coordinator.store)]

    def vanish(self, coordinator: Coordinator) -> None:
        self.freeze(coordinator)

    def freeze(self, coordinator: Coordinator) -> None:
        self.proxy(coordinator).refuse()
        self.proxy(coordinator).cut()

    def thaw(self, coordinator: Coordinator) -> None:
        self.proxy(coordinator).accept()

    def close(self) -> None:
        super().close()
        for proxy in self._proxies.values():
            proxy.__exit__(None, None, None)
