"""Fixtures for everything that tests need outside themselves. What they start ends with the test.

Where a server is missing, a test is skipped with the command that gets it; with CI=true it fails instead.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.support.certificates import Certificates, OpensslMissing, make_certificates
from tests.support.effort import FULL_EXAMPLES, QUICK_EXAMPLES
from tests.support.links import end_leftovers
from tests.support.proxy import Proxy
from tests.support.servers import MAIN_VERSIONS, Server, ServerMissing
from tests.support.zookeeper import Ensemble, ZooKeeper, ZooKeeperMissing

T = TypeVar("T")

IN_CI = os.environ.get("CI") == "true"

# How long an example takes says something about the machine only. In CI a run must be repeatable.
settings.register_profile(
    "full",
    max_examples=FULL_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=IN_CI,
)
settings.register_profile("quick", settings.get_profile("full"), max_examples=QUICK_EXAMPLES)
settings.load_profile("full")  # `scripts/test unit` asks for the other by --hypothesis-profile


_state = {"failed": False}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _state["failed"] |= report.failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """What a failed test left open is thrown away here, or the next test that allocates much is blamed for it."""
    done = yield
    end_leftovers()
    if _state["failed"]:
        _state["failed"] = False
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)  # pytest leaves them for debuggers, and they hold the test's frames
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return done


class StartServer(Protocol):
    """The type of the `redis_server` fixture: `Server.start` with everything closed at the end of the test."""

    def __call__(self, version: str | None = None, *, tls: Certificates | None = None, **settings: Any) -> Server: ...


_directories = itertools.count(1)


@pytest.fixture(scope="session")
def short_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes new directories whose names are short enough for a Unix socket inside (108 bytes in all)."""

    def make() -> Path:
        made = tmp_path_factory.getbasetemp() / f"s{next(_directories)}"
        made.mkdir()
        return made

    return make


@pytest.fixture
def redis_server(short_directory: Callable[[], Path]) -> Iterator[StartServer]:
    """Starts servers: `redis_server("8.2", appendonly="yes")`; without a version $REDIS_CANAL_TEST_VERSION or 7.0."""
    with ExitStack() as stack:

        def start(version: str | None = None, *, tls: Certificates | None = None, **settings: Any) -> Server:
            directory = short_directory()
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            try:
                server = Server.start(version, directory=directory, tls=tls, **settings)
            except ServerMissing as missing:
                _missing(missing)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(params=MAIN_VERSIONS)
def server_version(request: pytest.FixtureRequest) -> str:
    """Runs the test once for each main version: 6.2, 7.0, 8.2, valkey-9.1."""
    return str(request.param)


@pytest.fixture
def proxy() -> Iterator[Callable[[Server | tuple[str, int]], Proxy]]:
    """Starts TCP proxies: `proxy(server)` or `proxy(("127.0.0.1", port))`."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(Proxy(target if isinstance(target, tuple) else target.address))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, a server and a client certificate: `redis_server(tls=certificates)` (7.0 only)."""
    try:
        return make_certificates(tmp_path_factory.mktemp("tls"))
    except OpensslMissing as missing:
        _missing(missing)


@pytest.fixture
def zookeeper() -> Iterator[Callable[[], ZooKeeper]]:
    """Starts single ZooKeeper servers: `zookeeper().hosts`."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_zookeeper(ZooKeeper.start))


@pytest.fixture
def zookeeper_ensemble() -> Iterator[Callable[[], Ensemble]]:
    """Starts ensembles of three ZooKeeper servers."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_zookeeper(Ensemble.start))


def _zookeeper(start: Callable[[], T]) -> T:
    try:
        return start()
    except ZooKeeperMissing as missing:
        _missing(missing)


def _missing(what: Exception) -> NoReturn:
    if IN_CI:
        pytest.fail(str(what), pytrace=False)
    pytest.skip(str(what))
