"""``redis-canal task verify``: compare, and repair, the two sides of a task as a job of the node that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from canal.errors import CanalError, Refused
from console.cli.access import opened, wait_options, wait_until, where_options, who
from console.cli.output import Format, emit, emit_document, output_option
from console.cli.verify import comparison_options, options_of

if TYPE_CHECKING:
    from node.coordination.coordinator import Coordinator
    from node.jobs import Job, JobQueue


@click.command()
@click.argument("task")
@comparison_options
@click.option("--repair", is_flag=True, help="Afterwards give both sides the same, while writes go on.")
@click.option(
    "--by",
    type=click.Choice(["auto", "echo", "fetch", "write"]),
    default="auto",
    show_default=True,
    help="Have each key's home write it again in place, have the link fetch it, or write to the target.",
)
@click.option("--yes", is_flag=True, help="Repair without asking.")
@click.option("--job-timeout", default=86400.0, show_default=True, metavar="SECONDS", help="End the job after so long.")
@where_options
@wait_options
@output_option
def verify(task: str, wait: bool, timeout: float, output: str, job_timeout: float, **given: Any) -> int:
    """Compare both sides of TASK. Prints the id of the job; with --wait the result, exit code 1 when they differ.

    Filters, database map and prefixes are minded. Works while writes go on; see redis-canal verify.
    """
    from node.jobs import JobQueue

    options_of(given)  # mistakes are said now
    options = job_options(given)
    with opened(given) as access:
        jobs = ask(access.coordinator, task, given["repair"], options, given["yes"], job_timeout)
        queue = JobQueue(access.coordinator.store)
        if not wait:
            for job in jobs:
                click.echo(job.id)
            return 0
        ended = wait_for_jobs(queue, jobs, timeout)
    return _print(ended, cast(Format, output))


def job_options(given: dict[str, Any]) -> dict[str, Any]:
    """The command's options as a job keeps them: only what was given."""
    found = {
        "databases": list(given["databases"]) or None,
        "pattern": given["pattern"],
        "sample": given["sample"],
        "ttl_tolerance_ms": given["ttl_tolerance"],
        "rounds": given["rounds"],
        "pause_s": given["pause"],
        "rate": given["rate"],
        "keep": given["limit"],
        "means": given["by"],
    }
    return {name: value for name, value in found.items() if value is not None}


def ask(
    coordinator: Coordinator, task: str, repair: bool, options: dict[str, Any], yes: bool, timeout_s: float
) -> list[Job]:
    """Queue the job, one for all shards. Raises Refused for a task that does not run."""
    from node.jobs import JobQueue, comparing_shard
    from node.spec import read_spec

    record = coordinator.tasks.get(task)
    if record.desired == "stopped":
        raise Refused(f"task {task} is to be stopped; start it first, a node that runs it does the comparison")
    if repair and not yes:
        spec = read_spec(record)
        wins = "each key's home wins" if spec.two_way else f"{spec.source.datacenter} wins"
        click.echo(
            f"Keys that differ are written again in place where they are at home ({wins}), or, where that is not "
            f"permitted, their state is put in place at the other side. No other key is touched.",
            err=True,
        )
        click.confirm(f"Compare and repair both sides of {task}?", abort=True, err=True)
    queue = JobQueue(coordinator.store)
    shard = comparing_shard(task, coordinator.tasks.shard_ids(task))
    coordinator.tasks.record_event(task, f"{'repair' if repair else 'comparison'} asked for", by=who())
    kind: Any = "repair" if repair else "verify"
    return [queue.put(kind, task, shard=shard, by=who(), timeout_s=timeout_s, **options)]


def wait_for_jobs(queue: JobQueue, jobs: list[Job], timeout_s: float) -> list[Job]:
    """Wait for their ends. Raises CanalError for one that did not succeed."""

    def ended() -> list[Job] | None:
        now = [queue.get(job.id) for job in jobs]
        return now if all(job.over for job in now) else None

    def how() -> str:
        return ", ".join(f"{job.state} {job.progress}".rstrip() for job in (queue.get(job.id) for job in jobs))

    done = wait_until(ended, timeout_s, how)
    for job in done:
        if job.state != "succeeded":
            why = f": {job.error}" if job.error else ""
            raise CanalError(f"{job.kind} of {job.task}/{job.shard}: {job.state}{why}")
    return done


def _print(jobs: list[Job], output: Format) -> int:
    if output in ("json", "yaml"):
        emit_document([{"job": job.id, "shard": job.shard, **job.result} for job in jobs], output)
    else:
        rows = [one for job in jobs for one in job.result["differences"]]
        if rows:
            emit(rows, ["kind", "db", "key", "detail"], output)
        for job in jobs:
            click.echo(f"{job.task}/{job.shard}: {job.progress}", err=True)
    return 0 if all(job.result["equal"] for job in jobs) else 1
