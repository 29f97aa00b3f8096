"""Runs one link on an event loop of its own: view, HTTP, signals. The heavy part of ``redis-canal run``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from canal.errors import CanalError
from console.cli import logs
from console.cli.about import framing, package_version
from console.cli.view import Follower, PlainView, TerminalView, View
from sync.cluster import ClusterLink, of_cluster
from sync.config import LinkConfig
from sync.link import Link
from sync.status import LinkStatus
from sync.throttle import ThrottleOptions

if TYPE_CHECKING:
    import ssl

    from node.http import HttpServer

log = logging.getLogger(__name__)
INTERRUPTED: Final = 130


def run_foreground(
    config: LinkConfig,
    *,
    http: tuple[str, int] | None,
    verbose: int,
    json_logs: bool,
    stop_timeout_s: float,
    throttle: Callable[[], ThrottleOptions] | None = None,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Run the link until it is stopped (0) or a second signal comes (130). Raises the CanalError that ended it.

    ``tls``: serve ``http`` by it.
    ``throttle`` is asked again at each SIGHUP.
    """
    os.umask(0o077)  # journals and letters hold the data itself
    view = _view(verbose, json_logs)
    status = LinkStatus(config.task, config.shard, config.source_dc, config.target_dc)
    return _run_loop(_Foreground(config, status, view, stop_timeout_s, throttle, tls).run(http))


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    """asyncio.run, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _view(verbose: int, json_logs: bool) -> View:
    """A live display where stderr is a terminal that can show one; log lines otherwise."""
    plain = json_logs or not sys.stderr.isatty() or os.environ.get("TERM", "") in ("", "dumb")
    if plain:
        logs.setup(verbose, json_logs)
        return PlainView()
    from rich.console import Console

    console = Console(stderr=True)
    logs.setup(verbose, handler=ConsoleHandler(console))
    return TerminalView(console)


class ConsoleHandler(logging.Handler):
    """Prints log lines above the live display."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _Foreground:
    """One link, its view, its HTTP server and its signals."""

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        view: View,
        stop_timeout_s: float,
        throttle: Callable[[], ThrottleOptions] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config, self._status, self._view = config, status, view
        self._stop_timeout_s = stop_timeout_s
        self._throttle = throttle
        self._tls = tls
        self._signals = 0
        self._link: Link | ClusterLink = ClusterLink(config, status) if of_cluster(config) else Link(config, status)
        self._task: asyncio.Task[None] | None = None

    async def run(self, http: tuple[str, int] | None) -> int:
        server = await self._listen(http)
        follower = asyncio.create_task(Follower(self._view, self._status).run())
        try:
            return await self._run_link()
        finally:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
            self._view.close(self._status)
            if server is not None:
                await server.close()

    async def _listen(self, http: tuple[str, int] | None) -> HttpServer | None:
        if http is None:
            return None
        from node.http import HttpServer, cluster_routes, link_routes

        about = {"version": package_version(), "framing": framing()}
        link = self._link
        if isinstance(link, ClusterLink):
            routes = cluster_routes(self._status, lambda: link.statuses, **about)
        else:
            routes = link_routes(self._status, **about)
        server = HttpServer(*http, routes, self._tls)
        await server.start()
        host, port = server.address
        log.info("listening on %s://%s:%d", server.scheme, f"[{host}]" if ":" in host else host, port)
        return server

    async def _run_link(self) -> int:
        self._task = asyncio.create_task(self._link.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            await self._task
        except asyncio.CancelledError:
            if self._signals < 2:
                raise
            log.warning("stopped at once by a second signal; the next start goes on from the last committed batch")
            return INTERRUPTED
        return 0

    def _reload(self) -> None:
        """Take up other limits; wrong ones are refused and the old ones stay."""
        if self._throttle is None:
            return
        try:
            options = self._throttle()
        except CanalError as error:
            log.error("throttle not changed: %s", error)
            return
        self._link.throttle(options)
        log.info("throttle: %s", options)

    def _on_signal(self, number: int) -> None:
        """First: drain and stop within the deadline. Second: stop at once."""
        self._signals += 1
        assert self._task is not None
        if self._signals > 1:
            self._task.cancel()
            return
        log.info("%s: applying what is journaled, then stopping", signal.Signals(number).name)
        self._link.stop(self._stop_timeout_s)
