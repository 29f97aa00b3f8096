"""The coordinator of a single machine: one SQLite file in WAL mode, shared by its daemons and the command line.

Sessions. ZooKeeper notices itself when a client falls silent; here every process that has ephemeral records renews its
row in ``sessions``, and whoever touches the file removes those that have run out. Times are read from CLOCK_BOOTTIME,
which all processes of a machine share, which no one can set, and which goes on while the machine sleeps; a row of an
earlier boot has run out by definition. So a daemon that was stopped for longer than its time-out finds its session
gone.

Changes. A thread asks ``PRAGMA data_version`` ten times a second: a few microseconds while nobody has written. Only
writes that matter to a plan raise a counter that makes listeners be told; progress records do not.

Durability. What people or leases write is synced to disk (``synchronous=FULL``); progress and heartbeats, which are
worth nothing after a power cut, are not (``NORMAL``: the file stays sound, the newest of them may be missing).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from canal import formats
from canal.errors import CanalError, Refused, StateError, Unreachable
from node.coordination.base import (
    DEADLINE_S,
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
from node.coordination.registry import boot_id

POLL_S = 0.1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    path TEXT PRIMARY KEY, parent TEXT NOT NULL, data BLOB NOT NULL, version INTEGER NOT NULL, session TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_parent ON records (parent);
CREATE INDEX IF NOT EXISTS records_by_session ON records (session) WHERE session IS NOT NULL;
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, boot TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL);
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""
_ALIVE = "(session IS NULL OR session IN (SELECT id FROM sessions WHERE boot = ? AND expires > ?))"


class EmbeddedStore(Store):
    """The tree of records in one SQLite file. ``timeout_s``: how long a silent session lives."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s
        self._boot = boot_id()
        self._lock = threading.RLock()
        self._durable: sqlite3.Connection | None = None
        self._quick: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)
        self._session: str | None = None
        self._connection: Connection = "closed"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def place(self) -> str:
        return str(self._path)

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def session_timeout_s(self) -> float:
        return self._timeout_s

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._halt()
        with self._lock:
            self._disconnect()
            self._session = None
            with _explained(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                self._durable = self._open("FULL")
                self._quick = self._open("NORMAL")
                self._file = _identity(self._path)
            self._connection = "connected"
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._attend, args=(self._stop,), name="coordination", daemon=True)
            self._thread.start()
        self._tell(Event.CONNECTED)

    def _open(self, synchronous: str) -> sqlite3.Connection:
        link = sqlite3.connect(self._path, timeout=DEADLINE_S, isolation_level=None, check_same_thread=False)
        if link.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StateError(f"{self._path}: no WAL mode here; the embedded coordinator needs a local file system")
        link.execute(f"PRAGMA synchronous = {synchronous}")
        version = link.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            link.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {formats.written()}; COMMIT;")
        else:
            formats.check(str(self._path), version, Refused)
        return link

    def close(self) -> None:
        self._halt()
        with self._lock, contextlib.suppress(sqlite3.Error, CanalError):
            if self._session is not None and self._durable is not None:
                with _transaction(self._durable) as link:
                    self._end_sessions(link, "id = ?", self._session)
        with self._lock:
            self._session = None
            self._connection = "closed"
            self._disconnect()

    def _halt(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _disconnect(self) -> None:
        for link in (self._durable, self._quick):
            if link is not None:
                link.close()
        self._durable = self._quick = None

    # ---- records --------------------------------------------------------------------------------------------------

    def get(self, path: str, *, watch: bool = False) -> Record | None:
        with self._lock, _explained(self._path):
            row = self._link(self._quick).execute(
                f"SELECT data, version, session FROM records WHERE path = ? AND {_ALIVE}", (path, self._boot, _now())
            ).fetchone()  # fmt: skip
        if row is None:
            return None
        data, version, session = row
        return Record(bytes(data), version, session is not None, session is not None and session == self._session)

    def children(self, path: str, *, watch: bool = False) -> list[str]:
        with self._lock, _explained(self._path):
            rows = self._link(self._quick).execute(
                f"SELECT path FROM records WHERE parent = ? AND {_ALIVE} ORDER BY path", (path, self._boot, _now())
            ).fetchall()  # fmt: skip
        return [str(row[0]).rpartition("/")[2] for row in rows]

    def commit(self, *ops: Op) -> list[int]:
        quiet = all(isinstance(op, Write) and op.quiet for op in ops)
        with self._lock, _explained(self._path):
            if any(isinstance(op, Create) and op.ephemeral for op in ops):
                self._need_session()
            with _transaction(self._link(self._quick if quiet else self._durable)) as link:
                self._expire(link)
                versions = [self._apply(link, op) for op in ops]
                if not quiet:
                    _count_change(link)
        return versions

    def _apply(self, link: sqlite3.Connection, op: Op) -> int:
        row = link.execute("SELECT version FROM records WHERE path = ?", (op.path,)).fetchone()
        if isinstance(op, Create):
            if row is not None:
                raise Conflict(op.path, "exists")
            self._insert(link, op)
            return 0
        if row is None:
            raise Conflict(op.path, "missing")
        if op.version is not None and op.version != row[0]:
            raise Conflict(op.path, "changed")
        if isinstance(op, Write):
            link.execute("UPDATE records SET data = ?, version = version + 1 WHERE path = ?", (op.data, op.path))
            return int(row[0]) + 1
        if isinstance(op, Remove):
            if link.execute("SELECT 1 FROM records WHERE parent = ? LIMIT 1", (op.path,)).fetchone():
                raise Conflict(op.path, "changed")
            link.execute("DELETE FROM records WHERE path = ?", (op.path,))
            return -1
        return int(row[0])

    def _insert(self, link: sqlite3.Connection, op: Create) -> None:
        add = "INSERT OR IGNORE INTO records (path, parent, data, version, session) VALUES (?, ?, ?, 0, ?)"
        names = op.path.split("/")
        for depth in range(1, len(names)):
            link.execute(add, ("/".join(names[:depth]), "/".join(names[: depth - 1]), b"", None))
        session = self._alive_session(link) if op.ephemeral else None
        link.execute(add, (op.path, "/".join(names[:-1]), op.data, session))

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _need_session(self) -> None:
        """Begin this process's session with its first ephemeral record; one that was lost needs `start`."""
        if self._connection == "lost":
            raise SessionLost(f"the session at {self._path} has run out; it must be started again")
        if self._session is None:
            self._session = secrets.token_hex(8)
            with _transaction(self._link(self._durable)) as link:
                values = (self._session, self._boot, _now() + self._timeout_s)
                link.execute("INSERT INTO sessions (id, boot, expires) VALUES (?, ?, ?)", values)

    def _alive_session(self, link: sqlite3.Connection) -> str | None:
        if link.execute("SELECT 1 FROM sessions WHERE id = ?", (self._session,)).fetchone() is None:
            raise SessionLost(f"the session at {self._path} has run out; it must be started again")
        return self._session

    def _expire(self, link: sqlite3.Connection) -> None:
        """Remove the sessions that have run out, this process's own too, and what belonged to them."""
        self._end_sessions(link, "boot <> ? OR expires <= ?", self._boot, _now())

    def _end_sessions(self, link: sqlite3.Connection, which: str, *values: object) -> None:
        ended = link.execute(f"SELECT id FROM sessions WHERE {which}", values).fetchall()
        for (session,) in ended:
            link.execute("DELETE FROM records WHERE session = ?", (session,))
            link.execute("DELETE FROM sessions WHERE id = ?", (session,))
        if ended:
            _count_change(link)

    def _attend(self, stop: threading.Event) -> None:
        """The store's thread: notices changes, renews the session, ends those of others."""
        watcher: sqlite3.Connection | None = None
        seen, changes, next_beat = -1, -1, 0.0
        try:
            while not stop.wait(POLL_S):
                try:
                    if watcher is None:
                        watcher = sqlite3.connect(self._path, timeout=DEADLINE_S, isolation_level=None)
                    if _now() >= next_beat:
                        next_beat = _now() + min(self._timeout_s / 5, 2.0)
                        if not self._beat():
                            self._connection = "lost"
                            self._tell(Event.LOST)
                            return
                    version = watcher.execute("PRAGMA data_version").fetchone()[0]
                    if version != seen:
                        seen = version
                        count = watcher.execute("SELECT count FROM changes").fetchone()[0]
                        if count != changes:
                            changes = count
                            self._tell(Event.CHANGED)
                    self._suspend(False)
                except (sqlite3.Error, OSError, CanalError):
                    self._suspend(True)
        finally:
            if watcher is not None:
                watcher.close()

    def _beat(self) -> bool:
        """Renew the session, end those that have run out; False when this one has, or another file stands there now."""
        if _identity(self._path) != self._file:
            return False
        with self._lock:
            link = self._link(self._quick)
            with _transaction(link):
                self._expire(link)
                if self._session is None:
                    return True
                values = (_now() + self._timeout_s, self._session)
                return link.execute("UPDATE sessions SET expires = ? WHERE id = ?", values).rowcount == 1

    def _suspend(self, on: bool) -> None:
        if on and self._connection == "connected":
            self._connection = "suspended"
            self._tell(Event.SUSPENDED)
        elif not on and self._connection == "suspended":
            self._connection = "connected"
            self._tell(Event.CONNECTED)

    def _link(self, link: sqlite3.Connection | None) -> sqlite3.Connection:
        if link is None:
            raise Unreachable(f"the coordinator {self._path} is closed")
        return link


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _identity(path: Path) -> tuple[int, int]:
    """Which file stands at ``path``; (0, 0) when there is none."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return there.st_dev, there.st_ino


def _count_change(link: sqlite3.Connection) -> None:
    link.execute("UPDATE changes SET count = count + 1")


@contextlib.contextmanager
def _transaction(link: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    link.execute("BEGIN IMMEDIATE")
    try:
        yield link
        link.execute("COMMIT")
    except BaseException:
        if link.in_transaction:
            link.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's and the file system's errors into ours, with the file's name and what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise Unreachable(f"{path} was locked by another process for {DEADLINE_S:.0f} s") from None
        raise StateError(f"{path} cannot be used: {error}; check its directory, its owner and the disk") from None
    except sqlite3.DatabaseError as error:
        raise StateError(
            f"{path} is not a sound SQLite file: {error}; move it away and create the tasks again"
        ) from None
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror}; check its directory and its owner") from None
