"""``redis-canal task``: create, watch and control tasks. Requests return at once; ``--wait`` waits for the state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canal.errors import CanalError, Refused
from console.cli.access import Access, opened, wait_options, wait_until, where_options, who
from console.cli.config import report
from console.cli.conflicts import of_task as conflicts
from console.cli.dead_letters import of_task as dead_letters
from console.cli.options import Size
from console.cli.output import Format, output_option
from console.cli.task_turn import promote, reverse
from console.cli.task_verify import verify, wait_for_jobs

if TYPE_CHECKING:
    from node.coordination.coordinator import Coordinator
    from node.coordination.records import ShardView

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(name="task", short_help="Create, watch and control tasks.")
def command() -> None:
    """Create, watch and control tasks: the directions in which data is replicated."""


@command.command()
@click.option("-f", "--file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="task.yaml")
@click.option("--start", is_flag=True, help="Run it at once.")
@click.option("--uid", default="", metavar="UID", help="Go on as the task of this uid whose record was lost.")
@click.option(
    "--accept-evictions", is_flag=True, help="Two ways over a server that evicts keys: they go on both sides."
)
@where_options
@wait_options
def create(file: Path, start: bool, uid: str, accept_evictions: bool, wait: bool, timeout: float, **given: Any) -> int:
    """Create a task from FILE. It is not started unless --start is given."""
    from console.cli.task_create import check_credentials, fit_in, look_at_servers
    from node.config import ConfigProblems, load_task
    from node.spec import write_spec

    try:
        spec = load_task(file)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    with opened(given, everywhere=True) as access:
        check_credentials(spec, access)
        look_at_servers(spec, access, accept_evictions=accept_evictions)
        spec = fit_in(spec, access)
        access.coordinator.tasks.create(
            spec.task, write_spec(spec), desired="running" if start else "stopped", by=who(), uid=uid
        )
        if spec.direct:
            click.echo(f"task {spec.task}: writes made in {', '.join(spec.direct)} reach its target directly", err=True)
        click.echo(f"task {spec.task} created{', to be running' if start else ''}", err=True)
        _say_when_nobody_can(access.coordinator, start)
        if start and wait:
            _wait_running(access.coordinator, spec.task, timeout)
    return 0


@command.command(short_help="Replace a task's specification.")
@click.option("-f", "--file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="task.yaml")
@where_options
def update(file: Path, **given: Any) -> int:
    """Replace the specification of a task by that of FILE; its workers start anew with it."""
    from console.cli.task_create import check_credentials, fit_in
    from node.config import ConfigProblems, load_task
    from node.spec import read_spec, write_spec

    try:
        spec = load_task(file)
    except ConfigProblems as error:
        report(error)
        return error.exit_code
    with opened(given, everywhere=True) as access:
        old = access.coordinator.tasks.get(spec.task)
        if read_spec(old).source.datacenter != spec.source.datacenter:
            raise Refused(f"task {spec.task} has another source datacenter; delete it and create a new one")
        check_credentials(spec, access)
        spec = fit_in(spec, access)
        access.coordinator.tasks.set_spec(spec.task, write_spec(spec), by=who(), version=old.version)
    return 0


@command.command()
@click.argument("task")
@where_options
@wait_options
def start(task: str, wait: bool, timeout: float, **given: Any) -> int:
    """Run TASK; a failed one is tried again."""
    with opened(given) as access:
        _run_again(access.coordinator, task)
        _say_when_nobody_can(access.coordinator, True)
        if wait:
            _wait_running(access.coordinator, task, timeout)
    return 0


@command.command()
@click.argument("task")
@where_options
@wait_options
def resume(task: str, wait: bool, timeout: float, **given: Any) -> int:
    """Replay again after a pause."""
    with opened(given) as access:
        _run_again(access.coordinator, task)
        if wait:
            _wait_running(access.coordinator, task, timeout)
    return 0


def _run_again(coordinator: Coordinator, task: str) -> None:
    failed = any(view.state.state == "failed" for view in coordinator.tasks.shards(task))
    coordinator.tasks.set_desired(task, "running", by=who())
    if failed:
        coordinator.tasks.restart(task, by=who(), what="to be tried again")


@command.command()
@click.argument("task")
@where_options
@wait_options
def stop(task: str, wait: bool, timeout: float, **given: Any) -> int:
    """Stop TASK: capture and replay. What the source still holds in its backlog later is not lost."""
    with opened(given) as access:
        access.coordinator.tasks.set_desired(task, "stopped", by=who())
        if wait:
            _wait_stopped(access.coordinator, task, timeout)
    return 0


@command.command()
@click.argument("task")
@where_options
@wait_options
def pause(task: str, wait: bool, timeout: float, **given: Any) -> int:
    """Pause the replay of TASK; capture goes on into the journal."""
    with opened(given) as access:
        access.coordinator.tasks.set_desired(task, "paused", by=who())
        if wait:
            _wait_all(access.coordinator, task, lambda view: view.state.state == "paused", timeout)
    return 0


@command.command(short_help="Limit the replay of a task.")
@click.argument("task")
@click.option("--commands", type=click.FloatRange(0), default=0, metavar="N", help="A second at most; 0: no limit.")
@click.option("--bytes", "size", type=Size(), default=0, help="A second at most, such as 20m; 0: no limit.")
@click.option("--latency", type=click.FloatRange(0), default=0, metavar="MS", help="Back off above this; 0: never.")
@where_options
def throttle(task: str, commands: float, size: int, latency: float, **given: Any) -> int:
    """Limit the replay of TASK from now on, without a new start; without options the limits are taken away."""
    from node.config.models import ThrottleConfig
    from node.spec import read_spec, write_spec

    with opened(given) as access:
        old = access.coordinator.tasks.get(task)
        limits = ThrottleConfig(commands_per_second=commands, bytes_per_second=size, latency_ms=latency)
        spec = read_spec(old).model_copy(update={"throttle": limits})
        access.coordinator.tasks.set_spec(task, write_spec(spec), by=who(), version=old.version)
    return 0


@command.command()
@click.argument("task")
@yes_option
@click.option(
    "--confirm", is_flag=True, help="Allow it to remove much of the target; see the message that asks for it."
)
@click.option("--job-timeout", default=86400.0, show_default=True, metavar="SECONDS", help="End the job after so long.")
@where_options
@wait_options
def resync(task: str, yes: bool, confirm: bool, job_timeout: float, wait: bool, timeout: float, **given: Any) -> int:
    """Bring TASK's target up from a new snapshot. Prints the id of the job that does it."""
    from node.jobs import JobQueue

    with opened(given) as access:
        record = access.coordinator.tasks.get(task)
        if record.desired != "running":
            raise Refused(f"task {task} is to be {record.desired}; start it first, a resync needs its worker")
        if not yes:
            click.confirm(f"Apply a new snapshot of the whole source to the target of {task}?", abort=True, err=True)
        queue = JobQueue(access.coordinator.store)
        jobs = [
            queue.put("resync", task, shard=shard.shard, by=who(), timeout_s=job_timeout, confirm=confirm)
            for shard in access.coordinator.tasks.shard_ids(task)
        ]
        for job in jobs:
            click.echo(job.id)
        access.coordinator.tasks.record_event(task, "full resync asked for", by=who())
        if not wait:
            return 0
        wait_for_jobs(queue, jobs, timeout)
    return 0


@command.command(short_help="Stop a task and forget it.")
@click.argument("task")
@yes_option
@where_options
@click.option("--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, metavar="SECONDS")
def delete(task: str, yes: bool, timeout: float, **given: Any) -> int:
    """Stop TASK and forget it, its positions and history; journals stay in the nodes' state directories."""
    with opened(given) as access:
        access.coordinator.tasks.get(task)
        if not yes:
            click.confirm(f"Delete task {task}?", abort=True, err=True)
        access.coordinator.tasks.set_desired(task, "stopped", by=who())
        _wait_stopped(access.coordinator, task, timeout)
        access.coordinator.tasks.delete(task)
    return 0


@command.command(name="list")
@where_options
@output_option
def list_tasks(output: Format, **given: Any) -> int:
    """List the tasks with their state and lag."""
    from console.cli.task_show import print_list

    with opened(given) as access:
        print_list(access.coordinator, output)
    return 0


@command.command(short_help="Show everything about a task.")
@click.argument("task")
@where_options
@output_option
def describe(task: str, output: Format, **given: Any) -> int:
    """Show everything about TASK: specification, shards with node, state, positions and lag, history."""
    from console.cli.task_show import print_description

    with opened(given) as access:
        print_description(access.coordinator, task, output)
    return 0


@command.command(short_help="Show shards live.")
@click.argument("task", required=False)
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, metavar="SECONDS")
@where_options
def watch(task: str | None, interval: float, **given: Any) -> int:
    """Show the shards of TASK (or of all tasks) live, until interrupted; without a terminal, one line per change."""
    from console.cli.task_show import watch_shards

    with opened(given) as access:
        if task is not None:
            access.coordinator.tasks.get(task)
        watch_shards(access.coordinator, task, interval)
    return 0


@command.command(short_help="Print workers' newest log lines.")
@click.argument("task")
@click.option("-n", "--lines", default=100, show_default=True, help="How many of the newest.")
@where_options
@output_option
def logs(task: str, lines: int, output: Format, **given: Any) -> int:
    """Print the newest log lines of TASK's workers, as the nodes' HTTP has them, and its history."""
    from console.cli.task_show import print_logs

    with opened(given) as access:
        access.coordinator.tasks.get(task)
        print_logs(access.coordinator, task, lines, output)
    return 0


@command.command()
@click.argument("task", required=False)
@where_options
@output_option
def jobs(task: str | None, output: Format, **given: Any) -> int:
    """List jobs: resyncs and comparisons, with state and result."""
    from console.cli.task_show import print_jobs

    with opened(given) as access:
        print_jobs(access.coordinator, task, output)
    return 0


@command.command(short_help="Cancel a job.")
@click.argument("job")
@where_options
def cancel(job: str, **given: Any) -> int:
    """Cancel a job: a queued one at once, a running one as soon as its worker has ended it."""
    from node.jobs import JobQueue

    with opened(given) as access:
        state = JobQueue(access.coordinator.store).cancel(job).state
        click.echo(f"job {job} {'is cancelled' if state == 'cancelled' else 'is asked to end'}", err=True)
    return 0


def _say_when_nobody_can(coordinator: Coordinator, wanted: bool) -> None:
    facts = coordinator.facts()
    room = sum(record.max_shards for name, record in facts.nodes.items() if name not in facts.draining)
    if wanted and len(facts.wanted) > room:
        click.echo(f"{len(facts.nodes)} nodes are alive with room for {room} shards: the task waits for one", err=True)


def _wait_running(coordinator: Coordinator, task: str, timeout_s: float) -> None:
    _wait_all(coordinator, task, lambda view: view.state.state == "streaming", timeout_s)


def _wait_stopped(coordinator: Coordinator, task: str, timeout_s: float) -> None:
    wait_until(
        lambda: True if all(view.holder is None for view in coordinator.tasks.shards(task)) else None,
        timeout_s,
        lambda: f"task {task} still runs on " + ", ".join(str(view.holder) for view in coordinator.tasks.shards(task)),
    )


def _wait_all(coordinator: Coordinator, task: str, wanted: Any, timeout_s: float) -> None:
    """Wait until every shard is as wanted in its holder's hands; a failed shard ends the waiting."""

    def done() -> bool | None:
        views: list[ShardView] = coordinator.tasks.shards(task)
        record = coordinator.tasks.get(task)
        for view in views:
            if view.state.state == "failed" and view.holder and view.state.spec_version >= record.version:
                raise CanalError(f"task {task}, shard {view.id.shard}: {view.state.error}")
        return True if views and all(view.holder and wanted(view) for view in views) else None

    def how() -> str:
        return f"task {task} is " + ", ".join(
            f"{view.state.state} ({view.state.error or view.state.phase or 'no node has taken it'})"
            for view in coordinator.tasks.shards(task)
        )

    wait_until(done, timeout_s, how)


command.add_command(conflicts)
command.add_command(dead_letters)
command.add_command(promote)
command.add_command(reverse)
command.add_command(verify)

__all__ = ["Access", "command"]
