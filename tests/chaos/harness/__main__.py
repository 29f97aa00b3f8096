"""`scripts/chaos`: many runs, and a table of what happened: the sums by kind, and as JSON what each run did.

Tables of several processes are added up by ``--sum FILE…``, which runs nothing.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.harness.faults import KINDS
from tests.chaos.harness.run import Report, run
from tests.chaos.harness.world import TOPOLOGIES

RUN_S = 60.0


def main() -> int:
    faulthandler.register(signal.SIGUSR1)
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="start new runs for so long; without: one run")
    parser.add_argument("--seconds", type=float, default=RUN_S, help="of faults in each run")
    parser.add_argument("--seed", default="", help="of the first run; the next ones add /1, /2 …; default: the time")
    parser.add_argument("--topology", choices=TOPOLOGIES, action="append", help="several may be given")
    parser.add_argument(
        "--kind", choices=sorted(KINDS), action="append", default=[], metavar="FAULT", help="only these"
    )
    parser.add_argument("--every", type=float, default=1.2, metavar="SECONDS", help="between two faults, on average")
    parser.add_argument("--rate", type=float, default=250.0, help="modelled commands a second in each datacenter")
    parser.add_argument("--same-keys", action="store_true", help="two ways: both sides write some of the same keys")
    parser.add_argument("--keep-going", action="store_true", help="go on with other seeds after a failure")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and state of failed runs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what each run did, after each run")
    parser.add_argument("--sum", type=Path, nargs="+", default=[], metavar="FILE", help="only add up such files")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell each fault")
    given = parser.parse_args()
    if given.sum:
        return told([Report.read(one) for file in given.sum for one in json.loads(file.read_text())])
    seed, deadline = given.seed or str(int(time.time())), time.monotonic() + given.minutes * 60
    topologies = given.topology or list(TOPOLOGIES)
    reports: list[Report] = []
    while not reports or time.monotonic() < deadline:
        number = len(reports)
        topology = topologies[number % len(topologies)]
        report = Report(topology, f"{seed}/{number}" if number else seed)
        reports.append(report)
        try:
            run(
                report,
                given.seconds,
                every_s=given.every,
                rate=given.rate,
                kinds=tuple(given.kind),
                same_keys=given.same_keys,
                keep=given.keep,
                say=(lambda _: None) if given.quiet else lambda text: print(text, flush=True),
            )
            print(report, flush=True)
        except AssertionError as error:
            print(f"FAILED {error}", flush=True)
        if given.json is not None:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps([vars(one) for one in reports], indent=1) + "\n")
        if report.error and not given.keep_going:
            break
    return told(reports)


def told(reports: list[Report]) -> int:
    """Print the table; the exit code."""
    print(table(reports))
    return 1 if any(report.error for report in reports) else 0


def table(reports: list[Report]) -> str:
    """The sums over all runs."""
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    lines = [f"{count:6} {name}" for name, count in faults.most_common()]
    for topology in dict.fromkeys(report.topology for report in reports):
        these = [report for report in reports if report.topology == topology]
        lines.append(
            f"{topology}: {len(these)} runs, {sum(report.faulty_s for report in these) / 60:.0f} minutes of faults,"
            f" {sum(report.commands for report in these)} commands,"
            f" {sum(report.faults.total() for report in these)} faults,"
            f" {sum(bool(report.error) for report in these)} failures"
        )
    lines.append(
        f"{len(reports)} runs, {sum(report.faulty_s for report in reports) / 60:.0f} minutes of faults,"
        f" {sum(report.commands for report in reports)} commands, {faults.total()} faults of {len(faults)} kinds,"
        f" {sum(bool(report.error) for report in reports)} failures; peak memory of a process"
        f" {max(report.peak_mb for report in reports):.0f} MiB"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
