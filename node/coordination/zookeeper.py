"""The coordinator of a datacenter: a ZooKeeper ensemble. The only module that knows kazoo.

Reading. What is read with ``watch=True`` is kept until ZooKeeper says that it changed, so that planning again costs
reads only where something is different. The cache is dropped whenever the connection is.

Writing. A connection that breaks during a write leaves open whether it took place. The write is tried again until
``DEADLINE_S``; if its condition does not hold any more, the records are compared with what was to be written: bytes and
versions tell that the first attempt had succeeded. While there is no connection nothing is sent, because kazoo would
queue it and a lease might be taken long after its taker has given up.

Data loss. Servers that came back with empty data turn a client away that has seen newer transactions, without a word.
So when the session's time-out has passed without a connection, a fresh client is tried beside the old one; if that one
gets in and the old one still does not, the session counts as lost.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import ACL, make_digest_acl

from canal.errors import AuthError, ConfigError, StateError, Unreachable
from node.coordination.base import (
    DEADLINE_S,
    Check,
    Conflict,
    Connection,
    Create,
    Event,
    Op,
    Record,
    Remove,
    SessionLost,
    Store,
    Write,
)

_LOST_CONNECTION = (
    ConnectionLoss,
    ConnectionClosedError,
    OperationTimeoutError,
    KazooTimeoutError,
    RuntimeInconsistency,
)
_PROBE_S = 2.0
_KAZOO_LOG = logging.getLogger("node.coordination.kazoo")
_KAZOO_LOG.addHandler(logging.NullHandler())  # a command without a log says what is wrong once, in its own words


@dataclass(frozen=True, slots=True)
class ZooKeeperOptions:
    """How to reach an ensemble. With ``username`` (digest ACL) all that is made below ``chroot`` is that user's."""

    hosts: str
    chroot: str = "/redis-canal"
    timeout_s: float = 10.0
    username: str = ""
    password: str = ""
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


class ZooKeeperStore(Store):
    """The tree of records below a chroot of an ensemble."""

    def __init__(self, options: ZooKeeperOptions) -> None:
        super().__init__()
        if not options.chroot.startswith("/") or options.chroot.endswith("/"):
            raise ConfigError(f"ZooKeeper chroot {options.chroot!r}: expected '/name', not ending in '/'")
        self._options = options
        self._root = options.chroot
        self._client: KazooClient | None = None
        self._connection: Connection = "closed"
        self._cache: dict[tuple[str, str], Any] = {}
        self._cache_lock = threading.Lock()
        self._state_lock = threading.Lock()  # whose state `_connection` is: of `_client`, or of none
        self._suspended_at: float | None = None
        self._closing = threading.Event()

    @property
    def place(self) -> str:
        return f"zookeeper {self._options.hosts}{self._root}"

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def session_timeout_s(self) -> float:
        granted = getattr(self._client, "_session_timeout", None)
        return granted / 1000.0 if granted else self._options.timeout_s

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._connection == "connected":
            return
        if self._is_connected():
            return  # kazoo has begun a new session by itself after the old one was lost
        for what, name in (("ca", self._options.ca), ("cert", self._options.cert), ("key", self._options.key)):
            if name is not None and not Path(name).exists():
                raise ConfigError(f"{self.place}: the {what} file {name} of its credentials does not exist")
        self._drop_client()
        self._closing = threading.Event()
        self._client = client = self._new_client(self._options.timeout_s)
        client.add_listener(lambda state: self._on_state(client, state))
        try:
            client.start(timeout=DEADLINE_S)
        except KazooTimeoutError:
            self._drop_client()
            raise self._unreachable("no server answered") from None
        except AuthFailedError:
            self._drop_client()
            raise self._denied() from None
        self._is_connected()  # kazoo lets `start` return before it has told its listeners
        try:
            self._make_parents(f"{self._root}/-")
            self.get("nodes")
        except _LOST_CONNECTION:
            self._drop_client()
            raise self._unreachable("the connection broke again at once") from None
        except BaseException:
            self._drop_client()
            raise

    def _new_client(self, timeout_s: float) -> KazooClient:
        o = self._options
        acl: list[ACL] | None = None
        if o.username:
            acl = [make_digest_acl(o.username, o.password, all=True)]
        return KazooClient(
            hosts=o.hosts,
            timeout=timeout_s,
            default_acl=acl,
            auth_data=[("digest", f"{o.username}:{o.password}")] if o.username else None,
            use_ssl=o.tls,
            ca=o.ca,
            certfile=o.cert,
            keyfile=o.key,
            verify_certs=o.verify,
            connection_retry={"max_tries": -1, "delay": 0.1, "backoff": 1.5, "max_delay": 0.5, "max_jitter": 0.1},
            logger=_KAZOO_LOG,
        )

    def _is_connected(self) -> bool:
        with self._state_lock:
            client = self._client
            if client is None or not client.connected:
                return False
            self._connection = "connected"
            return True

    def close(self) -> None:
        self._drop_client()

    def _drop_client(self) -> None:
        self._closing.set()
        with self._state_lock:
            client, self._client = self._client, None
            self._connection = "closed"  # its listener is not heard any more
        self._forget()
        if client is not None:
            with contextlib.suppress(Exception):
                client.stop()
            with contextlib.suppress(Exception):
                client.close()

    def _on_state(self, client: KazooClient, state: str) -> None:
        """kazoo's listener, in its connection thread."""
        with self._state_lock:  # a client that is dropped meanwhile must not leave its state to the next
            if client is not self._client:
                return
            self._forget()
            if state == KazooState.CONNECTED:
                self._suspended_at = None
                self._connection = "connected"
                events = [Event.CONNECTED, Event.CHANGED]
            elif state == KazooState.SUSPENDED:
                self._connection = "suspended"
                self._suspended_at = time.monotonic()
                events = [Event.SUSPENDED]
            elif not self._closing.is_set():
                self._connection = "lost"
                events = [Event.LOST]
            else:
                return
        if events == [Event.SUSPENDED]:
            threading.Thread(target=self._outlive, args=(client, self._closing), name="zk-probe", daemon=True).start()
        for event in events:
            self._tell(event)

    def _outlive(self, client: KazooClient, closing: threading.Event) -> None:
        """While the connection is away: find out whether others get in where this session does not (data was lost)."""
        since = self._suspended_at
        while not closing.wait(_PROBE_S):
            if self._suspended_at is None or self._suspended_at != since or client.connected:
                return
            if time.monotonic() - self._suspended_at < self.session_timeout_s or not self._others_get_in():
                continue
            # our own client may be in the middle of an attempt that the starting servers never answer
            if closing.wait(max(_PROBE_S, self.session_timeout_s)) or client.connected or self._suspended_at != since:
                return
            with self._state_lock:
                now = self._client
                if now is None or now.connected or now is not client:
                    return
                self._connection = "lost"
            self._tell(Event.LOST)
            return

    def _others_get_in(self) -> bool:
        probe = self._new_client(4.0)
        try:
            probe.start(timeout=_PROBE_S)
            return True
        except Exception:
            return False
        finally:
            with contextlib.suppress(Exception):
                probe.stop()
                probe.close()

    # ---- records --------------------------------------------------------------------------------------------------

    def get(self, path: str, *, watch: bool = False) -> Record | None:
        found: Record | None = self._read("get", path, watch, self._fetch)
        return found

    def children(self, path: str, *, watch: bool = False) -> list[str]:
        found: list[str] = self._read("children", path, watch, self._list)
        return list(found)

    def _read(self, kind: str, path: str, watch: bool, read: Callable[[str, Callable[[Any], None] | None], Any]) -> Any:
        key = (kind, path)
        if not watch:
            return self._patiently(lambda: read(path, None))
        with self._cache_lock:
            if key in self._cache:
                return self._cache[key]
        fired = threading.Event()

        def on_change(_: Any) -> None:
            with self._cache_lock:
                fired.set()
                self._cache.pop(key, None)
            self._tell(Event.CHANGED)

        value = self._patiently(lambda: read(path, on_change))
        with self._cache_lock:
            if not fired.is_set() and self._connection == "connected":
                self._cache[key] = value
        return value

    def _fetch(self, path: str, watch: Callable[[Any], None] | None) -> Record | None:
        client = self._connected()
        full = f"{self._root}/{path}"
        while True:
            try:
                data, stat = self._wait(client.get_async(full, watch=watch))
            except NoNodeError:
                if watch is None or self._wait(client.exists_async(full, watch=watch)) is None:
                    return None
                continue
            owner = stat.ephemeralOwner
            mine = owner != 0 and client.client_id is not None and owner == client.client_id[0]
            return Record(data, stat.version, owner != 0, mine)

    def _list(self, path: str, watch: Callable[[Any], None] | None) -> list[str]:
        client = self._connected()
        full = f"{self._root}/{path}"
        while True:
            try:
                return sorted(self._wait(client.get_children_async(full, watch=watch)))
            except NoNodeError:
                if watch is None or self._wait(client.exists_async(full, watch=watch)) is None:
                    return []

    def commit(self, *ops: Op) -> list[int]:
        tried_before = False

        def once() -> list[int]:
            nonlocal tried_before
            try:
                return self._attempt(ops)
            except Conflict:
                if tried_before and (versions := self._landed(ops)) is not None:
                    return versions
                raise
            except _LOST_CONNECTION:
                tried_before = True
                raise

        versions: list[int] = self._patiently(once)
        with self._cache_lock:  # who wrote reads what it wrote: the watch tells a little later
            for op in ops:
                self._cache.pop(("get", op.path), None)
                if isinstance(op, Create | Remove):
                    self._cache.pop(("children", op.path.rpartition("/")[0]), None)
        return versions

    def _attempt(self, ops: tuple[Op, ...]) -> list[int]:
        for _ in range(3):
            client = self._connected()
            request = client.transaction()
            for op in ops:
                _add(request, op, f"{self._root}/{op.path}")
            results = self._wait(request.commit_async())
            failure = next(
                ((op, r) for op, r in zip(ops, results, strict=True) if _is_cause(r)), None
            )  # the others only say that they were rolled back
            if failure is None:
                return [_version(op, result) for op, result in zip(ops, results, strict=True)]
            op, error = failure
            if isinstance(error, NoNodeError) and isinstance(op, Create):
                self._make_parents(f"{self._root}/{op.path}")
                continue
            _raise(op, error)
        raise Conflict(ops[0].path, "missing")

    def _landed(self, ops: tuple[Op, ...]) -> list[int] | None:
        """The versions that ``ops`` left behind when the records say that an attempt with no answer had succeeded."""
        versions = []
        for op in ops:
            there = self._fetch(op.path, None)
            if isinstance(op, Remove):
                if there is not None:
                    return None
                versions.append(-1)
                continue
            if there is None or (not isinstance(op, Check) and there.data != op.data):
                return None
            expected = {Create: 0, Write: (getattr(op, "version", None) or 0) + 1, Check: there.version}[type(op)]
            any_version = isinstance(op, Write) and op.version is None
            if (there.version != expected and not any_version) or (
                isinstance(op, Create) and op.ephemeral != there.mine
            ):
                return None
            versions.append(there.version)
        return versions

    def _make_parents(self, full: str) -> None:
        client = self._connected()
        names = full.strip("/").split("/")[:-1]
        for depth in range(1, len(names) + 1):
            pending = client.create_async("/" + "/".join(names[:depth]), b"")
            with contextlib.suppress(NodeExistsError):
                self._call(partial(self._wait, pending))

    # ---- calls ----------------------------------------------------------------------------------------------------

    def _connected(self) -> KazooClient:
        client = self._client
        if self._connection == "lost":
            raise SessionLost(f"{self.place}: the session has ended; it must be started again")
        if client is None or not client.connected or self._connection != "connected":
            raise ConnectionLoss
        return client

    def _wait(self, pending: Any) -> Any:
        return pending.get(timeout=DEADLINE_S)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Run ``call``, again after a lost connection, until `DEADLINE_S` has passed."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                return self._call(call)
            except _LOST_CONNECTION as error:
                if self._client is None:
                    raise Unreachable(f"{self.place}: the connection is closed") from None
                if time.monotonic() >= deadline:
                    raise self._unreachable(type(error).__name__) from None
                self._closing.wait(0.05)

    def _call(self, call: Callable[[], Any]) -> Any:
        """Run ``call`` and translate those of kazoo's errors that another attempt does not mend."""
        try:
            return call()
        except (NodeExistsError, *_LOST_CONNECTION):
            raise
        except NoAuthError:
            raise self._denied() from None
        except SessionExpiredError:
            raise SessionLost(f"{self.place}: the session has ended; it must be started again") from None
        except KazooException as error:
            raise StateError(f"{self.place}: ZooKeeper refuses: {type(error).__name__} {error}".rstrip()) from None

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(f"{self.place} cannot be reached ({why}, waited {DEADLINE_S:.0f} s); check the servers")

    def _denied(self) -> AuthError:
        who = f"user {self._options.username!r}" if self._options.username else "a client without credentials"
        return AuthError(
            f"{self.place}: {who} may not use it: its ACL names another digest user or password;"
            " check coordination.zookeeper.credentials"
        )

    def _forget(self) -> None:
        with self._cache_lock:
            self._cache.clear()


def _add(request: Any, op: Op, full: str) -> None:
    if isinstance(op, Create):
        request.create(full, op.data, ephemeral=op.ephemeral)
    elif isinstance(op, Write):
        request.set_data(full, op.data, version=-1 if op.version is None else op.version)
    elif isinstance(op, Remove):
        request.delete(full, version=-1 if op.version is None else op.version)
    else:
        request.check(full, op.version)


def _is_cause(result: Any) -> bool:
    return isinstance(result, Exception) and not isinstance(result, RolledBackError | RuntimeInconsistency)


def _version(op: Op, result: Any) -> int:
    if isinstance(op, Create):
        return 0
    if isinstance(op, Write):
        return int(result.version)
    return -1 if isinstance(op, Remove) else op.version


def _raise(op: Op, error: Exception) -> None:
    if isinstance(error, NodeExistsError):
        raise Conflict(op.path, "exists")
    if isinstance(error, NoNodeError):
        raise Conflict(op.path, "missing")
    if isinstance(error, BadVersionError | NotEmptyError):
        raise Conflict(op.path, "changed")
    raise error
