"""Real Redis and Valkey servers for tests: where they are found, and one class that runs them.

    with Server.start("7.0", appendonly="yes") as server:
        server.client(db=3).set("a", 1)
        server.kill(); server.restart()

Versions are named by major.minor, Valkey's with its name before: "6.2", "7.0", "8.2", "valkey-9.1"; further "5.0",
"6.0", "valkey-8.1". scripts/servers fetches all of them but 7.0, which is Debian's redis-server (the only one here that
was built with TLS). REDIS_CANAL_SERVERS names another directory to look in.

All calls block. In an async test whose event loop must run meanwhile (a graceful stop waits for its replicas), use
`await asyncio.to_thread(server.stop)`.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.certificates import Certificates
from tests.support.process import ROOT, ReservedPort, end, spawn, wait_until

MAIN_VERSIONS = ("6.2", "7.0", "8.2", "valkey-9.1")
MORE_VERSIONS = ("5.0", "6.0", "valkey-8.1")
DEFAULT_VERSION = os.environ.get("REDIS_CANAL_TEST_VERSION", "7.0")

START_TIMEOUT_S = 60.0  # loading a large RDB on a busy machine included


class ServerMissing(Exception):
    """This version is not on this machine; the message says how to get it."""


class Server:
    """One running server with its own directory, on a port of 127.0.0.1 and a Unix socket. Make it with `start`.

    Any setting of redis.conf can be given by keyword, `_` for `-`; several words as one string. Without any: empty,
    no persistence, diskless synchronisation at once, 16 databases, DEBUG allowed.
    """

    def __init__(self, version: str, directory: Path, config: dict[str, str], *, owns_directory: bool) -> None:
        self.version = version
        self.flavor, self.number = parse_version(version)
        self.binary = locate(version)
        self.directory = directory
        self.config = config
        self.environ: dict[str, str] = {}  # added to ours when it is started
        self.process: subprocess.Popen[bytes] | None = None
        self.tls: Certificates | None = None
        self.tls_port = 0
        self._owns_directory = owns_directory
        self._reserved = [ReservedPort()]
        self._clients: list[redis.Redis] = []

    @classmethod
    def start(
        cls,
        version: str | None = None,
        *,
        directory: Path | None = None,
        tls: Certificates | None = None,
        environ: dict[str, str] | None = None,
        **settings: object,
    ) -> Self:
        """Start a server and wait until it answers and has loaded its data. ServerMissing when there is none.

        With `tls` it listens on `tls_port` as well, with these certificates. `directory` is kept at the end, a
        temporary one is not.
        """
        chosen = version or DEFAULT_VERSION
        locate(chosen)
        owns = directory is None
        where = Path(tempfile.mkdtemp(prefix="canal-")) if directory is None else directory
        where.mkdir(parents=True, exist_ok=True)
        server = cls(chosen, where, {}, owns_directory=owns)
        server.config = server._defaults()
        server.environ = dict(environ or {})
        if tls is not None:
            server._add_tls(tls)
        server._set(settings)
        try:
            server.run()
        except BaseException:
            server.close()
            raise
        return server

    # -- addresses and clients

    @property
    def port(self) -> int:
        return self._reserved[0].number

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def unix_socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.unix_socket}"

    @property
    def tls_url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}"

    @property
    def password(self) -> str | None:
        return self.config.get("requirepass")

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A new client over the Unix socket: bytes in and out, RESP2, no retries. Closed when the server is."""
        settings: dict[str, Any] = {"password": self.password, "socket_timeout": 60, **_CLIENT, **options}
        made = redis.Redis(db=db, unix_socket_path=str(self.unix_socket), retry=Retry(NoBackoff(), 0), **settings)
        self._clients.append(made)
        return made

    def async_client(self, db: int = 0, **options: Any) -> redis.asyncio.Redis:
        """The same for asyncio. Whoever makes it closes it: `async with server.async_client() as client`."""
        settings: dict[str, Any] = {"password": self.password, "socket_timeout": 60, **_CLIENT, **options}
        return redis.asyncio.Redis(
            db=db, unix_socket_path=str(self.unix_socket), retry=AsyncRetry(NoBackoff(), 0), **settings
        )

    @functools.cached_property
    def control(self) -> redis.Redis:
        """The client of the questions below; connects anew after a restart."""
        return self.client()

    # -- questions

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server was never started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def at_least(self, redis_version: tuple[int, int], valkey_version: tuple[int, int] | None = None) -> bool:
        """Whether this is Redis of at least redis_version, or Valkey of at least valkey_version (None: any Valkey)."""
        if self.flavor == "valkey":
            return valkey_version is None or self.number >= valkey_version
        return self.number >= redis_version

    def info(self, section: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = self.control.info(section)
        return found

    @property
    def sync_full(self) -> int:
        """Full resynchronisations that this server has served since it started."""
        return int(self.info("stats")["sync_full"])

    @property
    def sync_partial_ok(self) -> int:
        return int(self.info("stats")["sync_partial_ok"])

    @property
    def offset(self) -> int:
        """master_repl_offset: bytes put into the replication stream so far."""
        return int(self.info("replication")["master_repl_offset"])

    @property
    def replid(self) -> str:
        return str(self.info("replication")["master_replid"])

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def config_set(self, **settings: object) -> None:
        """CONFIG SET at run time (forgotten at a restart: give those to `restart`)."""
        for name, value in settings.items():
            self.control.config_set(name.replace("_", "-"), str(value))

    # -- life

    def run(self) -> None:
        """Start the process on the same port and directory and wait until it answers. Used by start and restart."""
        (self.directory / "redis.conf").write_text(
            "".join(f"{name} {_quoted(name, value)}\n" for name, value in self.config.items())
        )
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(
                [self.binary, self.directory / "redis.conf"],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environ,
            )
        wait_until(self._answers, START_TIMEOUT_S, f"{self.version} on port {self.port} answers PING")

    def restart(self, *, graceful: bool = True, timeout: float = 120.0, **settings: object) -> None:
        """Stop it if it runs (SHUTDOWN, or kill -9) and start it again with the same port, data and settings.

        `settings` are changed before the start and kept. Data survives only when the settings say so (`appendonly`,
        or `save`); the default keeps nothing.
        """
        if graceful:
            self.stop(timeout)
        else:
            self.kill()
        self._set(settings)
        self.run()

    def stop(self, timeout: float = 120.0) -> None:
        """SIGTERM and wait: saves when so configured, and waits for its replicas up to shutdown-timeout (7.0 on)."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9 and reap."""
        if self.process is not None:
            end(self.process)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """The end: clients closed, process killed, port given back, temporary directory removed."""
        for client in self._clients:
            client.close()
        self.kill()
        for port in self._reserved:
            port.release()
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.version} {self.url} {self.directory}>"

    # -- inside

    def _defaults(self) -> dict[str, str]:
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.unix_socket),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "repl-diskless-sync-delay": "0",
        }
        if self.at_least((7, 0)):
            config["enable-debug-command"] = "yes"
        return config

    def _add_tls(self, tls: Certificates) -> None:
        port = ReservedPort()
        self._reserved.append(port)
        self.tls, self.tls_port = tls, port.number
        self.config |= {
            "tls-port": str(port.number),
            "tls-cert-file": str(tls.server_cert),
            "tls-key-file": str(tls.server_key),
            "tls-ca-cert-file": str(tls.ca),
            "tls-auth-clients": "optional",
        }

    def _set(self, settings: dict[str, object]) -> None:
        self.config |= {name.replace("_", "-"): str(value) for name, value in settings.items()}

    def _answers(self) -> bool:
        if not self.running:
            code = self.process.returncode if self.process is not None else None
            raise RuntimeError(f"{self.version} ended with {code} while starting:\n{self.log()[-2000:]}")
        try:
            return bool(self.control.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is one of these
            return False
        except redis.AuthenticationError:
            return True


# RESP2: the same replies from every version.
_CLIENT: dict[str, Any] = {"protocol": 2}

_MULTIPLE_WORDS = {
    "save",
    "replicaof",
    "client-output-buffer-limit",
    "bind",
    "user",
    "rename-command",
    "oom-score-adj-values",
}


def _quoted(name: str, value: str) -> str:
    if value == "" or (" " in value and name not in _MULTIPLE_WORDS):
        return f'"{value}"'
    return value


def parse_version(version: str) -> tuple[str, tuple[int, int]]:
    """ "7.0" → ("redis", (7, 0)); "valkey-9.1" → ("valkey", (9, 1))."""
    match = re.fullmatch(r"(?:(redis|valkey)-)?(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"a version is named like 7.0 or valkey-9.1, not {version!r}")
    return match[1] or "redis", (int(match[2]), int(match[3]))


@functools.cache
def locate(version: str) -> Path:
    """The server binary of this version: in .servers/, else on PATH if that one is of this version."""
    flavor, number = parse_version(version)
    name = f"{flavor}-{number[0]}.{number[1]}"
    fetched = Path(os.environ.get("REDIS_CANAL_SERVERS") or ROOT / ".servers") / name
    if fetched.exists():
        return fetched
    found = shutil.which(f"{flavor}-server")
    if found is not None:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if f" v={number[0]}.{number[1]}." in said:
            return Path(found)
    hint = "apt-get install redis-server (Debian 12)" if name == "redis-7.0" else f"scripts/servers {name}"
    raise ServerMissing(f"no {name} here; get it with: {hint}")
