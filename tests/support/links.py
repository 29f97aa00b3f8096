"""Links for tests: in this process, in a thread with a loop of its own, or as a child process that can be killed -9.

    with Link(source, target, tmp_path, writer="guarded") as link:
        link.streaming()                   # the snapshot is applied
        link.in_step()                     # everything that the source has written by now is applied
        link.status.commands_applied
    # stopped here, as by SIGTERM; an error that ended it is raised, unless `failed` has taken it

    with LinkProcess(source, target, tmp_path) as link:
        link.kill(); link.start()

Source and target are servers, or anything else with a `url` (a proxy). Both run the product as it is; what a test turns
is a LinkConfig field (`task`, `on_error`, `two_way` …, `journal_…` and `snapshot_…` for those of the inner options).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from canal.endpoint import parse_url
from canal.errors import CanalError
from sync.config import JournalOptions, LinkConfig, SnapshotOptions
from sync.converge import Converge
from sync.link import Link as ProductLink
from sync.status import LinkStatus
from tests.support.process import PATIENCE_S, ROOT, end, spawn, wait_until
from tests.support.servers import Server

MODES = ("gated", "guarded")
RUN = (sys.executable, "-m", "console.cli.main", "run")


class Reachable(Protocol):
    """A server or a proxy in front of one."""

    @property
    def url(self) -> str: ...


def link_config(source: Reachable, target: Reachable, directory: Path, **changes: Any) -> LinkConfig:
    """A LinkConfig; `journal_<name>` and `snapshot_<name>` change the inner options."""
    inner: dict[str, Any] = {"journal": JournalOptions(), "snapshot": SnapshotOptions()}
    for name in [name for name in changes if name.startswith(("journal_", "snapshot_"))]:
        part, _, field = name.partition("_")
        inner[part] = replace(inner[part], **{field: changes.pop(name)})
    task = changes.pop("task", "test")
    return LinkConfig(
        task=task,
        source=parse_url(source.url),
        target=parse_url(target.url),
        state_dir=directory / "state" / task,
        **inner,
        **changes,
    )


_STARTED: weakref.WeakSet[Link] = weakref.WeakSet()


def end_leftovers() -> None:
    """Stop what a test that failed has left running: its threads would go on within the tests after it."""
    left = [link for link in _STARTED if link.running]
    _STARTED.clear()
    for link in left:
        link.call("stop", 0.0)
    for link in left:
        link.wait(20)


class Link:
    """The product's Link in a thread of its own, so that tests may block. See the top of this file."""

    def __init__(self, source: Reachable, target: Reachable, directory: Path, **changes: Any) -> None:
        self.config = link_config(source, target, directory, **changes)
        self.status = LinkStatus(self.config.task, self.config.shard, self.config.source_dc, self.config.target_dc)
        self.error: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.product: ProductLink | None = None
        self._thread = threading.Thread(target=self._run, name=f"link-{self.config.task}", daemon=True)

    # --- life

    def start(self) -> Self:
        _STARTED.add(self)
        self._thread.start()
        wait_until(lambda: self.product is not None or self.error is not None, 10, "the link's loop runs")
        return self

    def again(self) -> Link:
        """A new link of the same configuration, as a restarted daemon; not started yet."""
        fresh = Link.__new__(Link)
        fresh.__dict__.update(self.__dict__)
        fresh.status = LinkStatus(self.config.task, self.config.shard, self.config.source_dc, self.config.target_dc)
        fresh.error = fresh.loop = fresh.product = None
        fresh._thread = threading.Thread(target=fresh._run, name=f"link-{self.config.task}", daemon=True)
        return fresh

    def _run(self) -> None:
        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self.product = ProductLink(self.config, self.status)
            await self.product.run()

        try:
            asyncio.run(main())
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method of the product's link in its loop; without effect when it has ended."""
        if self.running and self.loop is not None and self.product is not None:
            self.loop.call_soon_threadsafe(getattr(self.product, name), *arguments)

    def in_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call anything of the product's in the link's loop."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(function, *arguments)

    @property
    def converge(self) -> Converge:
        """Of a link that goes two ways."""
        assert self.product is not None
        replay = self.product._replay
        assert replay is not None
        assert replay._converge is not None
        return replay._converge

    def stop(self, deadline_s: float = 30.0, timeout: float | None = None) -> None:
        """As by SIGTERM; waits for the end and raises what ended it instead."""
        self.call("stop", deadline_s)
        self.join(timeout or deadline_s + 15)
        if self.error is not None:
            raise self.error

    def wait(self, timeout: float) -> None:
        """Wait for its end so long at most; ended or not, nothing is raised."""
        self._thread.join(timeout)

    def join(self, timeout: float = 30.0) -> None:
        self._thread.join(max(timeout, PATIENCE_S))
        assert not self.running, f"the link has not ended within {timeout:g} s: {self.status}; waits in {self._where()}"

    def _where(self) -> list[str]:
        """What its tasks wait for, as far as another thread can tell."""
        tasks = asyncio.all_tasks(self.loop) if self.loop is not None else ()
        return [f"{task.get_name()}: {task.get_stack()[-1:]}" for task in tasks]

    def failed(self, timeout: float = 30.0) -> CanalError:
        """Wait until the link has failed; its error, which counts as expected from here on."""
        self.join(timeout)
        error, self.error = self.error, None
        assert isinstance(error, CanalError), f"expected a CanalError, got {error!r}"
        assert self.status.state == "failed"
        assert "\n" not in str(error)
        return error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:  # the test's own failure says more
            self.call("stop", 0.0)
            self.wait(20)

    # --- waiting

    def until(self, condition: Any, timeout: float = 30.0, what: str = "") -> Any:
        """`wait_until` that ends at once, with the link's own error, when the link ends."""

        def look() -> Any:
            if self.error is not None:
                raise self.error
            assert self.running, f"the link has ended: {self.status}"
            return condition()

        try:
            return wait_until(look, timeout, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; status: {self.status}") from None

    def more(self, figure: str, timeout: float = 15.0, what: str = "") -> None:
        """Until that figure of the status has grown."""
        before = getattr(self.status, figure)
        self.until(lambda: getattr(self.status, figure) > before, timeout, what or f"{figure} beyond {before}")

    def streaming(self, timeout: float = 30.0) -> Self:
        self.until(lambda: self.status.state == "streaming" and self.status.source_connected, timeout, "streaming")
        return self

    def in_step(self, source: Server, timeout: float = 30.0) -> None:
        """Everything that `source` has put into its stream by now is applied."""
        goal = source.offset
        self.until(lambda: self.status.applied_offset >= goal, timeout, f"applied up to {goal}")


def link_between(source: Reachable, target: Reachable, directory: Path, names: str, **changes: Any) -> Link:
    """One direction; `names` is "a-b": the datacenters and the task."""
    source_dc, target_dc = names.split("-")
    return Link(source, target, directory, task=names, source_dc=source_dc, target_dc=target_dc, **changes)


def quiet(*servers: Server, for_s: float = 2.5) -> bool:
    """Nothing but PINGs and what asks for acknowledgements enters the streams for a while."""
    before = [server.offset for server in servers]
    time.sleep(for_s)  # silence cannot be waited for in another way
    return all(server.offset - old < 200 for server, old in zip(servers, before, strict=True))


class LinkProcess:
    """`redis-canal run` as a child process, with what it says in `log`."""

    def __init__(
        self, source: Reachable, target: Reachable, directory: Path, *arguments: str, name: str = "test"
    ) -> None:
        self.log_file = directory / f"{name}.log"
        self.arguments = (
            *("--source", source.url, "--target", target.url, "--name", name),
            *("--state-dir", str(directory / "state"), *arguments),
        )
        self.start()

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = spawn([*RUN, *self.arguments], stdout=log, stderr=log, cwd=ROOT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9. AssertionError when it had ended by itself."""
        assert self.running, f"run ended by itself with {self.process.returncode}:\n{self.log[-3000:]}"
        end(self.process)

    def terminate(self, timeout: float = 120.0) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self.process)
