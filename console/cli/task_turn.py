"""``redis-canal task promote`` and ``task reverse``: change which datacenter is written to, as planned or by force."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from canal.errors import ConfigError, Refused, Unreachable
from console.cli.access import Access, opened, wait_until, where_options, who
from console.cli.output import duration

if TYPE_CHECKING:
    from canal.endpoint import Endpoint
    from node.config.models import TaskSpec
    from node.coordination.records import ShardView, TaskRecord

_QUIET_BYTES = 200
"""A source that nobody writes to still sends PINGs and asks for acknowledgements: less than this in a comparison."""


def turn_options(function: Any) -> Any:
    """What both commands take."""
    options = (
        click.option(
            "--pause-writes", is_flag=True, help="Hold writes at the source (CLIENT PAUSE) until this is done."
        ),
        click.option(
            "--force", is_flag=True, help="The source is gone: go on with what has arrived; says what is lost."
        ),
        click.option("--no-verify", is_flag=True, help="Do not compare the two sides."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        where_options,
        click.option("--timeout", type=click.FloatRange(0.1), default=300.0, show_default=True, metavar="SECONDS"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("task")
@turn_options
def promote(task: str, **given: Any) -> int:
    """Make TASK's target fit to be written to: drain, prove both sides equal, stop the task.

    Stop the writers first, or use --pause-writes. Exit code 1, with the task left running, when the source is still
    written to or the sides differ. Tasks of a two-way pair stay running.
    """
    with opened(given) as access:
        _Turn(access, task, given).promote()
    return 0


@click.command()
@click.argument("task")
@click.option(
    "--as", "name", metavar="NAME", help="Name of the task in the other direction (default: <target>-<source>)."
)
@click.option("--at", metavar="FILE", help="node.yaml of the target's datacenter, where that has its own coordinator.")
@turn_options
def reverse(task: str, name: str | None, at: str | None, **given: Any) -> int:
    """Promote TASK's target, then replicate from it to the old source.

    No snapshot is needed when both sides were proven equal. With --force the new task is created but not started: start
    it once the old source is back; what only that had is then replaced.
    """
    with opened(given) as access:
        turn = _Turn(access, task, given)
        turn.refuse_two_way()
        if at is None:
            turn.promote()
            turn.replicate_back(access, name)
            return 0
        with opened({"config_file": at, "state_dir": None, "dc": None}) as other:
            turn.promote()
            turn.replicate_back(other, name)
    return 0


@dataclass(slots=True)
class Side:
    """What a server said of its stream."""

    replid: str
    offset: int


class _Turn:
    """One promotion, step by step; each step says what it found."""

    def __init__(self, access: Access, task: str, given: dict[str, Any]) -> None:
        from node.config.secrets import resolve
        from node.spec import read_spec

        self._coordinator = access.coordinator
        self._task = task
        self._force, self._pause = given["force"], given["pause_writes"]
        self._timeout_s: float = given["timeout"]
        self._yes = given["yes"]
        self._record: TaskRecord = access.coordinator.tasks.get(task)
        self.spec: TaskSpec = read_spec(self._record)
        self._source = resolve("source", self.spec.source, access.credentials)
        self._target = resolve("target", self.spec.target, access.credentials)
        self._verify = not (given["no_verify"] or self._force)
        if self._force and self._pause:
            raise ConfigError("--force is for a source that is gone, --pause-writes for one that answers: give one")

    def promote(self) -> None:
        """Drain, prove, stop. Raises `Refused` or `CanalError` with the task left as it was."""
        self._check()
        if not self._yes:
            how = "WITHOUT its source" if self._force else "in place of its source"
            click.confirm(f"Promote {self._target.label} {how} {self._source.label}?", abort=True, err=True)
        if self._force:
            self._take_what_arrived()
        else:
            paused = asyncio.run(_pause(self._source, self._timeout_s)) if self._pause else False
            try:
                self._drain_and_prove()
                self._stop()
            except BaseException:
                if paused:
                    asyncio.run(_unpause(self._source))
                raise
        self._coordinator.tasks.record_event(self._task, "target promoted" + " by force" * self._force, by=who())
        _say(f"{self._target.label} may be written to now")
        if self._pause and not self._force:
            _say(
                f"writes at {self._source.label} stay held for up to {duration(self._timeout_s)}: move the writers now"
            )

    def refuse_two_way(self) -> None:
        """A pair already replicates both ways."""
        if self.spec.two_way is not None:
            raise Refused(
                f"task {self._task} is one of a two-way pair with {self.spec.two_way.peer}: nothing is to be reversed; "
                "task promote drains and compares, then move the writers"
            )

    def replicate_back(self, access: Access, name: str | None) -> None:
        """Create the task in the other direction, and start it when both sides are known to be equal."""
        from node.config.models import SnapshotConfig
        from node.spec import write_spec

        old = self.spec
        name = name or f"{old.target.datacenter}-{old.source.datacenter}"
        proven = self._verify
        first = SnapshotConfig(mode="never") if proven else SnapshotConfig(stale_keys="delete")
        same = {"task": name, "source": old.target, "target": old.source, "snapshot": first, "direct": ()}
        spec = old.model_copy(update=same)
        tasks = access.coordinator.tasks
        self._replace(access, spec)
        if proven:
            stopped = {task for task, record in tasks.all().items() if record.desired == "stopped"}
            living = set(tasks.all()) - stopped
            for forgotten in asyncio.run(_forget_checkpoints(self._source, living)):
                _say(f"checkpoint of {forgotten} removed from {self._source.label}: both sides are equal")
        tasks.create(name, write_spec(spec), desired="running" if proven else "stopped", by=who())
        _say(f"task {name} created: {old.target.datacenter} to {old.source.datacenter}")
        if not proven:
            _say(
                f"start it when {self._source.label} is back: redis-canal task start {name}. "
                "What only that has is removed"
            )
            return
        self._wait(access, name, lambda view: view.state.state == "streaming", "streaming")
        later = spec.model_copy(update={"snapshot": old.snapshot.model_copy(update={"stale_keys": "delete"})})
        tasks.set_spec(name, write_spec(later), by=who())
        _say(f"task {name} is streaming, without a snapshot: both sides were equal")

    def _replace(self, access: Access, spec: TaskSpec) -> None:
        """Make room for the new task where a stopped one of its name and direction is left of an earlier turn."""
        from node.spec import read_spec

        old = access.coordinator.tasks.all().get(spec.task)
        if old is None:
            return
        known = read_spec(old)
        if old.desired != "stopped" or (known.source.url, known.target.url) != (spec.source.url, spec.target.url):
            raise Refused(f"there is a task {spec.task} already: name the new one with --as. Nothing was changed there")
        access.coordinator.tasks.delete(spec.task)
        _say(f"the stopped task {spec.task} of an earlier turn is replaced")

    # --- steps ---

    def _check(self) -> None:
        if self._record.desired != "running" and not self._force:
            raise Refused(f"task {self._task} is to be {self._record.desired}: start it, so that it can drain")
        if self._verify and (self.spec.filter != type(self.spec.filter)() or self.spec.map != type(self.spec.map)()):
            raise Refused(f"task {self._task} filters or renames, so its sides cannot be compared: use --no-verify")
        if self._force and asyncio.run(_answers(self._source)):
            _say(f"warning: {self._source.label} answers: without --force nothing would be lost")

    def _drain_and_prove(self) -> None:
        """Everything that the source has written is applied, and the two hold the same."""
        before = asyncio.run(_position(self._source))
        _say(f"source stands at {before.replid}:{before.offset}; draining")

        def drained(view: ShardView) -> bool:
            if view.state.replid and view.state.replid != before.replid:
                raise Refused(
                    f"the task follows {view.state.replid}, the source is {before.replid}: it failed over just now"
                )
            return view.state.applied_offset >= before.offset

        self._wait_here(drained, f"applied up to {before.offset}")
        if self._verify:
            self._compare()
        after = asyncio.run(_position(self._source))
        if after.replid != before.replid or after.offset - before.offset > _QUIET_BYTES:
            raise Refused(
                f"the source is still written to ({after.offset - before.offset} bytes meanwhile): stop the writers, "
                "or use --pause-writes. Nothing was changed"
            )
        self._wait_here(lambda view: view.state.applied_offset >= after.offset, f"applied up to {after.offset}")

    def _compare(self) -> None:
        from sync.verify import Options, compare

        report = asyncio.run(compare(self._source, self._target, Options(rounds=3, pause_s=0.5, keep=100)))
        if report.equal:
            _say(f"equal: {report.keys} keys compared")
            return
        for difference in report.differences[:10]:
            _say(f"  {difference}")
        raise Refused(
            f"the two sides differ in {len(report.differences)} keys{' and more' if report.overflow else ''}: mend "
            "them (redis-canal verify, dead-letters), or use --no-verify. Nothing was changed"
        )

    def _take_what_arrived(self) -> None:
        """Apply what is in the journal, stop, and say what is known of the rest."""
        if self._record.desired != "stopped":
            with_journal = [view for view in self._views() if view.holder is not None]
            if with_journal:
                self._wait_here(
                    lambda view: view.state.applied_offset >= view.state.source_offset, "its journal is applied"
                )
            else:
                _say(
                    "warning: no node holds the task; what is in its journal and not applied is lost "
                    "unless it is started"
                )
        self._stop()
        for view in self._views():
            state = view.state
            _say(f"shard {view.id.shard}: applied up to {state.replid}:{state.applied_offset}")
            left = state.source_offset - state.applied_offset
            if left > 0:
                _say(f"LOST unless the task is started again: {left} bytes that were received and not applied")
        _say(
            "LOST: what the source took and never sent. How much cannot be known while it is gone; usually the last "
            f"fraction of a second before the connection broke. The last news came {_ago(self._views())}"
        )

    def _stop(self) -> None:
        """Stop a one-way task; those of a pair go on, since they would not loop."""
        if self.spec.two_way is not None and not self._force:
            return
        self._coordinator.tasks.set_desired(self._task, "stopped", by=who())
        wait_until(
            lambda: True if all(view.holder is None for view in self._views()) else None,
            self._timeout_s,
            lambda: f"task {self._task} has not stopped",
        )
        _say(f"task {self._task} is stopped")

    def _views(self) -> list[ShardView]:
        return self._coordinator.tasks.shards(self._task)

    def _wait_here(self, done: Any, what: str) -> None:
        wait_until(
            lambda: True if all(done(view) for view in self._views()) else None,
            self._timeout_s,
            lambda: f"task {self._task} has not {what}: " + _how(self._views()),
        )

    def _wait(self, access: Access, task: str, done: Any, what: str) -> None:
        def views() -> list[ShardView]:
            return access.coordinator.tasks.shards(task)

        wait_until(
            lambda: True if views() and all(done(view) for view in views()) else None,
            self._timeout_s,
            lambda: f"task {task} is not {what}: " + _how(views()),
        )


def _how(views: list[ShardView]) -> str:
    return ", ".join(
        f"shard {v.id.shard} is {v.state.state} at {v.state.applied_offset} ({v.state.error or v.state.phase})"
        for v in views
    )


def _ago(views: list[ShardView]) -> str:
    newest = max((view.state.updated for view in views), default=0.0)
    return f"{duration(max(0.0, time.time() - newest))} ago" if newest else "never"


def _say(text: str) -> None:
    click.echo(text, err=True)


async def _position(endpoint: Endpoint) -> Side:
    """Where a server's stream stands. Raises Unreachable and the like."""
    from sync.horizon import replication_info

    found = await replication_info(endpoint)
    if found is None:
        raise Unreachable(f"{endpoint.label} does not tell its position (INFO replication); --force goes on without it")
    return Side(found[1], found[2])


async def _answers(endpoint: Endpoint) -> bool:
    from sync.horizon import replication_info

    return await replication_info(endpoint) is not None


async def _forget_checkpoints(endpoint: Endpoint, living: set[str]) -> list[str]:
    """Remove the checkpoints of links that are over from a server that becomes a target; their names.

    They would say that its new link's source is followed already. Those of tasks that are to run, and of connected
    links, stay.
    """
    from sync.tag import INDEX, PREFIX
    from sync.target.connection import connect

    conn = await connect(endpoint)
    try:
        clients = await conn.call(b"CLIENT", b"LIST")
        gone = []
        for key in await conn.call(b"SMEMBERS", INDEX):
            link = key[len(PREFIX) :]
            connected = b" name=redis-canal:" + link + b":" in clients
            if key.startswith(PREFIX) and not connected and link.partition(b"/")[0].decode() not in living:
                await conn.call(b"DEL", key)
                await conn.call(b"SREM", INDEX, key)
                gone.append(link.decode())
        return gone
    finally:
        conn.close()


async def _pause(endpoint: Endpoint, seconds: float) -> bool:
    """Hold all writes. Raises when the server cannot (before 6.2) or the user may not."""
    await _client_command(endpoint, b"PAUSE", b"%d" % int(seconds * 1000), b"WRITE")
    return True


async def _unpause(endpoint: Endpoint) -> None:
    await _client_command(endpoint, b"UNPAUSE")


async def _client_command(endpoint: Endpoint, *words: bytes) -> None:
    from sync.target.connection import connect

    conn = await connect(endpoint, who="source")
    try:
        await conn.call(b"CLIENT", *words)
    finally:
        conn.close()


__all__ = ["promote", "reverse"]
