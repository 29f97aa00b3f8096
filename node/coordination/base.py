"""What a coordinator must offer: a small tree of versioned records with sessions. The contract of both stores.

Everything that nodes agree on (registrations, leases, task states, jobs) is written once, in `coordinator.py` and
`jobs.py`, over this interface; `zookeeper.py` and `embedded.py` only provide it, and one test suite runs over both.

Words. A *record* has a path (``tasks/t/shards/0/lease``), bytes, and a version that starts at 0 and grows by one with
every write. An *ephemeral* record belongs to the session that created it and vanishes with it: at `close`, or when the
session has not been heard of for its time-out (the process died, was stopped, or lost its connection).

Threads. All methods block for a short time and may be called from any thread; an asyncio program calls them through
an executor. Listeners are called from a thread of the store, must return at once and may not call the store (an asyncio
program gives ``loop.call_soon_threadsafe``). An event says that something may be different, never what: the listener's
owner reads again. So a missed or doubled event does no harm.

Errors: `Conflict` when a write's condition does not hold, `Unreachable` when the coordinator cannot be reached within
``deadline_s`` (it is unknown then whether a write took place), `AuthError` when it refuses the credentials,
`SessionLost` when an ephemeral record was to be made in a session that has ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from canal.errors import CanalError, Unreachable

DEADLINE_S = 5.0
"""How long one call waits for a coordinator that does not answer."""


class Event(Enum):
    """What a store tells its listeners."""

    CHANGED = "changed"  # a watched record may have changed
    CONNECTED = "connected"  # the session is alive (again)
    SUSPENDED = "suspended"  # no connection: what runs goes on, nothing new is taken
    LOST = "lost"  # the session has ended, and every ephemeral record with it


Connection = Literal["connected", "suspended", "lost", "closed"]
Listener = Callable[[Event], None]


class Conflict(CanalError):
    """A write whose condition does not hold; nothing of its transaction was written.

    ``reason``: ``exists`` (to be created, is there), ``missing`` (to be written or removed, is not there) or
    ``changed`` (has another version than expected).
    """

    def __init__(self, path: str, reason: Literal["exists", "missing", "changed"]) -> None:
        super().__init__(f"coordination record {path}: {reason}")
        self.path = path
        self.reason = reason


class SessionLost(Unreachable):
    """This process's session has ended: its registrations and leases are gone and must be made again."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read. ``mine``: it is ephemeral and belongs to this session."""

    data: bytes
    version: int
    ephemeral: bool = False
    mine: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Create ``path``, and its parents where missing."""

    path: str
    data: bytes
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Replace the bytes of ``path``; its version must be ``version`` (None: any). ``quiet``: tell no watcher."""

    path: str
    data: bytes
    version: int | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove ``path``, which must have no children; its version must be ``version`` (None: any)."""

    path: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Write nothing, but demand that ``path`` has ``version``."""

    path: str
    version: int


Op = Create | Write | Remove | Check


class Store(ABC):
    """A tree of versioned records. See the module text for threads and errors."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at every event from now on; returns a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the coordinator is, fit for a message: hosts and chroot, or a file name."""

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """The state of the session now."""

    @property
    @abstractmethod
    def session_timeout_s(self) -> float:
        """After how long without a sign of life a session ends, as the coordinator has granted it."""

    @abstractmethod
    def start(self) -> None:
        """Connect. Raises `Unreachable`, `AuthError` or `StateError`; may be called again after `SessionLost`."""

    @abstractmethod
    def close(self) -> None:
        """End the session at once, ephemeral records included; never raises."""

    @abstractmethod
    def get(self, path: str, *, watch: bool = False) -> Record | None:
        """Read one record, None when there is none. ``watch``: tell the listeners when it changes, comes or goes."""

    @abstractmethod
    def children(self, path: str, *, watch: bool = False) -> list[str]:
        """Names right below ``path``, sorted; empty when there is no such record. ``watch`` as in `get`."""

    @abstractmethod
    def commit(self, *ops: Op) -> list[int]:
        """Do all of ``ops`` or none; returns the version of each record after it (of a removed one: -1)."""

    def remove_tree(self, path: str) -> None:
        """Remove ``path`` and everything below it; no error when there is nothing."""
        for name in self.children(path):
            self.remove_tree(f"{path}/{name}")
        try:
            self.commit(Remove(path))
        except Conflict as conflict:
            if conflict.reason != "missing":
                raise
