"""Promoting a task's target, and turning a task round: planned, with proof that both sides are equal, or by force.

Used by the command line and by the console. Everything here blocks and may take minutes; what it finds it says on the
way, line by line. A `CanalError` ends it with the task left as it was, unless a line said otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from canal.errors import ConfigError, Refused
from console.cli.access import wait_until
from console.cli.output import duration
from console.reversal import reversed_spec
from console.turnside import answers, forget_checkpoints, hold_writes, release_writes, streams

if TYPE_CHECKING:
    from node.config.models import Credential, TaskSpec
    from node.coordination.coordinator import Coordinator
    from node.coordination.records import ShardView, TaskRecord

_QUIET_BYTES: Final = 200
"""A source that nobody writes to still sends PINGs and asks for acknowledgements: less than this in a comparison."""


@dataclass(frozen=True, slots=True)
class How:
    """``pause_writes``: hold them at the source until it is done; ``force``: the source is gone; ``verify``: compare
    the two sides (never with ``force``). ``by``: who asks, for the history.
    """

    pause_writes: bool = False
    force: bool = False
    verify: bool = True
    timeout_s: float = 300.0
    by: str = ""


class Turn:
    """One promotion, step by step; each step says what it found."""

    def __init__(
        self,
        coordinator: Coordinator,
        credentials: Mapping[str, Credential],
        task: str,
        how: How,
        say: Callable[[str], None],
    ) -> None:
        from node.config.secrets import resolve
        from node.spec import read_spec

        self._coordinator, self._task, self._how, self._say = coordinator, task, how, say
        self._record: TaskRecord = coordinator.tasks.get(task)
        self.spec: TaskSpec = read_spec(self._record)
        self._source = resolve("source", self.spec.source, credentials)
        self._target = resolve("target", self.spec.target, credentials)
        self._verify = how.verify and not how.force
        self._held_until = 0.0  # monotonic: until then the source takes no writes, those of a link among them
        if how.force and how.pause_writes:
            raise ConfigError("--force is for a source that is gone, --pause-writes for one that answers: give one")

    @property
    def question(self) -> str:
        """What a person should say yes to first."""
        how = "WITHOUT its source" if self._how.force else "in place of its source"
        return f"Promote {self._target.label} {how} {self._source.label}?"

    def promote(self) -> None:
        """Drain, prove, stop. Raises `Refused` or `CanalError` with the task left as it was."""
        self._check()
        how = self._how
        if how.force:
            self._take_what_arrived()
        else:
            paused = how.pause_writes
            if paused:
                asyncio.run(hold_writes(self._source, how.timeout_s))
                self._held_until = time.monotonic() + how.timeout_s
            try:
                self._drain_and_prove()
                self._stop()
            except BaseException:
                if paused:
                    asyncio.run(release_writes(self._source))
                raise
        self._coordinator.tasks.record_event(self._task, "target promoted" + " by force" * how.force, by=how.by)
        self._say(f"{self._target.label} may be written to now")
        if how.pause_writes:
            held = duration(how.timeout_s)
            self._say(
                f"writes at {self._source.label} stay held for up to {held}: move the writers now, "
                "then release the rest with CLIENT UNPAUSE"
            )

    def refuse_back(self, there: Coordinator, name: str | None) -> None:
        """Raise `Refused` for all that would keep `replicate_back` from its work after the target was promoted."""
        if self.spec.two_way is not None:
            raise Refused(
                f"task {self._task} is one of a two-way pair with {self.spec.two_way.peer}: nothing is to be reversed; "
                "task promote drains and compares, then move the writers"
            )
        self._in_the_way(there, reversed_spec(self.spec, self._back_name(name)))

    def replicate_back(self, there: Coordinator, name: str | None) -> None:
        """Create the task in the other direction at the coordinator of the target's datacenter, and start it when both
        sides are known to be equal.
        """
        from node.config.models import SnapshotConfig
        from node.spec import write_spec

        old, proven, tasks, name = self.spec, self._verify, there.tasks, self._back_name(name)
        # between clusters each slot has a record of where its link stands: those are made by a snapshot
        joins = proven and not (self._source.clustered or self._target.clustered)
        first = SnapshotConfig(mode="never") if joins else SnapshotConfig(stale_keys="delete")
        spec = reversed_spec(old, name).model_copy(update={"snapshot": first})
        if self._in_the_way(there, spec):
            tasks.delete(name)
            self._say(f"the stopped task {name} of an earlier turn is replaced")
        if joins:
            self._forget_what_is_over(there)
        tasks.create(name, write_spec(spec), desired="running" if proven else "stopped", by=self._how.by)
        self._say(f"task {name} created: {old.target.datacenter} to {old.source.datacenter}")
        if not proven:
            self._say(
                f"start it when {self._source.label} is back: redis-canal task start {name}. "
                "What only that has is removed"
            )
            return
        self._wait(there, name, lambda view: view.state.state == "streaming", "streaming")
        if not joins:
            self._say(f"task {name} is streaming, after a snapshot of {self._target.label}")
            return
        later = spec.model_copy(update={"snapshot": old.snapshot.model_copy(update={"stale_keys": "delete"})})
        tasks.set_spec(name, write_spec(later), by=self._how.by)
        self._say(f"task {name} is streaming, without a snapshot: both sides were equal")

    def _back_name(self, name: str | None) -> str:
        return name or f"{self.spec.target.datacenter}-{self.spec.source.datacenter}"

    def _in_the_way(self, there: Coordinator, spec: TaskSpec) -> bool:
        """True when a stopped task of that name and direction is left of an earlier turn; `Refused` for any other."""
        from node.spec import read_spec

        old = there.tasks.all().get(spec.task)
        if old is None:
            return False
        known = read_spec(old)
        if old.desired != "stopped" or (known.source.url, known.target.url) != (spec.source.url, spec.target.url):
            raise Refused(f"there is a task {spec.task} already: name the new one with --as. Nothing was changed there")
        return True

    def _forget_what_is_over(self, there: Coordinator) -> None:
        """Remove the checkpoints of links that are over from the server that becomes a target."""
        living = {task for task, record in there.tasks.all().items() if record.desired != "stopped"}
        for forgotten in asyncio.run(forget_checkpoints(self._source, living)):
            self._say(f"checkpoint of {forgotten} removed from {self._source.label}: both sides are equal")

    # --- steps ---

    def _check(self) -> None:
        if self._record.desired != "running" and not self._how.force:
            raise Refused(f"task {self._task} is to be {self._record.desired}: start it, so that it can drain")
        if self._verify and self.spec.map.hook:
            raise Refused(f"task {self._task} changes values by a hook, so its sides differ: use --no-verify")
        if self._how.force and asyncio.run(answers(self._source)):
            self._say(f"warning: {self._source.label} answers: without --force nothing would be lost")

    def _drain_and_prove(self) -> None:
        """Everything that the source has written is applied, and the two hold the same."""
        before = asyncio.run(streams(self._source))
        self._say(f"source stands at {_places(before)}; draining")
        self._wait_drained(before)
        if self._verify:
            self._compare()
        after = asyncio.run(streams(self._source))
        if after.keys() != before.keys():
            raise Refused("the source failed over meanwhile. Nothing was changed")
        written = {replid: after[replid] - offset for replid, offset in before.items()}
        if max(written.values()) > _QUIET_BYTES:
            raise Refused(
                f"the source is still written to ({sum(written.values())} bytes meanwhile): stop the writers, "
                "or use --pause-writes. Nothing was changed"
            )
        self._wait_drained(after)

    def _wait_drained(self, upto: dict[str, int]) -> None:
        """Until all that stood in these streams is applied, each by the shard that follows it."""

        def drained(view: ShardView) -> bool:
            replid = view.state.replid
            if replid and replid not in upto:
                raise Refused(f"the task follows {replid}, the source is {', '.join(upto)}: it failed over just now")
            return bool(replid) and view.state.applied_offset >= upto[replid]

        def followed(views: list[ShardView]) -> bool:
            return {view.state.replid for view in views} == upto.keys()

        self._wait_here(drained, f"applied up to {_places(upto)}", followed)

    def _compare(self) -> None:
        from sync.transform import Transform
        from sync.verify import Options, TaskMapping, compare

        options = Options(rounds=3, pause_s=0.5, keep=100)
        mapping = TaskMapping(Transform(self.spec.transform))
        held = self._how.pause_writes
        report = asyncio.run(compare(self._source, self._target, options, mapping=mapping, held=held))
        if report.unsettled:
            raise Refused(
                f"{report.unsettled} keys change all the time, so that they cannot be compared: stop the writers, "
                "or use --pause-writes. Nothing was changed"
            )
        if report.equal:
            self._say(f"equal: {report.keys} keys compared")
            return
        for difference in report.differences[:10]:
            self._say(f"  {difference}")
        raise Refused(
            f"the two sides differ in {report.different} keys: mend them"
            " (redis-canal verify, dead-letters), or use --no-verify. Nothing was changed"
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
                self._say(
                    "warning: no node holds the task; what is in its journal and not applied is lost "
                    "unless it is started"
                )
        self._stop()
        for view in self._views():
            state = view.state
            self._say(f"shard {view.id.shard}: applied up to {state.replid}:{state.applied_offset}")
            left = state.source_offset - state.applied_offset
            if left > 0:
                self._say(f"LOST unless the task is started again: {left} bytes that were received and not applied")
        self._say(
            "LOST: what the source took and never sent. How much cannot be known while it is gone; usually the last "
            f"fraction of a second before the connection broke. The last news came {_ago(self._views())}"
        )

    def _stop(self) -> None:
        """Stop a one-way task; those of a pair go on, since they would not loop."""
        if self.spec.two_way is not None and not self._how.force:
            return
        self._coordinator.tasks.set_desired(self._task, "stopped", by=self._how.by)
        wait_until(
            lambda: True if all(view.holder is None for view in self._views()) else None,
            self._how.timeout_s,
            lambda: f"task {self._task} has not stopped",
        )
        self._say(f"task {self._task} is stopped")

    def _views(self) -> list[ShardView]:
        return self._coordinator.tasks.shards(self._task)

    def _wait_here(self, done: Any, what: str, together: Callable[[list[ShardView]], bool] = bool) -> None:
        wait_until(
            lambda: True if all(done(view) for view in self._views()) and together(self._views()) else None,
            self._how.timeout_s,
            lambda: f"task {self._task} has not {what}: " + _how(self._views()),
        )

    def _wait(self, there: Coordinator, task: str, done: Any, what: str) -> None:
        def views() -> list[ShardView]:
            return there.tasks.shards(task)

        wait_until(
            lambda: True if views() and all(done(view) for view in views()) else None,
            self._how.timeout_s + max(0.0, self._held_until - time.monotonic()),
            lambda: f"task {task} is not {what}: " + _how(views()),
        )


def _places(streams: dict[str, int]) -> str:
    return ", ".join(f"{replid}:{offset}" for replid, offset in streams.items())


def _how(views: list[ShardView]) -> str:
    return ", ".join(
        f"shard {v.id.shard} is {v.state.state} at {v.state.applied_offset} ({v.state.error or v.state.phase})"
        for v in views
    )


def _ago(views: list[ShardView]) -> str:
    newest = max((view.state.updated for view in views), default=0.0)
    return f"{duration(max(0.0, time.time() - newest))} ago" if newest else "never"
