"""The process that does a comparison or a repair for a node, since that keeps a processor busy.

It is sent ``{"compare": …}`` and sends ``{"progress": words}``, ``{"saved": …}`` and at the end ``{"progress": words,
"report": …}`` or ``{"error": …}``. When its socket closes it stops at once: the job was cancelled, ran out of time, or
belongs to another node now.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import time
from collections.abc import Callable
from typing import Any, Final

from canal.errors import CanalError, ConfigError
from node import frames
from node.config.models import TaskSpec
from sync.config import LinkConfig
from sync.homes import Homes, Place
from sync.letters import ask_refetch
from sync.transform import Transform
from sync.verify import Options, Report, TaskMapping
from sync.verify import compare as compare_sides
from sync.verify.repair import Remedy, Where, choose_means, repair

_TELL_S: Final = 0.5
_SAVED_BYTES: Final = 256 << 10
RESULT_DIFFERENCES: Final = 500
"""So many stand in a job's record; a coordinator is no place for more."""
KEPT_KEY: Final = 200
OPTIONS: Final = frozenset(
    {"databases", "pattern", "sample", "ttl_tolerance_ms", "rounds", "pause_s", "rate", "keep", "patience", "page"}
)
"""What a job's options may say of a comparison; ``means`` is the only other."""


def options_of(given: dict[str, Any]) -> Options:
    """A job's options as a comparison wants them. Raises ValueError or TypeError for what is none."""
    words = {name: value for name, value in given.items() if name in OPTIONS and value is not None}
    if isinstance(words.get("pattern"), str):
        words["pattern"] = words["pattern"].encode()
    if "databases" in words:
        words["databases"] = tuple(int(db) for db in words["databases"]) or None
    return Options(**words)


async def compare(start: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The life of that process; returns its exit code."""
    working = asyncio.create_task(_work(start, writer))
    gone = asyncio.create_task(frames.read(reader))  # nothing is sent: it ends when the daemon closes
    await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return 0
    gone.cancel()
    error = working.exception()
    if error is not None:
        text = str(error) if isinstance(error, CanalError) else f"{type(error).__name__}: {error}"
        writer.write(frames.encode({"error": text}))
    else:
        progress, report = working.result()
        writer.write(frames.encode({"progress": progress, "report": report}))
    await writer.drain()
    writer.close()
    return 0


async def _work(start: dict[str, Any], writer: asyncio.StreamWriter) -> tuple[str, dict[str, Any]]:
    config: LinkConfig
    spec: TaskSpec
    config, spec = pickle.loads(base64.b64decode(start["packed"]))
    options = options_of(start["options"])
    mapping = TaskMapping(Transform(config.transform))
    teller = _Teller(writer)
    source = config.source.whole  # the job is one for the whole task, whichever shard's node does it
    report = await compare_sides(
        source,
        config.target,
        options,
        teller.progress,
        mapping=mapping,
        save=teller.save,
        resume=start["saved"] or None,
    )
    if start["kind"] == "repair" and not report.equal:
        teller.doing = "repairing"
        home = home_of(spec)
        both = any(home((one.db, one.key)) == "second" for one in report.differences)
        means = start["options"].get("means", "auto")
        if means == "auto":
            chosen = await choose_means(source, config.target, both)
            means = "fetch" if chosen == "write" else chosen  # the link is there: it has fence and checkpoint
        if means != "echo" and source is not config.source:
            raise ConfigError(
                f"the source {source.label} is a cluster, whose keys come by several links: it is repaired by echo, "
                "for which the user may write there, and by nothing else; or ask for redis-canal task resync"
            )
        remedy = Remedy(means, home, progress=teller.progress, mapping=mapping)
        remedy.fetch = lambda places: ask_refetch(config.state_dir, places)
        report = await repair(source, config.target, options, report, remedy)
        return words_of(report, over=True), {**result_of(report), "means": means}
    return words_of(report, over=True), result_of(report)


def home_of(spec: TaskSpec) -> Callable[[Place], Where]:
    """Which side's state of a key wins: one way the source's, two ways by the task's policy."""
    if spec.two_way is None:
        return lambda place: "first"
    ours, theirs = spec.source.datacenter, spec.target.datacenter
    homes = Homes(spec.two_way.home, {ours, theirs, *spec.direct, *spec.two_way.datacenters})

    def home(place: Place) -> Where:
        ranking = [name for name in homes.ranking(place) if name in (ours, theirs)]
        return "first" if ranking[0] == ours else "second"

    return home


class _Teller:
    """Tells the daemon how far it is, not too often."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.doing = "comparing"
        self._writer = writer
        self._told = 0.0

    def progress(self, report: Report) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_S:
            self._told = now
            self._writer.write(frames.encode({"progress": f"{self.doing}: {words_of(report)}"}))

    def save(self, saved: dict[str, Any]) -> None:
        if len(json.dumps(saved)) <= _SAVED_BYTES:
            self._writer.write(frames.encode({"saved": saved}))


def words_of(report: Report, over: bool = False) -> str:
    """A job's progress, or, when it is ``over``, its outcome, in a few words."""
    words = f"{report.keys:,} keys"
    done = report.first_keys + report.second_keys
    if report.total and not over:  # where a cluster's records are counted too, not all is compared in the end
        words += f", {min(100, 100 * done // report.total)} %"
    words += f", {report.different:,} differ"
    if report.repaired:
        words += f", {report.repaired:,} repaired"
    return words


def result_of(report: Report) -> dict[str, Any]:
    """What stands in a job's record."""
    out = report.as_dict()
    out["differences"] = [
        {**one, "key": one["key"][:KEPT_KEY], "detail": one["detail"][:KEPT_KEY]}
        for one in out["differences"][:RESULT_DIFFERENCES]
    ]
    out["overflow"] = report.different > len(out["differences"])
    return out
